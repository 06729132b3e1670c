"""BSE's archive, served by a real server; symbols are scrip codes."""

from datetime import date

import pytest
import pytest_asyncio
from provider_world import http_client, needs_shared_data, shared, zipped

from contracts.market import Interval
from data_service.providers.base import ProviderError, UnsupportedError
from data_service.providers.bse import Bse, archive_file
from data_service.sessions import load_sessions
from data_service.store.schemas import BAR_SCHEMA
from tests.support.upstream_server import HTML, Reply, UpstreamServer

DAY = Interval.DAY_1
TODAY = date(2026, 11, 20)
APRIL_1, JUNE_18 = date(2021, 4, 1), date(2025, 6, 18)
COLUMNS = (
    "TradDt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,FinInstrmNm,OpnPric,HghPric,LwPric,ClsPric,TtlTradgVol"
)
UDIFF = f"""{COLUMNS}
2025-06-18,BSE,STK,500325,INE002A01018,RELIANCE,A,RELIANCE INDUSTRIES LTD,1430.05,1442.50,1426.00,1431.20,123456
2025-06-18,BSE,STK,500180,INE040A01034,HDFCBANK,A,HDFC BANK LTD,1930.00,1940.00,1925.00,1932.00,5
2025-06-18,BSE,STK,800001,IN0020200104,SGBJUN28,G,GOLD BOND,9900.00,9900.00,9815.00,9870.00,58
"""


@pytest_asyncio.fixture
async def server():
    async with UpstreamServer() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def bse(server):
    async with http_client() as http:
        yield Bse(http, load_sessions(), lambda: TODAY, archive_url=server.url)


@needs_shared_data
async def test_the_original_old_file_becomes_bars(bse, server):
    server.replies = {archive_file(APRIL_1)[0]: Reply(zipped({"EQ010421.CSV": shared("bhavcopy/EQ010421.CSV")}))}
    bars = await bse.bars(["500002", "RELIANCE"], DAY, APRIL_1, APRIL_1)
    assert bars.schema == BAR_SCHEMA
    assert bars.drop("start").rows() == [("500002", 142095, 142500, 139300, 139725, 5140, "bse")]


async def test_the_common_layout_is_read_by_scrip_code(bse, server):
    server.replies = {archive_file(JUNE_18)[0]: Reply(UDIFF.encode())}
    bars = await bse.bars(["500325", "800001", "HDFCBANK"], DAY, JUNE_18, JUNE_18)
    assert bars.drop("start").rows() == [("500325", 143005, 144250, 142600, 143120, 123456, "bse")]


def test_where_a_day_is_kept():
    assert archive_file(APRIL_1) == ("/download/BhavCopy/Equity/EQ010421_CSV.ZIP", "bse_old")
    common = "/download/BhavCopy/Equity/BhavCopy_BSE_CM_0_0_0_20250618_F_0000.CSV"
    assert archive_file(JUNE_18) == (common, "udiff")


async def test_nothing_is_fetched_for_other_symbols_or_closed_days(bse, server):
    assert (await bse.bars(["RELIANCE"], DAY, JUNE_18, JUNE_18)).is_empty()
    assert (await bse.bars(["500325"], DAY, date(2025, 6, 21), date(2025, 6, 22))).is_empty()
    assert (await bse.bars(["500325"], DAY, date(2026, 11, 21), date(2026, 11, 30))).is_empty()
    assert server.asked == []


async def test_absence_damage_and_another_exchanges_file(bse, server):
    assert (await bse.bars(["500325"], DAY, JUNE_18, JUNE_18)).is_empty()
    nse_file = UDIFF.replace(",BSE,", ",NSE,").replace(",A,", ",EQ,")
    for reply, said in (
        (HTML, "layout|columns"),
        (Reply(status=500), "answered 500"),
        (Reply(nse_file.encode()), "is not bse's"),
        (Reply(UDIFF.replace("2025-06-18", "2025-06-17").encode()), "holds 2025-06-17"),
    ):
        server.replies = {archive_file(JUNE_18)[0]: reply}
        with pytest.raises(ProviderError, match=said):
            await bse.bars(["500325"], DAY, JUNE_18, JUNE_18)
    with pytest.raises(UnsupportedError):
        await bse.bars(["500325"], Interval.MIN_5, JUNE_18, JUNE_18)
