"""Each mode of the misbehaving broker, over real sockets, and what the adapter makes of it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from backend.brokers.base import (
    AccountSnapshot,
    BrokerError,
    BrokerUnavailableError,
    OrderRejectedError,
    OrderRequest,
    OutcomeUnknownError,
)
from backend.domain.market import OrderType, Product, Side
from backend.domain.reconcile import BookOrder, BookStatus
from tests.support.broker_book import CHARGES_RATE, FIRST_CASH, Mode, per_second_max
from tests.support.broker_server import create_app, serving
from tests.support.http_broker import HttpBroker

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2024, 3, 18, 4, 30, tzinfo=UTC)
A = 7
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(create_app(lambda: NOW)) as url:
        yield url


@pytest.fixture
async def http() -> Any:
    async with httpx.AsyncClient(transport=AiohttpTransport()) as http:
        yield http


class Desk:
    """One test's world at the broker: its adapter and its control."""

    def __init__(self, http: httpx.AsyncClient, url: str, world: str) -> None:
        self.broker = HttpBroker(http, f"{url}/{world}", timeout_s=0.5)
        self._http = http
        self._url = f"{url}/{world}/control"

    async def behave(self, *modes: Mode, account: int | None = None, **figures: float) -> None:
        await self._http.put(f"{self._url}/behaviour", json={"account": account, "modes": list(modes)} | figures)

    async def post(self, what: str, **body: Any) -> Any:
        return (await self._http.post(f"{self._url}/{what}", json=body)).raise_for_status().json()

    async def truth(self) -> dict[str, Any]:
        return (await self._http.get(f"{self._url}/truth")).json()

    async def place(self, tag: str = "T1", quantity: int = 10, account: int = A) -> str:
        order = OrderRequest("INFY", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, quantity, Decimal("1500.05"), tag)
        return await self.broker.place(account, order)

    async def report(self, account: int = A) -> Sequence[BookOrder] | BrokerError:
        return (await self.broker.books([account], NOW - timedelta(days=1)))[account]

    async def book(self, account: int = A) -> Sequence[BookOrder]:
        report = await self.report(account)
        assert not isinstance(report, BrokerError), report
        return report


@pytest.fixture
def desk(http: httpx.AsyncClient, server: str, request: pytest.FixtureRequest) -> Desk:
    return Desk(http, server, request.node.name)


async def test_an_accepted_order_fills_and_shows_with_its_tag(desk: Desk):
    order_id = await desk.place()
    (order,) = await desk.book()
    assert (order.broker_order_id, order.tag, order.status) == (order_id, "T1", BookStatus.COMPLETE)
    assert (order.symbol, order.side, order.quantity, order.limit_price) == ("INFY", Side.BUY, 10, Decimal("1500.05"))
    (trade,) = order.trades
    assert (trade.quantity, trade.price, trade.traded_at) == (10, Decimal("1500.05"), NOW)
    snapshot = (await desk.broker.snapshots([A]))[A]
    value = Decimal("15000.50")
    cash = FIRST_CASH - value - (value * CHARGES_RATE).quantize(Decimal("0.01"))
    assert snapshot == AccountSnapshot(cash, cash, {"INFY": 10})


async def test_a_resting_order_reserves_cash_until_it_is_filled_by_hand(desk: Desk):
    await desk.behave(Mode.REST)
    order_id = await desk.place()
    (order,) = await desk.book()
    assert (order.status, order.trades) == (BookStatus.OPEN, ())
    snapshot = (await desk.broker.snapshots([A]))[A]
    assert isinstance(snapshot, AccountSnapshot)
    assert snapshot.cash - snapshot.cash_free == Decimal("15000.50")
    await desk.post("fill", order_id=order_id, quantity=4)
    assert [t.quantity for t in (await desk.book())[0].trades] == [4]
    await desk.post("fill", order_id=order_id)
    (order,) = await desk.book()
    assert (order.status, [t.quantity for t in order.trades]) == (BookStatus.COMPLETE, [4, 6])


async def test_a_refusal_is_proof_and_leaves_nothing_behind(desk: Desk):
    await desk.behave(Mode.REFUSE)
    with pytest.raises(OrderRejectedError, match="margin exceeded"):
        await desk.place()
    assert await desk.book() == []


async def test_a_refusal_after_the_answer_shows_in_the_book(desk: Desk):
    await desk.behave(Mode.REFUSE_IN_BOOK)
    order_id = await desk.place()
    (order,) = await desk.book()
    assert (order.broker_order_id, order.status, order.trades) == (order_id, BookStatus.REJECTED, ())


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (Mode.ACCEPT_THEN_HANG, "Timeout"),
        (Mode.ACCEPT_THEN_RESET, "did not answer"),
        (Mode.ACCEPT_THEN_502, "answered 502"),
        (Mode.ACCEPT_THEN_CUT, "did not answer"),
        (Mode.ACCEPT_THEN_GARBAGE, "without an order id"),
    ],
)
async def test_an_accepted_order_whose_answer_is_lost_is_unknown_and_exists(desk: Desk, mode: Mode, words: str):
    await desk.behave(mode)
    with pytest.raises(OutcomeUnknownError, match=words):
        await desk.place()
    (order,) = await desk.book()
    assert (order.tag, order.status) == ("T1", BookStatus.COMPLETE)
    assert (await desk.truth())["accepted_per_tag"] == {"T1": 1}


