"""Upstox's market data, served by a real server from the replies that its documents show."""

import gzip
import json
from datetime import date, datetime
from decimal import Decimal

import pytest
import pytest_asyncio
from provider_world import http_client
from pydantic import SecretStr

from contracts.market import Interval
from data_service.providers.base import IncompleteError, ProviderError, RateLimitedError, SessionEndedError
from data_service.providers.pace import Pace
from data_service.providers.upstox import FILE_BYTES_MAX, Upstox, shares_of
from data_service.sessions import IST, ist_date, ist_instant, load_sessions
from data_service.store.schemas import INSTRUMENT_SCHEMA
from tests.support.upstream_server import HTML, Reply, UpstreamServer, as_json

SESSIONS = load_sessions()
FILE = "/files/NSE.json.gz"
QUOTES = "/v2/market-quote/quotes"
KEY = "NSE_EQ|INE848E01016"
CANDLES = f"/v3/historical-candle/{KEY}"
TODAYS = f"/v3/historical-candle/intraday/{KEY}"


def at_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


NOW_S = at_s("2026-11-20 20:00")
NHPC = {
    "segment": "NSE_EQ",
    "name": "NHPC LTD",
    "exchange": "NSE",
    "isin": "INE848E01016",
    "instrument_type": "EQ",
    "instrument_key": KEY,
    "lot_size": 1,
    "freeze_quantity": 100000.0,
    "exchange_token": "17400",
    "tick_size": 1.0,
    "trading_symbol": "NHPC",
    "short_name": "NHPC",
    "security_type": "NORMAL",
}
FUTURE = {"segment": "NSE_FO", "name": "NHPC", "expiry": 1795631399000, "weekly": False, "lot_size": 6400, "isin": None}


def row(symbol: str, isin: str, **changed: object) -> dict:
    return NHPC | {"trading_symbol": symbol, "isin": isin, "instrument_key": f"NSE_EQ|{isin}"} | changed


def packed(*rows: object) -> bytes:
    return gzip.compress(json.dumps(rows).encode(), mtime=0)


SAID = {
    "ohlc": {"open": 53.4, "high": 53.8, "low": 51.75, "close": 52.05},
    "depth": {
        "buy": [{"quantity": 6917, "price": 52.05, "orders": 20}, {"quantity": 0, "price": 0, "orders": 0}],
        "sell": [{"quantity": 0, "price": 0, "orders": 0}],
    },
    "timestamp": "2023-10-19T05:21:51.099+05:30",
    "instrument_token": KEY,
    "symbol": "NHPC",
    "last_price": 52.05,
    "volume": 24123697,
    "average_price": 52.56,
    "net_change": -1.2000000000000028,
    "lower_circuit_limit": 42.6,
    "upper_circuit_limit": 63.9,
    "last_trade_time": "1697624972130",
}
"""The quote in the documents, with the fields that are read and some that are not."""


def success(data: object) -> Reply:
    return as_json({"status": "success", "data": data})


def candles(*rows: list) -> Reply:
    return success({"candles": list(rows)})


