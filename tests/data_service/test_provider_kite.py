"""Kite's REST market data, served by a real server from the broker's own sample replies."""

from datetime import date, datetime
from decimal import Decimal

import pytest
import pytest_asyncio
from provider_world import http_client, needs_shared_data, shared
from pydantic import SecretStr

from contracts.market import Interval
from data_service.providers.base import IncompleteError, ProviderError, RateLimitedError
from data_service.providers.kite import Kite, SessionEndedError
from data_service.providers.pace import Pace
from data_service.sessions import IST, ist_date, ist_instant, load_sessions
from data_service.store.schemas import INSTRUMENT_SCHEMA
from tests.support.upstream_server import HTML, Reply, UpstreamServer, as_json

SESSIONS = load_sessions()
DUMP = "/instruments/NSE"
HEADER = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange\n"
)


def at_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


NOW_S = at_s("2026-11-20 20:00")


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


def listed(*rows: tuple[int, str, str]) -> Reply:
    """A dump of (token, trading symbol, tick) rows."""
    lines = [f"{token},{token >> 8},{name},NAME,0.0,,0.0,{tick},1,EQ,NSE,NSE\n" for token, name, tick in rows]
    return Reply((HEADER + "".join(lines)).encode())


def candles(*rows: list) -> Reply:
    return as_json({"status": "success", "data": {"candles": list(rows)}})


@pytest_asyncio.fixture
async def server():
    async with UpstreamServer({DUMP: listed((738561, "RELIANCE", "0.1"), (408065, "INFY", "0.1"))}) as upstream:
        yield upstream


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest_asyncio.fixture
async def make(server, passing):
    """Kite as of an instant, with what is said about ex-dates."""
    async with http_client() as http:

        def kite(now_s=lambda: NOW_S, **options) -> Kite:
            clocks = {"monotonic_s": passing.monotonic_s, "sleep": passing.sleep}
            token = lambda: SecretStr("token-of-today")  # noqa: E731
            return Kite(http, SESSIONS, now_s, "the-key", token, base_url=server.url, **clocks, **options)

        yield kite


@needs_shared_data
async def test_the_original_quote(make, server):
    server.replies["/quote"] = Reply(shared("kite_samples/quote.json"))
    quotes = await make().quotes(["INFY", "GONE"])
    assert list(quotes) == ["INFY"]
    quote = quotes["INFY"]
    assert (quote.source, quote.as_of_s) == ("kite", at_s("2021-06-08 15:45:56"))
    assert (quote.last, quote.bid, quote.ask) == (Decimal("1412.95"), None, Decimal("1412.95"))
    assert (quote.open, quote.high, quote.low) == (Decimal(1396), Decimal("1421.75"), Decimal("1395.55"))
    assert (quote.previous_close, quote.volume) == (Decimal("1389.65"), 7360198)
    assert (quote.lower_band, quote.upper_band) == (Decimal("1250.7"), Decimal("1528.6"))
    headers = server.asked[0].headers
    assert headers["authorization"] == "token the-key:token-of-today"
    assert headers["x-kite-version"] == "3"


@needs_shared_data
async def test_the_original_dump(make, server):
    server.replies[DUMP] = Reply(shared("kite_samples/instruments_nse_2021-04_head.csv"))
    shares = await make().instruments()
    assert shares.schema == INSTRUMENT_SCHEMA
    rows = {row["symbol"]: row for row in shares.iter_rows(named=True)}
    assert (rows["ASTRAZEN"]["series"], rows["ASTRAZEN"]["tick_paise"], rows["ASTRAZEN"]["lot_size"]) == ("EQ", 5, 1)
    assert rows["63MOONS"]["series"] == "BE"
    assert rows["ASTRAZEN"]["known_on"] == date(2026, 11, 20)
    assert not {"INDIA VIX", "1018GS2026", "3RDROCK"} & set(rows), "indices, bonds and other series are no shares"
    assert set(shares["exchange"]) == {"nse"}


