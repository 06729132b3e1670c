"""What is stored or was kept out is judged again by what is known now."""

from datetime import date

import polars as pl
import pytest
from data_market import at_s, daily, frame, short_calendar
from typer.testing import CliRunner

from contracts.market import Interval
from data_service.ingest import Gate
from data_service.store.facts import FACTOR_SCHEMA, factor_actions
from data_service.store.stores import embedded
from data_service.verify import verify
from sauda.data import app

CALENDAR = short_calendar()
DAYS = [session.day for session in CALENDAR.all[:9]]
NOW_S = at_s("2026-01-01 00:00")


@pytest.fixture
def stores(tmp_path):
    return embedded(tmp_path / "market" / "recorded")


@pytest.fixture
def gate(stores):
    return Gate(stores, CALENDAR, {})


def series(symbol: str, closes: list[int]) -> list[tuple]:
    return [daily(symbol, day, close) for day, close in zip(DAYS, closes, strict=True)]


CALM = [10_000 + 10 * number for number in range(9)]
SPIKE = [*CALM[:4], 30_000, *CALM[5:]]


def reasons(stores) -> dict[tuple[str, bool], int]:
    counts = stores.facts.findings().group_by("reason", "quarantined").len()
    return {(reason, kept_out): count for reason, kept_out, count in counts.iter_rows()}


def test_what_the_gate_would_keep_out_is_taken_out_on_request_only(stores, gate):
    stores.bars.upsert(Interval.DAY_1, frame(series("AAA", SPIKE)))
    (seen,) = verify(stores, gate, NOW_S, quarantine=False)
    assert (seen.bars, seen.doubted, seen.removed) == (9, 1, 0)
    assert reasons(stores) == {("outlier", False): 1}, "it is still served, and says so"
    (done,) = verify(stores, gate, NOW_S, quarantine=True)
    assert (done.bars, done.doubted, done.removed) == (8, 1, 1)
    assert reasons(stores) == {("outlier", True): 1}
    assert 30_000 not in stores.bars.read(Interval.DAY_1, 2019)["close"].to_list()
    (again,) = verify(stores, gate, NOW_S + 1, quarantine=True)
    assert (again.bars, again.doubted, again.removed, again.released) == (8, 0, 0, 0)
    found = dict(stores.facts.findings().select("reason", "found_at").iter_rows())
    assert found == {"outlier": NOW_S}


def test_a_bar_kept_out_comes_in_when_an_action_explains_it(stores, gate):
    split_up = [*CALM[:5], *(close // 100 for close in CALM[5:])]
    gate.ingest(Interval.DAY_1, frame(series("AAA", split_up)[:5]), NOW_S)
    gate.ingest(Interval.DAY_1, frame(series("AAA", split_up)[5:]), NOW_S)
    assert len(stores.bars.read(Interval.DAY_1, 2019)) == 5, "a hundredth of the stored close is not to be believed"
    split = pl.DataFrame([("AAA", DAYS[5], 0.01)], schema=FACTOR_SCHEMA, orient="row")
    stores.facts.upsert_actions(factor_actions(split))
    (seen,) = verify(stores, gate, NOW_S, quarantine=False)
    assert (seen.released, seen.bars) == (4, 9)
    assert stores.bars.read(Interval.DAY_1, 2019)["close"].to_list() == split_up
    assert reasons(stores) == {}


def test_what_was_found_before_and_holds_no_more_is_forgotten(stores, gate):
    fallen = [*CALM[:5], *(close // 2 for close in CALM[5:])]
    gate.ingest(Interval.DAY_1, frame(series("AAA", fallen)), NOW_S)
    assert reasons(stores) == {("outlier", False): 1}
    gate.ingest(Interval.DAY_1, frame([daily("BBB", date(2018, 12, 31), 100)]), NOW_S)
    other_years = stores.facts.findings().filter(pl.col("symbol") == "BBB")
    split = pl.DataFrame([("AAA", DAYS[5], 0.5)], schema=FACTOR_SCHEMA, orient="row")
    stores.facts.upsert_actions(factor_actions(split))
    assert [part.year for part in verify(stores, gate, NOW_S, quarantine=False)] == [2018, 2019]
    assert stores.facts.findings().equals(other_years)


def test_the_command_says_what_is_wrong_and_exits_by_it(stores, tmp_path):
    run, where = CliRunner().invoke, ["--data-dir", str(tmp_path)]
    assert "Nothing is stored" in run(app, ["verify", *where]).output
    stores.bars.upsert(Interval.DAY_1, frame(series("AAA", SPIKE)))
    seen = run(app, ["verify", *where])
    assert seen.exit_code == 1
    assert "1 stored bars are not to be believed" in seen.output
    assert run(app, ["verify", "--quarantine", *where]).exit_code == 0
    assert run(app, ["verify", *where]).exit_code == 0
    (stores.facts.folder / "bars-1d-2019.parquet").write_bytes(b"PAR1")
    damaged = run(app, ["verify", *where])
    assert damaged.exit_code == 1
    assert "cannot be read: delete it" in damaged.output