class Time:
    """A monotonic clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now_s += seconds


@pytest_asyncio.fixture
async def server():
    listed = packed(NHPC, FUTURE, row("INFY", "INE009A01021"))
    async with UpstreamServer({FILE: Reply(listed)}) as upstream:
        yield upstream


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest_asyncio.fixture
async def make(server, passing):
    """Upstox as of an instant, with what is said about ex-dates."""
    async with http_client() as http:

        def upstox(now_s=lambda: NOW_S, **options) -> Upstox:
            clocks = {"monotonic_s": passing.monotonic_s, "sleep": passing.sleep}
            urls = {"base_url": server.url, "files_url": f"{server.url}/files"}
            return Upstox(http, SESSIONS, now_s, lambda: SecretStr("the-token"), **urls, **clocks, **options)

        yield upstox


async def test_the_documented_quote(make, server):
    server.replies[QUOTES] = success({"NSE_EQ:NHPC": SAID})
    quotes = await make().quotes(["NHPC", "INFY", "GONE"])
    assert list(quotes) == ["NHPC"]
    quote = quotes["NHPC"]
    assert (quote.symbol, quote.source) == ("NHPC", "upstox")
    assert quote.as_of_s == pytest.approx(at_s("2023-10-19 05:21:51") + 0.099)
    assert (quote.last, quote.bid, quote.ask) == (Decimal("52.05"), Decimal("52.05"), None)
    assert (quote.open, quote.high, quote.low) == (Decimal("53.4"), Decimal("53.8"), Decimal("51.75"))
    assert quote.previous_close == Decimal("53.25"), "what the change was counted from, and not the last price again"
    assert quote.volume == 24123697
    assert (quote.lower_band, quote.upper_band) == (Decimal("42.6"), Decimal("63.9"))
    asked = server.asked[-1]
    assert asked.headers["authorization"] == "Bearer the-token"
    assert asked.query["instrument_key"].split(",") == [KEY, "NSE_EQ|INE009A01021"]
    assert "authorization" not in server.asked[0].headers, (
        "the file is everybody's: the token is no business of its host"
    )


async def test_a_quote_is_whose_key_it_carries(make, server):
    server.replies[QUOTES] = success({"NSE_EQ:NHPC": SAID | {"instrument_token": "NSE_EQ|INE009A01021"}})
    assert list(await make().quotes(["NHPC", "INFY"])) == ["INFY"]


async def test_quotes_go_out_five_hundred_at_a_time(make, server):
    symbols = [f"S{number}" for number in range(1100)]
    server.replies[FILE] = Reply(packed(*(row(symbol, f"INE{at:04}01011") for at, symbol in enumerate(symbols))))
    server.replies[QUOTES] = success({})
    assert await make().quotes(symbols) == {}
    assert [len(asked.query["instrument_key"].split(",")) for asked in server.asked[1:]] == [500, 500, 100]


async def test_nothing_is_asked_about_what_is_not_listed(make, server):
    assert await make().quotes(["GONE"]) == {}
    assert server.paths() == [FILE]


async def test_candles_become_finished_bars_those_of_today_from_their_own_address(make, server):
    server.replies[f"{CANDLES}/minutes/5/2026-11-19/2026-11-19"] = candles(
        ["2026-11-19T09:20:00+05:30", 50, 51, 49.95, 50.5, 900, 0],
        ["2026-11-19T09:15:00+05:30", 49, 50, 48.9, 50, 1000, 0],
    )
    server.replies[f"{TODAYS}/minutes/5"] = candles(
        ["2026-11-20T09:20:00+05:30", 52, 52, 51, 51.5, 10, 0],
        ["2026-11-20T09:15:00+05:30", 51.05, 52, 51, 52, 700, 0],
    )
    upstox = make(lambda: at_s("2026-11-20 09:22"))
    bars = await upstox.bars(["NHPC", "GONE"], Interval.MIN_5, date(2026, 11, 19), date(2026, 11, 25))
    assert bars.rows() == [
        ("NHPC", at_s("2026-11-19 09:15"), 4900, 5000, 4890, 5000, 1000, "upstox"),
        ("NHPC", at_s("2026-11-19 09:20"), 5000, 5100, 4995, 5050, 900, "upstox"),
        ("NHPC", at_s("2026-11-20 09:15"), 5105, 5200, 5100, 5200, 700, "upstox"),
    ]


async def test_a_long_range_is_asked_for_in_parts(make, server):
    upstox = make()
    for first, last in (("2026-08-01", "2026-08-28"), ("2026-08-29", "2026-09-25"), ("2026-09-26", "2026-09-30")):
        server.replies[f"{CANDLES}/minutes/1/{last}/{first}"] = candles()
    await upstox.bars(["NHPC"], Interval.MIN_1, date(2026, 8, 1), date(2026, 9, 30))
    assert len(server.asked) == 4


async def test_what_is_too_old_to_be_there_is_not_asked_for(make, server):
    server.replies[f"{CANDLES}/minutes/30/2022-01-10/2022-01-01"] = candles()
    await make().bars(["NHPC"], Interval.MIN_30, date(2015, 1, 1), date(2022, 1, 10))
    assert len(server.asked) == 2
    assert (await make().bars(["NHPC"], Interval.DAY_1, date(1990, 1, 1), date(1999, 12, 31))).is_empty()


async def test_what_it_may_have_adjusted_is_not_taken(make, server):
    server.replies[f"{CANDLES}/days/1/2024-10-28/2024-10-28"] = candles(
        ["2024-10-28T00:00:00+05:30", 80, 81, 79, 80.5, 2000, 0],
        ["2024-10-25T00:00:00+05:30", 40, 41, 39, 40.5, 1000, 0],
    )
    days = date(2024, 10, 1), date(2024, 10, 28)
    bars = await make(adjusted_before=lambda symbol: date(2024, 10, 28)).bars(["NHPC"], Interval.DAY_1, *days)
    assert [ist_date(ist_instant(start)) for start in bars["start"]] == [date(2024, 10, 28)]
    later = make(adjusted_before=lambda symbol: date(2025, 1, 1))
    assert (await later.bars(["NHPC"], Interval.DAY_1, *days)).is_empty()


async def test_a_burst_is_let_through_and_then_one_a_second(passing):
    pace = Pace(1, passing.monotonic_s, passing.sleep, at_once=3)
    for _ in range(5):
        await pace.wait()
    assert passing.slept == [1, 1]
    passing.now_s += 100
    for _ in range(4):
        await pace.wait()
    assert passing.slept == [1, 1, 1], "what was not used is saved up to the burst, and no further"


async def test_instruments(make, server):
    server.replies[FILE] = Reply(
        packed(
            NHPC,
            FUTURE,
            row("SLOW", "INE111A01011", instrument_type="EQ", tick_size=5.0),
            row("SLOW-BE", "INE111A01011", instrument_type="BE"),
            row("HELD-BE", "INE222A01011", instrument_type="BE", tick_size=0.05),
            row("GOLDBEES", "INF204KB17I5"),
            row("BOND", "INE333A07011"),
            row("GSEC", "IN0020240019", instrument_type="GS"),
            row("SMALL", "INE444A01011", instrument_type="SM"),
            row("BARE", "INE555A01011", instrument_key=None),
        )
    )
    shares = await make().instruments()
    assert shares.schema == INSTRUMENT_SCHEMA
    rows = {one["symbol"]: one for one in shares.iter_rows(named=True)}
    assert set(rows) == {"NHPC", "SLOW", "HELD", "GOLDBEES"}
    told = ("exchange", "name", "isin", "series", "tick_paise", "lot_size", "known_on", "source")
    assert [rows["NHPC"][name] for name in told] == [
        *("nse", "NHPC LTD", "INE848E01016", "EQ", 1, 1, date(2026, 11, 20), "upstox")
    ]
    assert (rows["SLOW"]["series"], rows["SLOW"]["tick_paise"]) == ("EQ", 5)
    assert (rows["HELD"]["series"], rows["HELD"]["tick_paise"]) == ("BE", None), "no tick is a fraction of a paisa"


async def test_the_file_of_before_the_morning_is_yesterdays_and_is_fetched_again(make, server):
    present = [at_s("2026-11-20 00:05")]
    upstox = make(lambda: present[0])
    assert await upstox.keys(["NHPC", "GONE"]) == {KEY: "NHPC"}
    server.replies[FILE] = Reply(packed(row("NHPC", "INE848E01024")))
    present[0] = at_s("2026-11-20 06:29")
    assert await upstox.keys(["NHPC"]) == {KEY: "NHPC"}
    present[0] = at_s("2026-11-20 06:31")
    assert await upstox.keys(["NHPC"]) == {"NSE_EQ|INE848E01024": "NHPC"}
    present[0] = at_s("2026-11-20 23:59")
    await upstox.keys(["NHPC"])
    assert server.paths().count(FILE) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        packed(NHPC)[:-9],
        gzip.compress(b"<html>", mtime=0),
        gzip.compress(b'{"a": 1}', mtime=0),
        packed(),
        packed(FUTURE),
        packed([1]),
        packed(NHPC | {"tick_size": "5"}),
    ],
)
def test_a_file_that_is_none(content):
    with pytest.raises(ProviderError):
        shares_of(content, "here")


def test_a_file_that_unpacks_to_too_much():
    with pytest.raises(ProviderError, match="when unpacked"):
        shares_of(gzip.compress(bytes(FILE_BYTES_MAX + 1), 1), "here")


def failing(code: str, status: int, spelling: str = "errorCode", **headers: str) -> Reply:
    return as_json({"status": "error", "errors": [{spelling: code, "message": "as it says"}]}, status, **headers)


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (failing("UDAPI100050", 401), SessionEndedError, "token is over: set a new one"),
        (failing("UDAPI100016", 400, "error_code"), SessionEndedError, "token is over"),
        (failing("UDAPI100099", 401), SessionEndedError, "token is over"),
        (failing("UDAPI100011", 400), ProviderError, "400 UDAPI100011: as it says"),
        (failing("UDAPI100500", 500), ProviderError, "500 UDAPI100500"),
        (failing("UDAPI10005", 400), RateLimitedError, "as it says"),
        (failing("UDAPI10005", 429, **{"retry-after": "7"}), RateLimitedError, "as it says"),
        (Reply(b"Too many requests", 429), RateLimitedError, "429"),
        (Reply(b"<html>", 502), ProviderError, "answered 502"),
        (as_json({"status": "error", "errors": []}, 401), ProviderError, "answered 401"),
        (as_json({"status": "error", "errors": [5]}, 401), ProviderError, "answered 401"),
        (HTML, ProviderError, "not JSON"),
        (failing("UDAPI100011", 200), ProviderError, "not a success"),
        (as_json({"status": "error", "data": {}}), ProviderError, "not a success"),
        (success([]), ProviderError, "not a success"),
        (as_json(["status"]), ProviderError, "not a success"),
        (success({"NSE_EQ:NHPC": 5}), ProviderError, "malformed"),
        (success({"NSE_EQ:NHPC": {"last_price": 5}}), ProviderError, "malformed"),
        (success({"NSE_EQ:NHPC": SAID | {"timestamp": "soon"}}), ProviderError, "malformed"),
        (success({"NSE_EQ:NHPC": SAID | {"timestamp": "2026-11-20T09:15:00"}}), ProviderError, "malformed"),
        (success({"NSE_EQ:NHPC": SAID | {"last_price": "5"}}), ProviderError, "no number"),
    ],
)
async def test_errors_are_named(make, server, reply, error, said):
    server.replies[QUOTES] = reply
    with pytest.raises(error, match=said) as caught:
        await make().quotes(["NHPC"])
    assert type(caught.value) is error
    assert "the-token" not in str(caught.value)


async def test_malformed_candles(make, server):
    day = date(2026, 11, 19), date(2026, 11, 19)
    for said in ({"candles": [["2026-11-19"]]}, {"candles": [[5, 1, 1, 1, 1, 1]]}, {}, {"candles": None}):
        server.replies[f"{CANDLES}/days/1/2026-11-19/2026-11-19"] = success(said)
        with pytest.raises(ProviderError, match="malformed"):
            await make().bars(["NHPC"], Interval.DAY_1, *day)


async def test_one_bad_symbol_keeps_the_others(make, server):
    server.replies["/v3/historical-candle/NSE_EQ|INE009A01021/days/1/2026-11-19/2026-11-19"] = candles(
        ["2026-11-19T00:00:00+05:30", 10, 11, 9, 10.5, 5, 0]
    )
    server.replies[f"{CANDLES}/days/1/2026-11-19/2026-11-19"] = HTML
    with pytest.raises(IncompleteError, match="not JSON") as caught:
        await make().bars(["NHPC", "INFY"], Interval.DAY_1, date(2026, 11, 19), date(2026, 11, 19))
    assert caught.value.got["symbol"].to_list() == ["INFY"]


FEED = "/v3/feed/market-data-feed/authorize"


async def test_the_stream_has_an_address_of_its_own_kind_and_no_other(make, server):
    """Over plain HTTP, as here, a plain one: what is streamed counts as Upstox's, whoever sends it."""
    upstox = make()
    server.replies[FEED] = success({"authorized_redirect_uri": "ws://127.0.0.1:1/feed?code=1"})
    assert await upstox.feed_address() == "ws://127.0.0.1:1/feed?code=1"
    for data in ({"authorized_redirect_uri": "http://127.0.0.1/"}, {"authorized_redirect_uri": 7}, {}):
        server.replies[FEED] = success(data)
        with pytest.raises(ProviderError, match="no address"):
            await upstox.feed_address()
    server.replies[FEED] = failing("UDAPI100050", 401)
    with pytest.raises(SessionEndedError):
        await upstox.feed_address()
