"""What every broker over HTTP does, beside trading: its requests, their failures, the session and the login."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from backend.brokers.adapter import Access, Adapter, CallKind, Credentials
from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    NotPlacedError,
    OrderChange,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
    RateLimitedError,
    SessionExpiredError,
    TooLateError,
)
from backend.brokers.connected import ConnectedBroker
from backend.domain.market import OrderType
from backend.domain.reconcile import BookStatus
from backend.errors import InvalidRequestError
from tests.brokers.conformance import (
    CASH,
    HELD,
    LIMIT,
    ORDERS,
    TradingConformance,
    World,
    book_of,
    is_failed_report,
    only_order,
    placed,
    snapshot_of,
)
from tests.brokers.rest_server import Break, Request, RestServer

LOST = (Break.SILENCE, Break.RESET, Break.CUT, Break.TRUNCATED, Break.EMPTY, Break.HTML, Break.NULL, Break.OBJECT)
LOST += (Break.LIST, Break.SERVER_ERROR, Break.BAD_GATEWAY, Break.UNAVAILABLE, Break.FORBIDDEN, Break.REDIRECT)
LOST += (Break.TOO_LARGE,)
SILENT_S, PATIENT_S = 0.2, 10.0
CHANGE = OrderChange(OrderType.LIMIT, 8, Decimal("1490.10"))


@dataclass
class OneAccess:
    """The session of one account: `Accesses` for a test; who was told that it is over opens it no more."""

    granted: Access
    over: bool = False

    async def access(self, account_id: int) -> Access:
        if self.over or account_id != self.granted.account_id:
            raise SessionExpiredError("log in at the broker")
        return self.granted

    async def expired(self, access: Access) -> None:
        self.over = access.token == self.granted.token


@dataclass
class CountedCalls:
    """`CallBudget` for a test: lets all calls pass, and remembers what they were counted as."""

    kinds: list[CallKind] = field(default_factory=list)

    async def take(self, account_id: int, kind: CallKind, until: float) -> None:
        self.kinds.append(kind)


@dataclass(frozen=True)
class Sent:
    """A request as the broker's documents ask for it: `fields` are a form's or a JSON body's, all of them."""

    method: str
    path: str
    fields: Mapping[str, Any]


class WireWorld(World, Protocol):
    """A broker's double on loopback, an adapter to it, and `broker`, the `ConnectedBroker` of both."""

    adapter: Adapter
    access: Access
    accesses: OneAccess
    server: RestServer
    credentials: Credentials
    login_path: str
    """The path of the request that exchanges what the login returned."""
    logs_out_at: bool
    """Whether the broker has a request to end a session."""

    async def expire_session(self) -> None:
        """End the session at the broker, as it does each morning."""
        ...

    async def limit_rate(self, limited: bool) -> None:
        """Let the broker turn every request away as one too many, or take them again."""
        ...

    async def call_it(self, order_id: str, word: str) -> None:
        """Let the broker's book show an order in a status of that name."""
        ...

    async def user_logs_in(self) -> Mapping[str, str]:
        """Let the user log in at the broker: what its redirect brings back."""
        ...

    def shown(self, request: Request) -> Mapping[str, Any]:
        """The fields of an order's request."""
        ...


def break_next(world: WireWorld, kind: Break, method: str, path: str, *, handled: bool = True) -> None:
    """Break the next such reply; an adapter whose `timeout_s` can be set waits for a silent one no longer than needed,
    and for all others as long as a busy machine may take."""
    wait_at_most(world, SILENT_S if kind is Break.SILENCE else PATIENT_S)
    world.server.break_next(kind, method, path, handled=handled)


def wait_at_most(world: WireWorld, timeout_s: float) -> None:
    if hasattr(world.adapter, "timeout_s"):
        world.adapter.timeout_s = timeout_s


def connected(adapter: Adapter, access: Access) -> tuple[ConnectedBroker, OneAccess]:
    accesses = OneAccess(access)
    return ConnectedBroker(adapter, accesses, CountedCalls()), accesses


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """To be imported beside the suite."""
    async with httpx.AsyncClient() as client:
        yield client