async def test_a_share_outside_eq_is_asked_for_under_its_trading_name(make, server):
    server.replies[DUMP] = listed((256, "SLOW-BE", "0.05"), (512, "BAJAJ-AUTO", "1"))
    server.replies["/quote"] = as_json({"status": "success", "data": {"NSE:SLOW-BE": {"last_price": 10.5}}})
    kite = make()
    assert set((await kite.instruments())["symbol"]) == {"SLOW", "BAJAJ-AUTO"}
    assert (await kite.quotes(["SLOW"]))["SLOW"].last == Decimal("10.5")


async def test_quotes_go_out_five_hundred_at_a_time_one_call_a_second(make, server, passing):
    said = {f"NSE:S{number}": {"last_price": 10} for number in range(1100)}
    server.replies["/quote"] = as_json({"status": "success", "data": said})
    quotes = await make().quotes([f"S{number}" for number in range(1100)])
    assert len(quotes) == 1100
    assert len(server.asked) == 3
    assert passing.slept == [1, 1]


async def test_candles_become_finished_bars(make, server):
    path = "/instruments/historical/738561/5minute"
    server.replies[path] = candles(
        ["2026-11-20T09:15:00+0530", 1430.05, 1432, 1429.9, 1431, 1000],
        ["2026-11-20T09:20:00+0530", 1431, 1433, 1430, 1432.5, 900],
        ["2026-11-20T09:25:00+0530", 1432, 1433, 1430, 1432.5, 10],
    )
    kite = make(lambda: at_s("2026-11-20 09:27"))
    bars = await kite.bars(["RELIANCE", "GONE"], Interval.MIN_5, date(2026, 11, 20), date(2026, 11, 25))
    assert bars.rows() == [
        ("RELIANCE", at_s("2026-11-20 09:15"), 143005, 143200, 142990, 143100, 1000, "kite"),
        ("RELIANCE", at_s("2026-11-20 09:20"), 143100, 143300, 143000, 143250, 900, "kite"),
    ]
    assert server.asked[1].query == {"from": "2026-11-20 00:00:00", "to": "2026-11-20 23:59:59"}


async def test_a_long_range_is_asked_for_in_parts_at_three_a_second(make, server, passing):
    server.replies["/instruments/historical/738561/minute"] = candles()
    await make().bars(["RELIANCE"], Interval.MIN_1, date(2026, 1, 1), date(2026, 6, 30))
    asked = [tuple(date.fromisoformat(one.query[end][:10]) for end in ("from", "to")) for one in server.asked[1:]]
    assert asked == [
        (date(2026, 1, 1), date(2026, 3, 1)),
        (date(2026, 3, 2), date(2026, 4, 30)),
        (date(2026, 5, 1), date(2026, 6, 29)),
        (date(2026, 6, 30), date(2026, 6, 30)),
    ]
    assert passing.slept == [0.333333] * 3


async def test_what_it_may_have_adjusted_is_not_taken(make, server):
    path = "/instruments/historical/738561/day"
    server.replies[path] = candles(
        ["2024-10-25T00:00:00+0530", 1332.8, 1341, 1315, 1327.55, 1000],
        ["2024-10-28T00:00:00+0530", 1340, 1350, 1330, 1345, 2000],
    )
    days = date(2024, 10, 1), date(2024, 10, 28)
    bars = await make(adjusted_before=lambda symbol: date(2024, 10, 28)).bars(["RELIANCE"], Interval.DAY_1, *days)
    assert [ist_date(ist_instant(start)) for start in bars["start"]] == [date(2024, 10, 28)]
    assert server.asked[1].query["from"] == "2024-10-28 00:00:00"
    later = make(adjusted_before=lambda symbol: date(2025, 1, 1))
    assert (await later.bars(["RELIANCE"], Interval.DAY_1, *days)).is_empty()


async def test_the_dump_is_fetched_once_a_day(make, server):
    server.replies["/instruments/historical/738561/day"] = candles()
    present = [NOW_S]
    kite = make(lambda: present[0])
    for _ in range(3):
        await kite.bars(["RELIANCE"], Interval.DAY_1, date(2026, 11, 20), date(2026, 11, 20))
    assert server.paths().count(DUMP) == 1
    present[0] += 86_400
    await kite.instruments()
    assert server.paths().count(DUMP) == 2


