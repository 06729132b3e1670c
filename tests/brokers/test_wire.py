"""What a failed request proves, under both of the transports that httpx has here; and replies that are too much."""

import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from hypothesis import given
from hypothesis import strategies as st

from backend.brokers import wire_fields
from backend.brokers.base import BrokerUnavailableError, NotPlacedError, OutcomeUnknownError, TooLateError
from backend.brokers.wire import Call, malformed_as, read, unpacked, write
from backend.brokers.wire_fields import MalformedError, parsed_json
from backend.domain.calendar import IST
from tests.brokers.rest_server import Answer, Break, Request, RestServer
from tests.support.fault_proxy import FaultProxy, Faults

NOWHERE = "http://127.0.0.1:1"
SECRET = "hidden-in-the-query"


def answer(request: Request) -> Answer:
    packed = {"/bomb": gzip.compress(bytes(3000)), "/damaged": b"\x1f\x8b damaged", "/half": gzip.compress(b"x")[:-4]}
    if request.path in packed:
        return Answer(200, packed[request.path], {"content-encoding": "gzip"})
    if request.path == "/packed":
        return Answer(200, gzip.compress(b'{"a": 1.10}'), {"content-encoding": "gzip"})
    if request.path == "/large":
        return Answer(200, b" " * 2998 + b"{}")
    if request.path == "/cookie":
        return Answer(200, b"{}", {"set-cookie": "session=of-somebody; path=/"})
    if request.path == "/strange":
        return Answer(200, b"x", {"content-encoding": "br"})
    return Answer(403 if request.method == "CONNECT" else 200, b"{}")


@pytest.fixture
async def server() -> AsyncIterator[RestServer]:
    async with RestServer(answer) as server:
        yield server


