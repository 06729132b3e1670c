"""Reading many accounts' books in few calls, and finding our orders in them."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from backend.brokers.base import Broker, BrokerError, BrokerUnavailableError
from backend.domain.reconcile import BookOrder
from backend.errors import SaudaError
from backend.models import Order, OrderOrigin

log = structlog.get_logger()

BOOK_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class BookQuestion:
    """What is asked of a broker in one call: the books of accounts from `since` on, of these tags or (None) whole."""

    accounts: Sequence[int]
    since: datetime
    tags: Sequence[str] | None


def book_questions(orders: Sequence[Order], market_now: datetime) -> list[BookQuestion]:
    """As few calls as leave each account with a book about as long as its own oldest order needs, and with only its own
    orders unless one was made by hand.

    Accounts go together where their spans in days are between the same powers of two: ten calls at most in a year.
    """
    by_account: dict[int, list[Order]] = defaultdict(list)
    for order in orders:
        by_account[order.account_id].append(order)
    alike: dict[tuple[bool, int], list[Order]] = defaultdict(list)
    for mine in by_account.values():
        whole = any(order.origin is OrderOrigin.EXTERNAL for order in mine)
        days = (market_now - min(order.decided_at for order in mine)).days
        alike[whole, max(days, 0).bit_length()] += mine
    return [
        BookQuestion(
            sorted({order.account_id for order in together}),
            # A day's margin: the book is asked from before the oldest decision that may still move.
            min(order.decided_at for order in together) - timedelta(days=1),
            None if whole else [order.client_order_id for order in together],
        )
        for (whole, _), together in alike.items()
    ]


async def read_books(
    broker: Broker, orders: Sequence[Order], market_now: datetime
) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
    """The book of each account with one of `orders`, or the error of the call in which it was asked for."""

    async def read(question: BookQuestion) -> Mapping[int, Sequence[BookOrder] | BrokerError]:
        try:
            async with asyncio.timeout(BOOK_TIMEOUT_S):
                return await broker.books(question.accounts, question.since, question.tags)
        except (SaudaError, TimeoutError) as silence:
            log.warning("book_unreadable", broker=broker.name, error=repr(silence))
            return dict.fromkeys(question.accounts, BrokerUnavailableError(f"no book: {silence!r}"))

    questions = book_questions(orders, market_now)
    answers = await asyncio.gather(*(read(question) for question in questions), return_exceptions=True)
    books: dict[int, Sequence[BookOrder] | BrokerError] = {}
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        books |= answer
    return books


class Shown:
    """The books of one pass: which of their orders is which of ours, and which accounts gave no report."""

    def __init__(self, books: Mapping[int, Sequence[BookOrder] | BrokerError]) -> None:
        self.failed = {account_id for account_id, book in books.items() if isinstance(book, BrokerError)}
        self._by_tag: dict[tuple[int, str], list[BookOrder]] = defaultdict(list)
        self._by_id: dict[tuple[int, str], BookOrder] = {}
        for account_id, book in books.items():
            for entry in () if isinstance(book, BrokerError) else book:
                self._by_tag[account_id, entry.tag].append(entry)
                self._by_id[account_id, entry.broker_order_id] = entry

    def of(self, order: Order) -> Sequence[BookOrder]:
        """The book's orders that are this one: by our tag, the one whose id we know first; by id, if made by hand."""
        if order.origin is OrderOrigin.EXTERNAL:
            entry = self._by_id.get((order.account_id, order.broker_order_id or ""))
            return () if entry is None else (entry,)
        tagged = self._by_tag.get((order.account_id, order.client_order_id), [])
        return sorted(tagged, key=lambda entry: entry.broker_order_id != order.broker_order_id)
