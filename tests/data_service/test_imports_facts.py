"""Lists of instruments and of changed symbols in the spellings they come in."""

from datetime import date

import pytest
from data_market import SHARED_DATA, at_s, short_calendar
from typer.testing import CliRunner

from data_service.imports.checked import read_checked
from data_service.imports.load import import_file
from data_service.imports.source import ImportRefusedError
from data_service.instruments import InstrumentMaster
from data_service.store.stores import embedded
from sauda.data import app

CALENDAR = short_calendar()
DAY = date(2025, 6, 2)
NOW_S = at_s("2026-01-01 00:00")

EQUITY_L = """SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, PAID UP VALUE, MARKET LOT, ISIN NUMBER, FACE VALUE
TCS,Tata Consultancy Services Limited,EQ,25-AUG-2004,1,1,INE467B01029,1
"""
SEC_LIST = """Symbol,Series,Security Name,Band,Remarks
TCS,EQ,Tata Consultancy Services Limited,No Band,-
SMALLCO,BE,Small Company Limited,5,-
"""
OWN = """symbol,tick_size,lot_size,freeze_quantity,has_derivatives,band
TCS,0.10,1,50000,yes,
SMALLCO,0.05,1,,no,10
"""


def stored(tmp_path, *texts: str):
    stores = embedded(tmp_path / "store")
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.csv"
        path.write_text(text)
        assert import_file(stores, CALENDAR, path, now_s=NOW_S, said_on=DAY).imported
    return InstrumentMaster(stores.facts.instruments(), {})


def test_the_master_is_what_all_lists_say_together(tmp_path):
    master = stored(tmp_path, EQUITY_L, SEC_LIST, OWN)
    tcs, small = master.at("TCS", 300_000, DAY), master.at("SMALLCO", 9_000, DAY)
    assert (tcs.isin, tcs.series, tcs.name) == ("INE467B01029", "EQ", "Tata Consultancy Services Limited")
    assert (str(tcs.tick_size_rupees), tcs.freeze_quantity, tcs.has_derivatives, tcs.band_pct) == (
        "0.10",
        50_000,
        True,
        None,
    )
    assert (small.series, str(small.tick_size_rupees), str(small.band_pct)) == ("BE", "0.05", "10.00")
    assert "TCS" in master.derivatives
    assert master.at("TCS", 300_000, date(2025, 6, 1)).isin is None, "a day earlier nobody had said so"


def test_bands_and_flags_alone_change_what_is_allowed(tmp_path):
    master = stored(tmp_path, SEC_LIST)
    assert master.band_pct("SMALLCO", DAY) == 5
    assert master.band_pct("SMALLCO", date(2025, 6, 1)) == 20


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",0.05,1,1,no,5", "symbol (missing) is not valid"),
        ("A B,0.05,1,1,no,5", "symbol A B is not valid"),
        ("AAA,free,1,1,no,5", "tick free is no price"),
        ("AAA,0,1,1,no,5", "tick 0 is no price"),
        ("AAA,0.05,none,1,no,5", "lot none is no count"),
        ("AAA,0.05,0,1,no,5", "lot 0 is no count"),
        ("AAA,0.05,1,many,no,5", "freeze quantity many is no count"),
        ("AAA,0.05,1,1,perhaps,5", "perhaps is neither yes nor no"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, reason):
    path = tmp_path / "own.csv"
    path.write_text(OWN + row + "\n")
    checked = read_checked(path, CALENDAR, said_on=DAY)
    assert [(bad.line, bad.reason) for bad in checked.bad] == [(4, reason)]
    assert len(checked.instruments) == 2


def test_a_list_without_symbols_or_a_day_is_refused(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("isin,band\nINE467B01029,5\n")
    with pytest.raises(ImportRefusedError, match="needs a column symbol"):
        read_checked(path, CALENDAR, kind="instruments", said_on=DAY)
    path.write_text(OWN)
    with pytest.raises(ImportRefusedError, match="of which day"):
        read_checked(path, CALENDAR)


def test_changed_symbols_are_renames(tmp_path):
    path = tmp_path / "symbolchange.csv"
    path.write_text("Zydus Lifesciences Limited,CADILAHC,ZYDUSLIFE,07-MAR-2022\n")
    where = ["--data-dir", str(tmp_path)]
    done = CliRunner().invoke(app, ["import", str(path), "--kind", "renames", *where])
    assert done.exit_code == 0, done.output
    assert "symbolchange.csv (renames): 1 new" in done.output
    (row,) = embedded(tmp_path / "market" / "recorded").facts.actions().to_dicts()
    assert (row["symbol"], row["new_symbol"], row["ex_date"], row["kind"]) == (
        "CADILAHC", "ZYDUSLIFE", date(2022, 3, 7), "rename",
    )  # fmt: skip
    path.write_text("a,b,c,07-MAR-2022\na,b,c,soon\n")
    refused = CliRunner().invoke(app, ["import", str(path), "--kind", "renames", *where])
    assert refused.exit_code == 1
    assert "line 2: expected" in refused.output


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")
def test_a_brokers_dump_tells_ticks_and_lots():
    checked = read_checked(SHARED_DATA / "kite_samples" / "instruments_nse_2021-04_head.csv", CALENDAR, said_on=DAY)
    assert checked.kind == "instruments"
    assert len(checked.instruments) > 50
    assert checked.instruments["source"].unique().to_list() == ["kite"]
    assert checked.instruments["tick_paise"].min() >= 1
    assert not checked.instruments["symbol"].str.contains("INDEX|NIFTY 50").any()
