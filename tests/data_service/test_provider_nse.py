"""NSE's archives, served by a real server from the exchange's original files."""

from datetime import date

import polars as pl
import pytest
import pytest_asyncio
from provider_world import http_client, needs_shared_data, shared, zipped

from contracts.market import ActionKind, Interval
from data_service.providers.base import IncompleteError, ProviderError, RateLimitedError, UnsupportedError
from data_service.providers.nse import Nse, archive_files
from data_service.sessions import ist_date, ist_instant, load_sessions
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, INSTRUMENT_SCHEMA
from tests.support.upstream_server import HTML, NOT_FOUND, Reply, UpstreamServer, as_json

DAY = Interval.DAY_1
TODAY = date(2026, 11, 20)
JUNE_18, JUNE_19 = date(2025, 6, 18), date(2025, 6, 19)
UDIFF_COLUMNS = (
    "TradDt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,FinInstrmNm,OpnPric,HghPric,LwPric,ClsPric,TtlTradgVol"
)
SESSIONS = load_sessions()


@pytest_asyncio.fixture
async def http():
    async with http_client() as client:
        yield client


@pytest_asyncio.fixture
async def server():
    async with UpstreamServer() as upstream:
        yield upstream


@pytest.fixture
def nse(http, server):
    return Nse(http, SESSIONS, lambda: TODAY, archives_url=server.url, site_url=server.url)


def udiff(day: date, *rows: tuple[str, str], src: str = "NSE") -> Reply:
    """A bhavcopy with (symbol, close) rows of series EQ."""
    lines = [
        f"{day},{src},STK,1,INE000A01010,{symbol},EQ,NAME,{close},{close},{close},{close},10" for symbol, close in rows
    ]
    return Reply(zipped({"any.csv": "\n".join([UDIFF_COLUMNS, *lines]).encode()}))


def path(day: date, attempt: int = 0) -> str:
    return archive_files(day)[attempt][0]


def days_of(bars: pl.DataFrame) -> list[date]:
    return [ist_date(ist_instant(start)) for start in bars["start"].unique().sort()]


@needs_shared_data
async def test_the_original_bhavcopies_become_bars(nse, server):
    server.replies = {
        path(JUNE_18): Reply(shared("bhavcopy/20250618.zip")),
        path(JUNE_19): Reply(shared("bhavcopy/20250619.zip")),
        path(date(2021, 1, 1)): Reply(zipped({"cm01JAN2021bhav.csv": shared("bhavcopy/cm01JAN2021bhav.csv.gz")})),
        path(date(2025, 7, 1), 1): Reply(shared("bhavcopy/sec_bhavdata_full_01072025.csv.gz")),
    }
    bars = await nse.bars(["RELIANCE", "M&M", "500325"], DAY, JUNE_18, JUNE_19)
    assert bars.schema == BAR_SCHEMA
    assert bars.sort("symbol", "start").select("symbol", "open", "high", "low", "close", "source").rows() == [
        ("M&M", 300000, 307490, 298660, 304110, "nse"),
        ("M&M", 303800, 310690, 303420, 309480, "nse"),
        ("RELIANCE", 143000, 144280, 142570, 143010, "nse"),
        ("RELIANCE", 143010, 143990, 142570, 143330, "nse"),
    ]
    assert days_of(bars) == [JUNE_18, JUNE_19]
    old = await nse.bars(["20MICRONS"], DAY, date(2021, 1, 1), date(2021, 1, 3))
    assert old.select("open", "high", "low", "close", "volume").rows() == [(4075, 4080, 3980, 4005, 126229)]
    full = await nse.bars(["20MICRONS"], DAY, date(2025, 7, 1), date(2025, 7, 1))
    assert full.select("open", "high", "low", "close", "volume").rows() == [(23360, 23585, 22874, 23194, 81262)]


