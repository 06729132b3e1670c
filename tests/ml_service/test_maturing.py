"""Outcomes are those of the labels, come when the horizon is over, and never change afterwards."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bar_server import IST, BarServer, serving
from frozen_record import OTHER, VERSION, frozen
from hypothesis import given
from hypothesis import strategies as st
from synthetic_market import simulate

from contracts.common import Environment
from contracts.market import ActionKind, CorporateAction
from ml_service.client import DataServiceClient, DataServiceError
from ml_service.features import compute_features
from ml_service.labels import COST_FRACTION, STOP_ATR, TARGET_ATR, make_labels
from ml_service.maturing import GRACE_SESSIONS, due, mature, outcomes_of
from ml_service.scoreboard import Scoreboard

HORIZON = 10
BARS = simulate(1.0, symbols=4, sessions=120)
DAYS = BARS["session"].unique().sort().to_list()
KNOWN = 60


def pending(day: date = DAYS[KNOWN], symbols: tuple[str, ...] = ("SIM00", "SIM01")) -> pl.DataFrame:
    return frozen(day, symbols).select("session", "version", "symbol", "horizon")


def through(sessions: int, bars: pl.DataFrame = BARS) -> pl.DataFrame:
    """The bars as they stand that many sessions after the prediction."""
    return bars.filter(pl.col("session") <= DAYS[KNOWN + sessions])


def action(symbol: str, ex_date: date) -> CorporateAction:
    return CorporateAction(symbol=symbol, ex_date=ex_date, known_on=ex_date, kind=ActionKind.DEMERGER, source="test")


def test_outcomes_are_the_labels_models_are_trained_on() -> None:
    frame = compute_features(BARS)
    labels = make_labels(frame, HORIZON)
    for number in range(20, 100):
        found = outcomes_of(pending(DAYS[number]), BARS, {}, HORIZON)
        for row in found.iter_rows(named=True):
            at = frame.with_row_index().filter(symbol=row["symbol"], session=row["session"])["index"].item()
            assert row["net_return"] == labels.net[at]
            assert {name: row[f"hit_{name}"] for name in labels.events} == {
                name: bool(hit[at]) for name, hit in labels.events.items()
            }
            assert row["matured_through"] == DAYS[number + HORIZON]
        assert found.height == 2


def test_an_outcome_is_what_the_plan_would_have_made() -> None:
    """The position plan walked bar by bar, without the labels' code."""
    bars = BARS.filter(symbol="SIM00").sort("session").rows(named=True)
    ranges = [max(now["high"], before["close"]) - min(now["low"], before["close"]) for before, now in pairwise(bars)]
    for number in range(30, 100):
        atr, entry = float(np.mean(ranges[number - 14 : number])), bars[number + 1]["open"]
        leave = bars[number + HORIZON]["close"]
        for bar in bars[number + 1 : number + HORIZON + 1]:
            if bar["low"] <= entry - STOP_ATR * atr:
                leave = min(bar["open"], entry - STOP_ATR * atr)
                break
            if bar["high"] >= entry + TARGET_ATR * atr:
                leave = entry + TARGET_ATR * atr
                break
        found = outcomes_of(pending(DAYS[number], ("SIM00",)), BARS, {}, HORIZON)
        assert found["net_return"].item() == pytest.approx(leave / entry - 1 - COST_FRACTION, abs=1e-12)


def test_nothing_is_known_before_the_horizon_is_over() -> None:
    for sessions in range(HORIZON):
        assert outcomes_of(pending(), through(sessions), {}, HORIZON).is_empty()
    whole = outcomes_of(pending(), BARS, {}, HORIZON)
    assert outcomes_of(pending(), through(HORIZON), {}, HORIZON).equals(whole)
    assert whole["outcome"].to_list() == ["matured"] * 2