class WireConformance(TradingConformance):
    """`documented` is what each of `ORDERS` is on the wire; `report_paths` the paths that each report is made of."""

    documented: Mapping[str, Sent]
    modified: Sent
    """What CHANGE of the order `{order_id}` is on the wire."""
    cancelled: Sent
    report_paths: Mapping[str, Sequence[str]]
    """By adapter method: orders, holdings, positions, funds."""

    @pytest.fixture
    async def world(self) -> WireWorld:
        raise NotImplementedError("a subclass gives the broker")

    @pytest.mark.parametrize("name", ORDERS)
    async def test_an_order_is_on_the_wire_as_documented(self, world: WireWorld, name: str):
        before = len(world.server.requests)
        await placed(world, ORDERS[name])
        (request,) = world.server.requests[before:]
        documented = self.documented[name]
        assert (request.method, request.path) == (documented.method, documented.path)
        assert dict(world.shown(request)) == dict(documented.fields)
        assert world.access.token in "".join(request.headers.values())

    async def test_a_change_and_a_cancel_are_on_the_wire_as_documented(self, world: WireWorld):
        order_id = await placed(world)
        await world.broker.modify(world.account_id, order_id, CHANGE)
        modify = world.server.requests[-1]
        await world.broker.cancel(world.account_id, order_id)
        cancel = world.server.requests[-1]
        for request, documented in ((modify, self.modified), (cancel, self.cancelled)):
            assert (request.method, request.path) == (documented.method, documented.path.format(order_id=order_id))
            fields = {key: value for key, value in documented.fields.items() if value != "{order_id}"}
            shown = {key: value for key, value in world.shown(request).items() if value != order_id}
            assert shown == fields

    async def test_what_would_be_refused_is_not_sent(self, world: WireWorld):
        before = world.server.count()
        for change in ({"protection_percent": None}, {"protection_percent": Decimal(0)}, {"tag": "x" * 21}):
            with pytest.raises((OrderRejectedError, NotPlacedError)):
                await placed(world, replace(ORDERS["market"], **change))
        assert world.server.count() == before

    async def test_what_comes_too_late_writes_no_request(self, world: WireWorld):
        before = world.server.count()
        with pytest.raises(TooLateError):
            await placed(world, replace(LIMIT, send_by=time.monotonic() - 0.001))
        assert world.server.count() == before

    async def test_a_status_without_a_meaning_concludes_nothing(self, world: WireWorld):
        order_id = await placed(world)
        await world.call_it(order_id, "QUANTUM SUPERPOSED")
        order = await only_order(world)
        assert (order.broker_order_id, order.status) == (order_id, BookStatus.UNKNOWN)

    @pytest.mark.parametrize("handled", [True, False])
    async def test_a_lost_reply_to_an_order_is_an_unknown_outcome_and_asked_once(self, world: WireWorld, handled: bool):
        for number, kind in enumerate(LOST):
            break_next(world, kind, "POST", self.documented["limit"].path, handled=handled)
            before = world.server.count()
            with pytest.raises(OutcomeUnknownError) as told:
                await placed(world, replace(LIMIT, tag=f"lost{number}"))
            assert world.access.token not in str(told.value), kind
            assert world.server.count() - before == 1, kind
        wait_at_most(world, PATIENT_S)
        tags = {order.tag for order in await book_of(world)}
        assert tags == ({f"lost{number}" for number in range(len(LOST))} if handled else set())

    @pytest.mark.parametrize("kind", [Break.RESET, Break.BAD_GATEWAY, Break.HTML])
    async def test_a_lost_reply_to_a_change_or_cancel_is_an_unknown_outcome(self, world: WireWorld, kind: Break):
        order_id = await placed(world)
        for sent, ask in (
            (self.modified, lambda: world.broker.modify(world.account_id, order_id, CHANGE)),
            (self.cancelled, lambda: world.broker.cancel(world.account_id, order_id)),
        ):
            break_next(world, kind, sent.method, sent.path.format(order_id=order_id))
            with pytest.raises(OutcomeUnknownError):
                await ask()
        assert (await only_order(world)).status is BookStatus.CANCELLED

    async def test_without_a_connection_nothing_was_placed_and_no_report_came(self, world: WireWorld):
        await world.server.stop()
        with pytest.raises(NotPlacedError):
            await placed(world)
        reports = await world.broker.books([world.account_id], world.now() - timedelta(hours=1))
        assert is_failed_report(reports[world.account_id])
        await world.server.start()
        assert await book_of(world) == []

    async def test_a_connection_that_died_idle_places_nothing_twice(self, world: WireWorld):
        await book_of(world)
        before = world.server.count("POST")
        world.server.drop_connections()
        with_doubt = await asyncio.gather(placed(world), return_exceptions=True)
        assert world.server.count("POST") - before <= 1
        tags = [order.tag for order in await book_of(world)]
        assert tags == [LIMIT.tag] if isinstance(with_doubt[0], str) else len(tags) <= 1

    @pytest.mark.parametrize("report", ["orders", "holdings", "positions", "funds"])
    async def test_a_failed_part_of_a_report_fails_all_of_it(
        self, world: WireWorld, report: str, only: Break | None = None
    ):
        """Under every break, or, for a subclass to which some of them are none, under one."""
        await placed(world)
        read = getattr(world.adapter, report)
        for kind, path in itertools.product([only] if only else LOST, self.report_paths[report]):
            break_next(world, kind, "GET", path)
            with pytest.raises(BrokerUnavailableError):
                await read(world.access)
        wait_at_most(world, PATIENT_S)
        await read(world.access)

    async def test_a_failed_report_is_its_accounts_error(self, world: WireWorld):
        for path in self.report_paths["orders"]:
            break_next(world, Break.BAD_GATEWAY, "GET", path)
            reports = await world.broker.books([world.account_id], world.now())
            assert is_failed_report(reports[world.account_id])
        break_next(world, Break.CUT, "GET", self.report_paths["funds"][0])
        assert is_failed_report((await world.broker.snapshots([world.account_id]))[world.account_id])

    @pytest.mark.parametrize("call", ["place", "modify", "cancel", "books", "snapshots"])
    async def test_a_session_that_is_over_is_told_once_and_not_asked_again(self, world: WireWorld, call: str):
        order_id = await placed(world)
        await world.expire_session()
        before = world.server.count()
        for _ in range(2):
            assert type(await _outcome(world, call, order_id)) is SessionExpiredError
        assert world.server.count() - before == 1

    @pytest.mark.parametrize("call", ["place", "modify", "cancel", "books", "snapshots"])
    async def test_one_call_too_many_did_nothing(self, world: WireWorld, call: str):
        order_id = await placed(world)
        await world.limit_rate(True)
        assert type(await _outcome(world, call, order_id)) is RateLimitedError
        await world.limit_rate(False)
        order = await only_order(world)
        assert (order.status, order.quantity) == (BookStatus.OPEN, LIMIT.quantity)

    async def test_calls_are_counted_as_what_they_are(self, world: WireWorld):
        budget = CountedCalls()
        broker = ConnectedBroker(world.adapter, world.accesses, budget)
        order_id = await broker.place(world.account_id, LIMIT)
        await broker.modify(world.account_id, order_id, CHANGE)
        await broker.cancel(world.account_id, order_id)
        await broker.books([world.account_id], world.now())
        assert budget.kinds == [CallKind.ORDER, CallKind.ORDER, CallKind.CANCEL, CallKind.READ]
        assert set(world.adapter.rates) >= {CallKind.ORDER, CallKind.READ}

    async def test_an_order_approved_for_another_address_is_not_sent(self, world: WireWorld):
        before = world.server.count()
        with pytest.raises(NotPlacedError, match=r"192\.0\.2\.7"):
            await placed(world, replace(LIMIT, egress_ip="192.0.2.7"))
        assert world.server.count() == before

    async def test_holdings_positions_and_funds_are_reported_one_by_one(self, world: WireWorld):
        bought = await placed(world)
        price = await world.fill(bought, 10)
        (holding,) = await world.adapter.holdings(world.access)
        assert (holding.symbol, holding.quantity + holding.t1_quantity) == ("INFY", HELD)
        (position,) = await world.adapter.positions(world.access)
        assert (position.symbol, position.exchange, position.product) == ("INFY", "nse", LIMIT.product)
        assert (position.quantity, position.average_price) == (10, price)
        funds = await world.adapter.funds(world.access)
        assert funds.cash_free < CASH

    async def test_the_instruments_are_found_by_exchange_and_symbol(self, world: WireWorld):
        listed = await world.adapter.instruments()
        infy = listed["nse", "INFY"]
        assert (infy.symbol, infy.exchange, infy.lot) == ("INFY", "nse", 1)
        assert infy.tick > 0
        assert infy.key

    # Logging in.

    async def test_the_login_begins_at_the_broker_with_the_users_key(self, world: WireWorld, http: httpx.AsyncClient):
        url = await world.adapter.login_url(http, world.credentials, "state-of-ours")
        assert not any(secret in url for secret in _secrets(world.credentials))
        assert urlsplit(url).scheme in {"http", "https"}
        assert parse_qs(urlsplit(url).query)

    async def test_what_the_login_returns_becomes_the_days_token(self, world: WireWorld, http: httpx.AsyncClient):
        returned = await world.user_logs_in()
        now = datetime.now(UTC)
        session = await world.adapter.log_in(http, world.credentials, returned, now)
        assert session.client_id == world.access.client_id
        assert now < session.ends_at <= now + timedelta(hours=30)
        renewed = replace(world.access, token=session.token)
        broker, _ = connected(world.adapter, renewed)
        assert isinstance((await broker.snapshots([world.account_id]))[world.account_id], AccountSnapshot)
        assert session.token not in repr(session)

    async def test_what_was_returned_works_once(self, world: WireWorld, http: httpx.AsyncClient):
        returned = await world.user_logs_in()
        await world.adapter.log_in(http, world.credentials, returned, datetime.now(UTC))
        with pytest.raises(InvalidRequestError):
            await world.adapter.log_in(http, world.credentials, returned, datetime.now(UTC))

    async def test_a_wrong_secret_opens_nothing_and_is_not_told(self, world: WireWorld, http: httpx.AsyncClient):
        wrong = {name: f"wrong-{value}" if "secret" in name else value for name, value in world.credentials.items()}
        returned = await world.user_logs_in()
        with pytest.raises(InvalidRequestError) as told:
            await world.adapter.log_in(http, wrong, returned, datetime.now(UTC))
        assert not any(secret in str(told.value) for secret in _secrets(wrong))

    async def test_a_login_that_was_broken_off_asks_nothing(self, world: WireWorld, http: httpx.AsyncClient):
        before = world.server.count()
        for returned in ({}, {"status": "cancelled"}, dict.fromkeys(await world.user_logs_in(), "")):
            with pytest.raises(InvalidRequestError):
                await world.adapter.log_in(http, world.credentials, returned, datetime.now(UTC))
        assert not [r for r in world.server.requests[before:] if world.login_path in r.path]

    @pytest.mark.parametrize("kind", [Break.SILENCE, Break.CUT, Break.HTML, Break.BAD_GATEWAY, Break.OBJECT])
    async def test_a_login_that_is_not_answered_is_asked_once(
        self, world: WireWorld, http: httpx.AsyncClient, kind: Break
    ):
        returned = await world.user_logs_in()
        before = world.server.count()
        break_next(world, kind, "POST", world.login_path)
        break_next(world, kind, "GET", world.login_path)
        with pytest.raises(BrokerUnavailableError):
            await world.adapter.log_in(http, world.credentials, returned, datetime.now(UTC))
        assert world.server.count() - before == 1

    async def test_logging_out_ends_the_session(self, world: WireWorld):
        await world.adapter.log_out(world.access)
        if world.logs_out_at:
            with pytest.raises(SessionExpiredError):
                await world.adapter.funds(world.access)
        else:
            assert (await snapshot_of(world)).cash_free == CASH


def _secrets(credentials: Credentials) -> list[str]:
    return [value for name, value in credentials.items() if "secret" in name]


async def _outcome(world: WireWorld, call: str, order_id: str) -> Any:
    """What a call of the broker raises or reports."""
    order: OrderRequest = replace(LIMIT, tag="again")
    calls = {
        "place": lambda: world.broker.place(world.account_id, order),
        "modify": lambda: world.broker.modify(world.account_id, order_id, CHANGE),
        "cancel": lambda: world.broker.cancel(world.account_id, order_id),
        "books": lambda: world.broker.books([world.account_id], world.now() - timedelta(hours=1)),
        "snapshots": lambda: world.broker.snapshots([world.account_id]),
    }
    try:
        result = await calls[call]()
    except BrokerError as error:
        return error
    return result[world.account_id] if isinstance(result, dict) else result