@pytest.mark.parametrize(
    ("day", "first"),
    [
        (date(2021, 1, 4), "/content/historical/EQUITIES/2021/JAN/cm04JAN2021bhav.csv.zip"),
        (date(2024, 7, 5), "/content/historical/EQUITIES/2024/JUL/cm05JUL2024bhav.csv.zip"),
        (date(2024, 7, 8), "/content/cm/BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv.zip"),
    ],
)
def test_where_a_day_is_kept(day, first):
    assert path(day) == first
    assert path(day, 1) == f"/products/content/sec_bhavdata_full_{day:%d%m%Y}.csv"


async def test_only_sessions_up_to_today_are_asked_for(nse, server):
    friday, monday = TODAY, date(2026, 11, 23)
    server.replies = {path(friday): udiff(friday, ("INFY", "1500.00"))}
    bars = await nse.bars(["INFY"], DAY, date(2026, 11, 14), monday)
    assert bars["close"].to_list() == [150000]
    sessions = [session.day for session in SESSIONS.all if date(2026, 11, 14) <= session.day <= friday]
    asked = {path(day) for day in sessions} | {path(day, 1) for day in sessions if day != friday}
    assert sorted(server.paths()) == sorted(asked)


async def test_nothing_is_fetched_for_bses_scrip_codes(nse, server):
    assert (await nse.bars(["500325"], DAY, JUNE_18, JUNE_19)).is_empty()
    assert server.asked == []


async def test_a_day_not_yet_published_is_an_absence(nse, server):
    bars = await nse.bars(["INFY"], DAY, TODAY, TODAY)
    assert (bars.schema, bars.height) == (BAR_SCHEMA, 0)
    assert server.paths() == [path(TODAY), path(TODAY, 1)]


async def test_one_bad_day_keeps_the_others(nse, server):
    server.replies = {path(JUNE_18): udiff(JUNE_18, ("INFY", "1500.00")), path(JUNE_19): HTML}
    with pytest.raises(IncompleteError, match="damaged zip") as caught:
        await nse.bars(["INFY"], DAY, JUNE_18, JUNE_19)
    assert days_of(caught.value.got) == [JUNE_18]
    with pytest.raises(ProviderError, match="damaged zip") as caught:
        await nse.bars(["INFY"], DAY, JUNE_19, JUNE_19)
    assert not isinstance(caught.value, IncompleteError)


async def test_the_second_file_serves_where_the_first_is_damaged(nse, server):
    header = "SYMBOL, SERIES, DATE1, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, CLOSE_PRICE, TTL_TRD_QNTY"
    csv = f"{header}\nINFY, EQ, 18-Jun-2025, 1, 3, 1, 2, 5\n"
    server.replies = {path(JUNE_18): HTML, path(JUNE_18, 1): Reply(csv.encode())}
    bars = await nse.bars(["INFY"], DAY, JUNE_18, JUNE_18)
    assert bars.select("open", "high", "low", "close", "volume").rows() == [(100, 300, 100, 200, 5)]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (udiff(JUNE_19, ("INFY", "1500")), "holds 2025-06-19"),
        (udiff(JUNE_18, ("INFY", "1500"), src="BSE"), "no row of series|is not nse's"),
        (Reply(zipped({"a.csv": b"<html>maintenance</html>"})), "layout|columns"),
        (Reply(udiff(JUNE_18, ("INFY", "1500")).body[:-30]), "damaged zip"),
        (Reply(status=500), "answered 500"),
    ],
)
async def test_another_files_content_is_refused(nse, server, reply, said):
    server.replies = {path(JUNE_18): reply}
    with pytest.raises(ProviderError, match=said):
        await nse.bars(["INFY"], DAY, JUNE_18, JUNE_18)


async def test_a_limit_is_heeded_at_once(nse, server):
    server.everywhere = Reply(status=429, headers={"retry-after": "30"})
    with pytest.raises(RateLimitedError) as caught:
        await nse.bars(["INFY"], DAY, date(2025, 6, 1), date(2025, 6, 30))
    assert caught.value.retry_after_s == 30
    assert len(server.asked) <= 4