async def test_a_dump_of_before_the_morning_is_yesterdays_and_is_fetched_again(make, server):
    server.replies[DUMP] = listed((256, "SLOW", "0.05"))
    present = [at_s("2026-11-20 00:05")]
    kite = make(lambda: present[0])
    assert await kite.tokens(["SLOW"]) == {256: "SLOW"}
    server.replies[DUMP] = listed((512, "SLOW-BE", "0.05"))
    present[0] = at_s("2026-11-20 08:29")
    assert await kite.tokens(["SLOW"]) == {256: "SLOW"}
    present[0] = at_s("2026-11-20 08:31")
    assert await kite.tokens(["SLOW"]) == {512: "SLOW"}
    present[0] = at_s("2026-11-20 23:59")
    await kite.tokens(["SLOW"])
    assert server.paths().count(DUMP) == 2


def failing(kind: str, status: int, **headers: str) -> Reply:
    return as_json({"status": "error", "message": "as it says", "error_type": kind}, status, **headers)


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (failing("TokenException", 403), SessionEndedError, "session has ended: log in again"),
        (failing("PermissionException", 403), ProviderError, "403 PermissionException: as it says"),
        (failing("InputException", 400), ProviderError, "400 InputException"),
        (failing("NetworkException", 503), ProviderError, "503 NetworkException"),
        (failing("NetworkException", 429, **{"retry-after": "7"}), RateLimitedError, "as it says"),
        (Reply(b"Too many requests", 429), RateLimitedError, "429"),
        (Reply(b"<html>", 502), ProviderError, "answered 502"),
        (HTML, ProviderError, "not JSON"),
        (failing("GeneralException", 200), ProviderError, "not a success"),
        (as_json({"status": "error", "data": {}}), ProviderError, "not a success"),
        (as_json({"status": "success", "data": []}), ProviderError, "not a success"),
        (as_json(["status"]), ProviderError, "not a success"),
        (as_json({"status": "success", "data": {"NSE:INFY": 5}}), ProviderError, "malformed"),
        (as_json({"status": "success", "data": {"NSE:INFY": {"timestamp": "soon"}}}), ProviderError, "malformed"),
        (as_json({"status": "success", "data": {"NSE:INFY": {"last_price": "5"}}}), ProviderError, "no number"),
    ],
)
async def test_errors_are_named(make, server, reply, error, said):
    server.replies["/quote"] = reply
    with pytest.raises(error, match=said) as caught:
        await make().quotes(["INFY"])
    assert type(caught.value) is error
    assert "token-of-today" not in str(caught.value)


async def test_malformed_candles_and_dumps(make, server):
    day = date(2026, 11, 19), date(2026, 11, 19)
    for said in ({"candles": [["2026-11-19"]]}, {"candles": [[5, 1, 1, 1, 1, 1]]}, {}, {"candles": None}):
        server.replies["/instruments/historical/738561/day"] = as_json({"status": "success", "data": said})
        with pytest.raises(ProviderError, match="malformed"):
            await make().bars(["RELIANCE"], Interval.DAY_1, *day)
    for dump in (HTML, Reply(b""), Reply(HEADER.encode() + b"x,1,INFY,N,0,,0,0.05,1,EQ,NSE,NSE\n")):
        server.replies[DUMP] = dump
        with pytest.raises(ProviderError):
            await make().instruments()


async def test_one_bad_symbol_keeps_the_others(make, server):
    server.replies["/instruments/historical/408065/day"] = candles(["2026-11-19T00:00:00+0530", 10, 11, 9, 10.5, 5])
    server.replies["/instruments/historical/738561/day"] = HTML
    with pytest.raises(IncompleteError, match="not JSON") as caught:
        await make().bars(["RELIANCE", "INFY"], Interval.DAY_1, date(2026, 11, 19), date(2026, 11, 19))
    assert caught.value.got["symbol"].to_list() == ["INFY"]


async def test_calls_keep_their_distance_whenever_they_come(passing):
    pace = Pace(4, passing.monotonic_s, passing.sleep)
    begun = []
    for pause in (0, 0, 0.1, 1.0, 0):
        passing.now_s += pause
        await pace.wait()
        begun.append(round(passing.now_s - 50, 6))
    assert begun == [0, 0.25, 0.5, 1.5, 1.75]