async def test_a_reset_is_a_reset_on_the_wire(desk: Desk, server: str):
    """A bare socket sees what the client library hides: the connection ends without a byte, by RST."""
    await desk.behave(Mode.ACCEPT_THEN_RESET)
    assert await raw_order(server, desk) is ConnectionResetError


async def test_a_cut_comes_in_mid_reply(desk: Desk, server: str):
    await desk.behave(Mode.ACCEPT_THEN_CUT)
    reply = await raw_order(server, desk)
    assert isinstance(reply, bytes)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-length: 500" in head
    assert body == b'{"order_id": '


async def raw_order(server: str, desk: Desk) -> bytes | type[Exception]:
    """Place an order by hand-written HTTP and read to the end."""
    world = desk.broker._url.rpartition("/")[2]
    body = (
        b'{"symbol":"INFY","exchange":"nse","side":"buy","product":"cnc","order_type":"limit","quantity":1,'
        b'"limit_price":"1500","tag":"R"}'
    )
    head = f"POST /{world}/accounts/{A}/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.rpartition(":")[2]))
    writer.write(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read(-1)
    except ConnectionError as error:
        return type(error)
    finally:
        writer.close()


async def test_a_connection_dropped_before_the_order_was_taken_books_nothing(desk: Desk):
    await desk.behave(Mode.DROP_BEFORE_ACCEPT)
    with pytest.raises(OutcomeUnknownError):
        await desk.place()
    assert await desk.book() == []
    truth = await desk.truth()
    assert (len(truth["arrivals"]), truth["accepted_per_tag"]) == (1, {})


async def test_an_order_shows_late_in_the_book(desk: Desk):
    await desk.behave(Mode.SHOW_LATE, late_s=0.3)
    began = time.monotonic()
    await desk.place()
    assert await desk.book() == []
    assert (await desk.truth())["accepted_per_tag"] == {"T1": 1}
    await until(desk, lambda book: len(book) == 1)
    assert time.monotonic() - began >= 0.3


async def until(desk: Desk, seen: Callable[[Sequence[BookOrder]], bool]) -> Sequence[BookOrder]:
    """Read the book again and again until it shows what is waited for."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            book = await desk.book()
            if seen(book):
                return book


async def test_an_order_fills_in_parts_one_more_with_every_report(desk: Desk):
    await desk.behave(Mode.PARTIAL, parts=3)
    await desk.place(quantity=10)
    seen = [(order.status, [t.quantity for t in order.trades]) for _ in range(3) for order in await desk.book()]
    assert seen == [
        (BookStatus.OPEN, [4, 3]),
        (BookStatus.COMPLETE, [4, 3, 3]),
        (BookStatus.COMPLETE, [4, 3, 3]),
    ]


async def test_a_fill_comes_after_the_cancel_was_confirmed(desk: Desk):
    await desk.behave(Mode.FILL_LATE)
    order_id = await desk.place()
    await desk.broker.cancel(A, order_id)
    (cancelled,) = await desk.book()
    (filled,) = await desk.book()
    assert (cancelled.status, cancelled.trades) == (BookStatus.CANCELLED, ())
    assert (filled.status, [t.quantity for t in filled.trades]) == (BookStatus.COMPLETE, [10])
    with pytest.raises(OrderRejectedError):
        await desk.broker.cancel(A, order_id)


async def test_trades_are_reported_twice_under_one_id(desk: Desk):
    await desk.behave(Mode.DOUBLE_TRADES)
    await desk.place()
    (order,) = await desk.book()
    assert len(order.trades) == 2
    assert len({t.trade_id for t in order.trades}) == 1


async def test_orders_and_trades_are_reported_newest_first(desk: Desk):
    await desk.behave(Mode.OUT_OF_ORDER, parts=2)
    ids = [await desk.place("T1"), await desk.place("T2")]
    book = await desk.book()
    assert [order.broker_order_id for order in book] == ids[::-1]
    assert [t.trade_id for t in book[1].trades] == ["T000002", "T000001"]


@pytest.mark.parametrize(
    ("mode", "code"), [(Mode.TOKEN_EXPIRED, "TokenException"), (Mode.RATE_LIMITED, "RateLimitException")]
)
async def test_a_dead_token_and_a_used_up_quota_refuse_everything(desk: Desk, mode: Mode, code: str):
    await desk.behave(mode, retry_after_s=9)
    with pytest.raises(OrderRejectedError) as refusal:
        await desk.place()
    assert refusal.value.code == code
    assert isinstance(await desk.report(), BrokerUnavailableError)
    assert isinstance((await desk.broker.snapshots([A]))[A], BrokerUnavailableError)
    await desk.behave(Mode.ACCEPT)
    assert await desk.book() == []


async def test_a_full_quota_says_when_to_come_again(desk: Desk, http: httpx.AsyncClient):
    await desk.behave(Mode.RATE_LIMITED, retry_after_s=9)
    reply = await http.get(f"{desk.broker._url}/accounts/{A}/orders")
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "9")


@pytest.mark.parametrize("mode", [Mode.BOOK_502, Mode.BOOK_HANGS, Mode.BOOK_GARBAGE])
async def test_a_failed_report_is_an_error_of_its_account_and_never_an_empty_book(desk: Desk, mode: Mode):
    await desk.behave(mode, account=A)
    await desk.place()
    await desk.place("T2", account=8)
    books = await desk.broker.books([A, 8], NOW)
    assert isinstance(books[A], BrokerUnavailableError)
    other = books[8]
    assert not isinstance(other, BrokerError)
    assert [order.tag for order in other] == ["T2"]
    await desk.behave(Mode.ACCEPT)
    assert [order.tag for order in await desk.book()] == ["T1"]


async def test_an_order_made_by_hand_is_in_the_book_without_a_tag(desk: Desk):
    by_hand = {"symbol": "TCS", "exchange": "nse", "side": "sell", "product": "cnc", "order_type": "market"}
    order_id = (await desk.post("orders", account=A, quantity=5, limit_price=None, **by_hand))["order_id"]
    (order,) = await desk.book()
    assert (order.broker_order_id, order.tag, order.limit_price, order.status) == (order_id, "", None, BookStatus.OPEN)
    assert await desk.post("cancel", order_id=order_id) is True
    assert (await desk.book())[0].status is BookStatus.CANCELLED
    assert (await desk.truth())["accepted_per_tag"] == {}


async def test_the_truth_counts_every_arrival_with_its_time(desk: Desk):
    began = time.monotonic()
    for tag in ("T1", "T1", "T2"):
        await desk.place(tag)
    truth = await desk.truth()
    assert truth["accepted_per_tag"] == {"T1": 2, "T2": 1}
    assert truth["accepted_per_symbol"] == {"INFY": 3}
    assert truth["holdings"] == {str(A): {"INFY": 30}}
    snapshot = (await desk.broker.snapshots([A]))[A]
    assert isinstance(snapshot, AccountSnapshot)
    assert Decimal(truth["cash"][str(A)]) == snapshot.cash
    at_s = [arrival["at_s"] for arrival in truth["arrivals"]]
    assert began <= at_s[0] <= at_s[1] <= at_s[2] <= time.monotonic()
    assert truth["orders_per_second_max"] == per_second_max(at_s)


def test_the_rate_is_the_most_in_any_second():
    assert per_second_max([]) == 0
    assert per_second_max([0.0, 0.5, 0.9, 1.6, 1.7, 1.8, 1.9, 5.0]) == 5


async def test_a_copy_goes_its_own_way(desk: Desk, http: httpx.AsyncClient, server: str):
    await desk.place()
    twin = Desk(http, server, "twin")
    await twin.post("copy", source=desk.broker._url.rpartition("/")[2])
    await twin.place("T2")
    assert [order.tag for order in await twin.book()] == ["T1", "T2"]
    assert [order.tag for order in await desk.book()] == ["T1"]
    assert [arrival["tag"] for arrival in (await twin.truth())["arrivals"]] == ["T2"]


async def test_a_4xx_that_is_not_the_brokers_word_proves_nothing(desk: Desk, http: httpx.AsyncClient, server: str):
    """Something between us and the broker may answer 404 for an order it has passed on."""
    elsewhere = HttpBroker(http, f"{server}/there/is/nothing/here")
    with pytest.raises(OutcomeUnknownError, match="404"):
        await elsewhere.place(A, OrderRequest("X", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 1, Decimal(1), "T"))


@contextmanager
def process(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.support.broker_server", "--port", "0", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def test_as_a_process_it_outlives_its_clients_and_keeps_a_journal(tmp_path: Path):
    with process(tmp_path) as url:
        for tag in ("T1", "T2"):
            async with httpx.AsyncClient() as client:
                await Desk(client, url, "w").place(tag)
        async with httpx.AsyncClient() as client:
            assert [order.tag for order in await Desk(client, url, "w").book()] == ["T1", "T2"]
    journal = (tmp_path / "arrivals.jsonl").read_text().splitlines()
    assert ['"tag": "T1"' in line for line in journal] == [True, False]


def test_every_mode_has_been_tried():
    """A mode without a test of its own is a mode nobody has seen."""
    source = Path(__file__).read_text("utf-8")
    assert [mode.name for mode in Mode if f"Mode.{mode.name}" not in source] == []