async def test_intraday_bars_are_not_offered(nse):
    with pytest.raises(UnsupportedError):
        await nse.bars(["INFY"], Interval.MIN_1, JUNE_18, JUNE_18)


async def test_instruments(nse, server):
    listed = (
        "SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, PAID UP VALUE, MARKET LOT, ISIN NUMBER, FACE VALUE\n"
        'M&M,"Mahindra & Mahindra, Limited",EQ,03-JAN-1996,5,1,INE101A01026,5\n'
        "SLOW,Slow Limited,BE,03-JAN-1996,5,1,INE001A01001,5\n"
        "STOPPED,Stopped Limited,BZ,03-JAN-1996,5,1,INE002A01002,5\n"
    )
    server.replies = {"/content/equities/EQUITY_L.csv": Reply(listed.encode())}
    shares = await nse.instruments()
    assert shares.schema == INSTRUMENT_SCHEMA
    assert shares.select("symbol", "name", "isin", "series", "lot_size", "known_on", "source").rows() == [
        ("M&M", "Mahindra & Mahindra, Limited", "INE101A01026", "EQ", 1, TODAY, "nse"),
        ("SLOW", "Slow Limited", "INE001A01001", "BE", 1, TODAY, "nse"),
    ]
    assert shares["tick_paise"].to_list() == [None, None]
    server.everywhere = HTML
    with pytest.raises(ProviderError, match="no column"):
        await nse.instruments()


FEED = "/api/corporates-corporateActions"
BONUS = {"symbol": "RELIANCE", "series": "EQ", "isin": "INE002A01018", "comp": "Reliance", "exDate": "28-Oct-2024"}


@needs_shared_data
async def test_actions_come_from_the_original_feed(nse, server):
    server.replies = {FEED: Reply(shared("corporate_actions_2019_2024.csv"))}
    actions = await nse.actions(date(2024, 10, 28), date(2024, 10, 28))
    assert actions.schema == ACTION_SCHEMA
    bonus = actions.filter(pl.col("symbol") == "RELIANCE").row(0, named=True)
    assert (bonus["kind"], bonus["shares_before"], bonus["shares_after"]) == (ActionKind.BONUS, 1, 2)
    assert set(actions["ex_date"]) == {date(2024, 10, 28)}
    assert server.asked[0].query == {"index": "equities", "from_date": "28-10-2024", "to_date": "28-10-2024"}


async def test_actions_are_read_from_the_sites_json_too(nse, server):
    server.replies = {FEED: as_json([{**BONUS, "subject": "Bonus 1:1", "faceVal": "10", "recDate": None}])}
    actions = await nse.actions(date(2024, 10, 1), date(2024, 10, 31))
    assert actions.select("symbol", "ex_date", "kind", "shares_after", "source").rows() == [
        ("RELIANCE", date(2024, 10, 28), ActionKind.BONUS, 2, "nse")
    ]
    assert (await nse.actions(date(2024, 11, 1), date(2024, 11, 2))).is_empty()
    server.replies = {FEED: as_json([])}
    assert (await nse.actions(date(2024, 10, 1), date(2024, 10, 31))).schema == ACTION_SCHEMA


async def test_the_sites_cookie_is_fetched_once_it_is_asked_for(nse, server):
    page = "/companies-listing/corporate-filings-actions"
    server.replies = {FEED: Reply(status=403), page: Reply(headers={"set-cookie": "nsit=1; path=/"})}
    with pytest.raises(ProviderError, match="answered 403"):
        await nse.actions(date(2024, 10, 1), date(2024, 10, 31))
    assert server.paths() == [FEED, page, FEED]
    assert "nsit=1" in server.asked[2].headers["cookie"]


@pytest.mark.parametrize("reply", [HTML, NOT_FOUND, as_json([1]), as_json([{"a": 1}]), Reply(b"[{"), Reply(b"")])
async def test_a_feed_that_is_none_is_refused(nse, server, reply):
    server.replies = {FEED: reply}
    with pytest.raises(ProviderError):
        await nse.actions(date(2024, 10, 1), date(2024, 10, 31))