def test_a_share_whose_bars_end_becomes_unscorable_and_stays() -> None:
    ended = BARS.filter(~((pl.col("symbol") == "SIM00") & (pl.col("session") > DAYS[KNOWN + 4])))
    waiting = outcomes_of(pending(), through(HORIZON + GRACE_SESSIONS - 1, ended), {}, HORIZON)
    assert waiting["symbol"].to_list() == ["SIM01"]
    over = outcomes_of(pending(), through(HORIZON + GRACE_SESSIONS, ended), {}, HORIZON)
    assert over.filter(symbol="SIM00").select("outcome", "matured_through", "net_return", "hit_net_profit").row(0) == (
        "unscorable",
        None,
        None,
        None,
    )


def test_a_share_that_pauses_matures_late_or_not_at_all() -> None:
    """Whether the outcome is looked for in time or years later, it is the same."""
    for pause, expected in ((3, "matured"), (GRACE_SESSIONS, "matured"), (GRACE_SESSIONS + 1, "unscorable")):
        gone = DAYS[KNOWN + 2 : KNOWN + 2 + pause]
        bars = BARS.filter(~((pl.col("symbol") == "SIM00") & pl.col("session").is_in(gone)))
        for sessions in (HORIZON + GRACE_SESSIONS, len(DAYS) - KNOWN - 1):
            found = outcomes_of(pending(), through(sessions, bars), {}, HORIZON).filter(symbol="SIM00")
            assert found["outcome"].item() == expected
            late = DAYS[KNOWN + HORIZON + pause]
            assert found["matured_through"].item() == (late if expected == "matured" else None)


def test_a_share_without_a_bar_in_its_session_is_unscorable() -> None:
    bars = BARS.filter(~((pl.col("symbol") == "SIM00") & (pl.col("session") == DAYS[KNOWN])))
    assert outcomes_of(pending(), through(HORIZON, bars), {}, HORIZON)["symbol"].to_list() == ["SIM01"]
    found = outcomes_of(pending(), bars, {}, HORIZON)
    assert dict(found.select("symbol", "outcome").iter_rows()) == {"SIM00": "unscorable", "SIM01": "matured"}


