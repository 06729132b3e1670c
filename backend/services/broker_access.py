"""Opening accounts at real brokers for the trader: token and address of each, kept for moments, and counted calls."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import structlog
from sqlalchemy import select, text

from backend.brokers.adapter import Access, CallKind, Rate
from backend.brokers.base import BrokerUnavailableError, RateLimitedError, SessionExpiredError
from backend.brokers.credential_fields import CredentialField
from backend.db import Sessions
from backend.domain.calendar import IST
from backend.errors import SaudaError
from backend.models import BrokerAccount, BrokerSession
from backend.services.broker_credential_service import credentials_of, token_of
from backend.services.broker_login_service import session_ended
from backend.services.compliance_service import record_of
from backend.services.readiness_service import tell_of_end
from backend.vault import Vault, VaultError

log = structlog.get_logger()

KEPT_S = 5.0
"""How long an opened account is used without a look at the database: a logout or revocation works within this time."""
BROKER_TIMEOUT_S = 10.0
WAIT_STEP_S = 0.05
CANCELS_KEEP = 5
"""One in so many calls of each span is left to cancels."""

DIRECT, BIND = "direct", "bind:"


class Egress:
    """HTTP clients by the public address that they leave from.

    `routes` maps an address to `direct` (the machine's own), `bind:ADDRESS` (one of several of the machine) or the URL
    of a proxy there.

    Raises:
        ValueError: a route is none of these.
    """

    def __init__(self, routes: Mapping[str, str]) -> None:
        for address, route in routes.items():
            if route != DIRECT and not route.startswith((BIND, "http://", "https://")):
                raise ValueError(f"EGRESS_ROUTES: {address} is {route!r}, not direct, bind:ADDRESS or a proxy's URL")
        self._routes = dict(routes)
        self._clients: dict[str, httpx.AsyncClient] = {}

    def client(self, address: str) -> tuple[httpx.AsyncClient, str]:
        """The client that leaves from `address`, and that address; where no route is set for it, one that leaves from
        wherever, good for reads alone, and ""."""
        known = address if address in self._routes else ""
        if known not in self._clients:
            self._clients[known] = _client(self._routes.get(known, DIRECT))
        return self._clients[known], known

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))


def _client(route: str) -> httpx.AsyncClient:
    # A broker's redirect is followed nowhere, and the environment's own proxies are nobody's approved address. Not over
    # aiohttp: it sends a PUT or DELETE a second time where a connection breaks.
    options: dict[str, Any] = {"timeout": BROKER_TIMEOUT_S, "follow_redirects": False, "trust_env": False}
    if route == DIRECT:
        return httpx.AsyncClient(**options)
    if route.startswith(BIND):
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=route[len(BIND) :]), **options)
    return httpx.AsyncClient(proxy=route, **options)


@dataclass(frozen=True, slots=True)
class _Kept:
    access: Access
    begun_at: datetime
    until: float


class BrokerAccesses:
    """Opens accounts by what the database holds: the session of today, sealed, and the address that was approved."""

    def __init__(self, sessions: Sessions, vault: Vault | None, egress: Egress, clock: Callable[[], datetime]) -> None:
        self._sessions, self._vault, self._egress, self._clock = sessions, vault, egress, clock
        self._kept: dict[int, _Kept] = {}

    async def access(self, account_id: int) -> Access:
        """The account's access. Raises SessionExpiredError, BrokerUnavailableError (the vault does not open it)."""
        kept = self._kept.get(account_id)
        if kept is None or kept.until < time.monotonic():
            self._kept.pop(account_id, None)
            kept = self._kept[account_id] = await self._open(account_id)
        return kept.access

    async def expired(self, access: Access) -> None:
        """Note that the broker takes it no more, once, and tell the owner if anything is open there."""
        kept = self._kept.pop(access.account_id, None)
        if kept is None or kept.access.token != access.token:
            return
        why = "the broker takes its token no more"
        ended = await session_ended(self._sessions, access.account_id, kept.begun_at, why)
        if ended is not None:
            log.warning("broker_session_ended", account=access.account_id)
            await tell_of_end(self._sessions, access.account_id)

    async def _open(self, account_id: int) -> _Kept:
        now = self._clock()
        async with self._sessions() as session:
            row = (
                await session.execute(
                    select(BrokerAccount, BrokerSession)
                    .outerjoin(BrokerSession, BrokerSession.account_id == BrokerAccount.id)
                    .where(BrokerAccount.id == account_id)
                )
            ).one()
            account, held = row
            if held is None or held.ended_at is not None or held.ends_at <= now:
                raise SessionExpiredError(
                    f"No session at {account.broker}: its owner has to log in there "
                    f"(POST /v1/broker-accounts/{account_id}/login)."
                )
            try:
                credentials = await credentials_of(session, self._vault, account)
                token = await token_of(session, self._vault, account)
            except (VaultError, SaudaError) as error:
                raise BrokerUnavailableError(f"The account {account_id} cannot be opened: {error}") from error
            approved = await record_of(
                session, account.user_id, now.astimezone(IST).date(), account.broker, lapsed=True
            )
        if token is None:
            raise SessionExpiredError(f"The login at {account.broker} is incomplete: log in again.")
        address = approved.egress_ip if approved is not None else ""
        # Reads may leave from anywhere; an order without its own address is refused before it is sent.
        http, address = self._egress.client(address)
        until = time.monotonic() + min(KEPT_S, (held.ends_at - now).total_seconds())
        key = credentials.get(CredentialField.API_KEY, "")
        return _Kept(Access(account_id, held.client_id, key, token, http, address), held.begun_at, until)


_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_LOCKS = 0x5AD2 << 40
_TAKE = text("""
    INSERT INTO broker_calls (account_id, kind)
    SELECT :account_id, :kind
     WHERE NOT EXISTS (
           SELECT FROM unnest(CAST(:calls AS int[]), CAST(:seconds AS float8[])) AS rate(calls, seconds)
            WHERE (SELECT count(*) FROM broker_calls c
                    WHERE c.account_id = :account_id AND c.kind = ANY(CAST(:kinds AS text[]))
                      AND c.at > clock_timestamp() - make_interval(secs => rate.seconds)) >= rate.calls)
    RETURNING id
""")


class CallCounter:
    """Counts each account's calls in the database, so that all processes stay within the broker's limits together.

    An account counts as one, whatever the exchange: stricter than the exchanges' own ten orders a second and segment
    (NSE/INVG/67858), and as the brokers count.
    """

    def __init__(self, sessions: Sessions, rates: Mapping[CallKind, Sequence[Rate]]) -> None:
        self._sessions, self._rates = sessions, rates

    async def take(self, account_id: int, kind: CallKind, until: float) -> None:
        """Take one call. Raises RateLimitedError: none was left until `until`; nothing must be sent."""
        while not await self._taken(account_id, kind):
            if time.monotonic() + WAIT_STEP_S > until:
                raise RateLimitedError(f"The limit of {kind.value} calls of account {account_id} is reached.")
            await asyncio.sleep(WAIT_STEP_S)

    async def _taken(self, account_id: int, kind: CallKind) -> bool:
        counted, rates = counted_with(kind, self._rates)
        if not rates:
            return True
        parameters = {
            "account_id": account_id,
            "kind": kind.value,
            "kinds": [each.value for each in counted],
            "calls": [rate.calls for rate in rates],
            "seconds": [rate.seconds for rate in rates],
        }
        async with self._sessions.begin() as session:
            await session.execute(_LOCK, {"lock": _LOCKS + account_id})
            return await session.scalar(_TAKE, parameters) is not None


def counted_with(
    kind: CallKind, rates: Mapping[CallKind, Sequence[Rate]]
) -> tuple[Collection[CallKind], Sequence[Rate]]:
    """Which kinds are counted together with `kind`, and what `kind` may take of them: cancels have the last fifth to
    themselves, so that what is out can be taken back however busy the account is."""
    if kind not in {CallKind.ORDER, CallKind.CANCEL}:
        return (kind,), rates.get(kind, ())
    together = (CallKind.ORDER, CallKind.CANCEL)
    whole = rates.get(CallKind.ORDER, ())
    if kind is CallKind.CANCEL:
        return together, whole
    return together, [Rate(rate.calls - max(1, rate.calls // CANCELS_KEEP), rate.seconds) for rate in whole]