@pytest.fixture(params=["httpcore", "aiohttp"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    transport = AiohttpTransport() if request.param == "aiohttp" else None
    async with httpx.AsyncClient(transport=transport) as http:
        yield http


def call(url: str, path: str = "/orders", method: str = "POST", **changes) -> Call:
    return Call("someone", method, f"{url}{path}", params={"token": SECRET}, **changes)


async def test_without_a_connection_nothing_can_have_been_written(http: httpx.AsyncClient):
    with pytest.raises(NotPlacedError) as told:
        await write(http, call(NOWHERE))
    assert SECRET not in str(told.value)
    with pytest.raises(BrokerUnavailableError):
        await read(http, call(NOWHERE, method="GET"))


@pytest.mark.parametrize(
    "changes", [{"headers": {"authorization": "token é"}}, {"url": "http://:::"}, {"url": "ws://x"}]
)
async def test_what_cannot_be_asked_was_not_asked(http: httpx.AsyncClient, server: RestServer, changes: dict):
    unaskable = replace(call(server.url), **changes)
    with pytest.raises(NotPlacedError):
        await write(http, unaskable)
    with pytest.raises(BrokerUnavailableError):
        await read(http, unaskable)
    assert server.requests == []


@pytest.mark.parametrize("kind", [Break.RESET, Break.CUT])
async def test_after_the_request_was_written_no_outcome_is_known(
    http: httpx.AsyncClient, server: RestServer, kind: Break
):
    server.break_next(kind, "POST", "/orders")
    with pytest.raises(OutcomeUnknownError) as told:
        await write(http, call(server.url, timeout_s=0.5))
    assert SECRET not in str(told.value)
    assert server.count() == 1


async def test_a_connection_that_closes_without_a_reply_proves_nothing(http: httpx.AsyncClient, server: RestServer):
    """aiohttp's transport calls it a ConnectTimeout."""
    host = server.url.removeprefix("http://").split(":")
    async with FaultProxy((host[0], int(host[1]))) as proxy:
        proxy.switch(Faults(cut_down_after_bytes=0))
        assert isinstance(proxy.address, tuple)
        with pytest.raises(OutcomeUnknownError):
            await write(http, call(f"http://127.0.0.1:{proxy.address[1]}"))
    assert server.count() == 1


async def test_a_reply_that_drips_ends_with_the_whole_requests_time(http: httpx.AsyncClient, server: RestServer):
    host = server.url.removeprefix("http://").split(":")
    async with FaultProxy((host[0], int(host[1]))) as proxy:
        proxy.switch(Faults(bytes_per_s_max=400))
        assert isinstance(proxy.address, tuple)
        with pytest.raises(BrokerUnavailableError, match="TimeoutError"):
            await read(http, call(f"http://127.0.0.1:{proxy.address[1]}", method="GET", timeout_s=0.3))


async def test_a_proxy_that_opens_no_tunnel_lets_nothing_through(server: RestServer):
    async with httpx.AsyncClient(proxy=server.url) as http:
        with pytest.raises(NotPlacedError, match="ProxyError"):
            await write(http, call("https://api.example.com"))
    assert [request.method for request in server.requests] == ["CONNECT"]


async def test_the_time_is_asked_for_once_more_when_the_connection_stands(server: RestServer):
    asked: list[int] = []

    def before() -> None:
        asked.append(server.count())
        if len(asked) == 2:
            raise TooLateError("its time was over while the connection was made")

    async with httpx.AsyncClient() as http:
        with pytest.raises(TooLateError):
            await write(http, call(server.url), before)
        assert server.requests == []
        await write(http, call(server.url), lambda: None)
    assert server.count() == 1


async def test_what_comes_too_late_is_not_written(http: httpx.AsyncClient, server: RestServer):
    def before() -> None:
        raise TooLateError("its time was over")

    with pytest.raises(TooLateError):
        await write(http, call(server.url), before)
    assert server.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_is_sent_twice_and_no_cookie_comes_back(server: RestServer, method: str):
    async with httpx.AsyncClient() as http:
        await read(http, call(server.url, "/cookie", "GET"))
        server.break_next(Break.RESET, method, "/orders")
        with pytest.raises(OutcomeUnknownError):
            await write(http, call(server.url, method=method))
    assert [request.method for request in server.requests] == ["GET", method]
    assert not any("cookie" in request.headers for request in server.requests)


async def test_a_redirect_is_a_reply_and_not_followed(http: httpx.AsyncClient, server: RestServer):
    server.break_next(Break.REDIRECT, "POST", "/orders")
    assert (await write(http, call(server.url))).status == 307
    assert server.count() == 1


async def test_a_packed_reply_is_unpacked_and_its_fractions_are_exact(http: httpx.AsyncClient, server: RestServer):
    reply = await read(http, call(server.url, "/packed", "GET"))
    assert str(reply.json()) == "{'a': Decimal('1.10')}"


@pytest.mark.parametrize("path", ["/large", "/bomb", "/damaged", "/half", "/strange"])
async def test_what_is_too_large_or_wrongly_packed_is_no_reply(http: httpx.AsyncClient, server: RestServer, path: str):
    with pytest.raises(BrokerUnavailableError, match=r"bytes|gzip|encoding"):
        await read(http, call(server.url, path, "GET", bytes_max=2000))
    with pytest.raises(OutcomeUnknownError):
        await write(http, call(server.url, path, bytes_max=2000))


async def test_a_reply_of_exactly_the_bound_is_taken(http: httpx.AsyncClient, server: RestServer):
    assert len((await read(http, call(server.url, "/bomb", "GET", bytes_max=3000))).content) == 3000


def test_a_file_is_unpacked_where_it_is_packed():
    assert unpacked(b"plain", 10) == b"plain"
    assert unpacked(gzip.compress(b"packed"), 6) == b"packed"
    with pytest.raises(MalformedError):
        unpacked(gzip.compress(b"packed"), 5)


def test_what_cannot_be_read_is_told_as_the_failure_that_it_is():
    told = pytest.raises(OutcomeUnknownError, match="the reply cannot be read: no JSON")
    with told, malformed_as(OutcomeUnknownError, "the reply"):
        parsed_json(b"<html>")


@pytest.mark.parametrize(
    "content",
    [b"", b" ", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b"9" * 5000, b"\xff\xfe\xfa", b'{"a": 1', b"nul"],
)
def test_what_is_no_json_is_malformed(content: bytes):
    with pytest.raises(MalformedError):
        parsed_json(content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals() | st.sampled_from(["1e99999", "-"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(said=st.dictionaries(st.just("a"), VALUES), reader=st.sampled_from(["rupees", "price", "shares", "text"]))
def test_a_field_is_a_bounded_value_or_malformed(said: dict, reader: str):
    try:
        value = getattr(wire_fields, reader)(said, "a")
    except MalformedError:
        return
    assert value.isprintable() if isinstance(value, str) else abs(value) <= 10**13


@given(said=st.dictionaries(st.just("a"), VALUES))
def test_words_for_people_are_one_printable_line(said: dict):
    words = wire_fields.message(said, "a")
    assert words.isprintable()
    assert len(words) <= 300


@pytest.mark.parametrize(
    ("value", "rupees"),
    [(5, "5"), (Decimal("99725.05000000002"), "99725.05000000002"), ("12.50", "12.50"), (-3, "-3")],
)
def test_money_is_read_exactly(value: object, rupees: str):
    assert str(wire_fields.rupees({"a": value}, "a")) == rupees


@pytest.mark.parametrize("value", [True, None, "", "x", "NaN", [], Decimal("1e14"), Decimal("1e-41"), 1.5, "1" * 65])
def test_what_is_no_money_is_refused(value: object):
    with pytest.raises(MalformedError, match="a is no amount of rupees"):
        wire_fields.rupees({"a": value}, "a")


@pytest.mark.parametrize("value", ["a\x00", "a\nb", "\ud800", "x" * 65, "", None, 5])
def test_what_is_no_printable_text_is_refused(value: object):
    with pytest.raises(MalformedError):
        wire_fields.text({"a": value}, "a")


@pytest.mark.parametrize("value", ["0001-01-01 00:00:00", "yesterday", "", None, 5, "2024-02-30 10:00:00"])
def test_what_is_no_instant_is_refused(value: object):
    with pytest.raises(MalformedError):
        wire_fields.instant({"a": value}, "a", IST)


@pytest.mark.parametrize("value", ["2024-03-18 10:00:00", "2024-03-18T10:00:00+0530", "2024-03-18T04:30:00Z"])
def test_an_instant_is_indian_where_it_says_no_offset(value: str):
    assert wire_fields.instant({"a": value}, "a", IST) == datetime(2024, 3, 18, 4, 30, tzinfo=UTC)
    assert wire_fields.instant({"a": "18-03-2024 10:00:00"}, "a", IST, "%d-%m-%Y %H:%M:%S").hour == 10


@pytest.mark.parametrize("value", [Decimal("1.5"), -1, 10**11, True, None, "one"])
def test_what_is_no_number_of_shares_is_refused(value: object):
    with pytest.raises(MalformedError):
        wire_fields.shares({"a": value}, "a")


@pytest.mark.parametrize(
    ("value", "form"),
    [("1500.0500", "1500.05"), ("1E+3", "1000"), ("100", "100"), ("0.10", "0.1"), ("1455.00", "1455")],
)
def test_numbers_go_out_plain(value: str, form: str):
    assert wire_fields.plain(Decimal(value)) == form
    assert str(wire_fields.number(Decimal(value))) == form