@pytest.mark.parametrize(
    ("offset", "flawed"), [(0, False), (1, True), (HORIZON // 2, True), (HORIZON, True), (HORIZON + 1, False)]
)
def test_an_action_without_a_factor_spoils_the_horizon_it_lies_in(offset: int, flawed: bool) -> None:
    actions = {"SIM00": [action("SIM00", DAYS[KNOWN + offset])]}
    early = outcomes_of(pending(), through(HORIZON + 1), actions, HORIZON)
    assert ("SIM00" in early["symbol"].to_list()) is not flawed
    late = outcomes_of(pending(), BARS, actions, HORIZON)
    assert dict(late.select("symbol", "outcome").iter_rows()) == {
        "SIM00": "unscorable" if flawed else "matured",
        "SIM01": "matured",
    }


@given(st.integers(0, 119), st.integers(0, 119))
def test_nothing_is_due_that_could_not_be(known: int, last: int) -> None:
    found = due(pending(DAYS[known]), DAYS[last])
    assert found.height == (2 if last - known >= HORIZON else 0)


def test_a_session_on_a_weekend_is_asked_for_no_sooner() -> None:
    saturday = date(2024, 1, 20)
    assert due(pending(saturday), date(2024, 2, 1)).is_empty()
    assert due(pending(saturday), date(2024, 2, 2)).height == 2


@pytest.fixture
def bar_server() -> Iterator[BarServer]:
    with serving(BarServer(BARS)) as server:
        yield server


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard(tmp_path, Environment.SIMULATED)


async def run(board: Scoreboard, server: BarServer, day: date) -> int:
    as_of = datetime.combine(day, time(16), IST)
    async with DataServiceClient(server.url, timeout_s=10) as client:
        return await mature(board, client, day, as_of)


async def test_outcomes_are_written_once_and_late_bars_change_none(board: Scoreboard, bar_server: BarServer) -> None:
    for day in DAYS[KNOWN : KNOWN + 3]:
        board.frozen.add(day, VERSION, frozen(day, ["SIM00", "SIM01"]))
        board.frozen.add(day, OTHER, frozen(day, ["SIM01"], OTHER, shadow=True, strategy="squeeze"))
    assert await run(board, bar_server, DAYS[KNOWN + HORIZON - 1]) == 0
    assert not bar_server.calls
    assert await run(board, bar_server, DAYS[KNOWN + HORIZON]) == 3
    before = board.read(shadow=None)
    assert before["outcome"].to_list() == ["matured"] * 3 + ["pending"] * 6
    bar_server.bars = BARS.with_columns(pl.col("open", "high", "low", "close") * 2)
    assert await run(board, bar_server, DAYS[KNOWN + HORIZON]) == 0
    assert board.read(shadow=None).equals(before)
    bar_server.bars = BARS.with_columns(pl.col("close") * 0.5, pl.col("low") * 0.5)
    assert await run(board, bar_server, DAYS[-1]) == 6
    after = board.read(shadow=None)
    assert after.head(3).equals(before.head(3))
    assert after["net_return"][3:].max() < 0
    asked = len(bar_server.calls)
    assert await run(Scoreboard(board.frozen.root.parents[2], Environment.SIMULATED), bar_server, DAYS[-1]) == 0
    assert len(bar_server.calls) == asked


async def test_nothing_later_than_the_present_is_asked_for(board: Scoreboard, bar_server: BarServer) -> None:
    day = DAYS[KNOWN]
    board.frozen.add(day, VERSION, frozen(day, ["SIM00"]))
    await run(board, bar_server, DAYS[KNOWN + 30])
    assert bar_server.calls
    assert all(c.through <= DAYS[KNOWN + 30] and c.as_of.date() == DAYS[KNOWN + 30] for c in bar_server.calls)


async def test_the_last_of_a_session_waits_on_the_markets_days_not_its_own(
    board: Scoreboard, bar_server: BarServer
) -> None:
    """SIM00 has no bars any more when SIM01 is done, so it alone could never tell that the market went on."""
    day = DAYS[KNOWN]
    board.frozen.add(day, VERSION, frozen(day, ["SIM00", "SIM01"]))
    bar_server.bars = BARS.filter(~((pl.col("symbol") == "SIM00") & (pl.col("session") > day)))
    assert await run(board, bar_server, DAYS[KNOWN + HORIZON]) == 1
    assert await run(board, bar_server, DAYS[KNOWN + HORIZON + GRACE_SESSIONS]) == 1
    assert dict(board.read().select("symbol", "outcome").iter_rows()) == {"SIM00": "unscorable", "SIM01": "matured"}


async def test_unadjusted_actions_reach_the_outcomes(board: Scoreboard, bar_server: BarServer) -> None:
    day = DAYS[KNOWN]
    board.frozen.add(day, VERSION, frozen(day, ["SIM00", "SIM01"]))
    bar_server.actions = [action("SIM01", DAYS[KNOWN + 2])]
    await run(board, bar_server, DAYS[KNOWN + HORIZON + GRACE_SESSIONS])
    assert dict(board.read().select("symbol", "outcome").iter_rows()) == {"SIM00": "matured", "SIM01": "unscorable"}


async def test_a_long_absence_is_caught_up_with_in_bounded_calls(board: Scoreboard, bar_server: BarServer) -> None:
    for day in DAYS[15:95]:
        board.frozen.add(day, VERSION, frozen(day, ["SIM00"]))
    assert await run(board, bar_server, DAYS[-1]) == 80
    assert len(bar_server.calls) == 2
    assert board.pending().is_empty()
    assert board.read()["outcome"].unique().to_list() == ["matured"]


async def test_without_bars_nothing_is_written(board: Scoreboard, bar_server: BarServer) -> None:
    day = DAYS[KNOWN]
    board.frozen.add(day, VERSION, frozen(day, ["SIM00"]))
    as_of = datetime.combine(DAYS[-1], time(16), IST) + timedelta(days=1)
    async with DataServiceClient("http://127.0.0.1:1", timeout_s=1) as client:
        with pytest.raises(DataServiceError):
            await mature(board, client, DAYS[-1], as_of)
    bar_server.bars = BARS.clear()
    assert await run(board, bar_server, DAYS[-1]) == 0
    assert board.read()["outcome"].to_list() == ["pending"]
