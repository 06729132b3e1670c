"""Brokers' own messages about orders: verified, and then a hint to read the account's book, never a fact."""

import asyncio
from hmac import compare_digest

import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import NotFoundError, SaudaError
from backend.models import BrokerAccount
from backend.services.broker_credential_service import credentials_of
from backend.services.broker_login_service import BrokerLogins
from backend.services.context import Trading
from backend.services.reconcile_service import reconcile

log = structlog.get_logger()

PURPOSE = "order-postback"
WORD_LENGTH = 32
GAP_S = 0.5
"""Between two readings of books: a burst of messages is one reason to look, not many."""
WAITING_MAX = 10_000


class OrderHints:
    """Accounts of which a broker said that something happened; their books are read soon, side by side with the
    reconciliation that runs anyway."""

    def __init__(self, desk: Trading) -> None:
        self._desk = desk
        self._waiting: set[int] = set()
        self._something = asyncio.Event()

    def add(self, account_id: int) -> None:
        """Have the account's book read; beyond WAITING_MAX accounts the next regular reading has to do."""
        if len(self._waiting) < WAITING_MAX:
            self._waiting.add(account_id)
            self._something.set()

    async def run(self) -> None:
        """Read until cancelled; what goes wrong is left to the next reconciliation."""
        while True:
            await self._something.wait()
            self._something.clear()
            accounts, self._waiting = self._waiting, set()
            try:
                await reconcile(self._desk, accounts)
            except (SaudaError, SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("hint_not_followed", accounts=len(accounts), error=repr(error))
            except Exception:
                log.exception("hints_crashed", accounts=len(accounts))  # the next one is followed all the same
            await asyncio.sleep(GAP_S)


def word_of(logins: BrokerLogins, account_id: int) -> str:
    """The last part of the address at which an account's broker delivers its messages: known to it and to the user."""
    return logins.security.keyed_hash(PURPOSE, str(account_id)).hex()[:WORD_LENGTH]


async def require_genuine(logins: BrokerLogins, broker: str, account_id: int, word: str, body: bytes) -> None:
    """Let only the broker itself be heard: by the address, and by its signature where it signs.

    Raises:
        NotFoundError: the address is not one of ours, or the message is not signed by the broker.
    """
    adapter = logins.adapters.get(broker)
    if adapter is None or not compare_digest(word, word_of(logins, account_id)):
        raise NotFoundError("Nothing is delivered here.")
    async with logins.sessions() as session:
        account = await session.get(BrokerAccount, account_id)
        credentials = await credentials_of(session, logins.vault, account) if account is not None else {}
    if account is None or account.broker != broker or not adapter.is_genuine(body, credentials):
        raise NotFoundError("Nothing is delivered here.")
