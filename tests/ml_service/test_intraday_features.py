"""The opening-range rule and its features: by hand, and without a look at any later minute."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_market import business_days
from synthetic_minutes import simulate_minutes

from ml_service.intraday.bars import BARS_5M
from ml_service.intraday.features import FEATURES, HISTORY_SESSIONS, compute_candidates, features_hash

DAYS = business_days(date(2024, 1, 1), HISTORY_SESSIONS + 1)
TODAY = DAYS[-1]
PRICES = ("open", "high", "low", "close")
Bar = tuple[int, float, float, float, float, float]


def frame(symbol: str, bars: dict[date, list[Bar]]) -> pl.DataFrame:
    rows = [(symbol, day, *bar) for day, each in bars.items() for bar in each]
    return pl.DataFrame(rows, schema=BARS_5M, orient="row")


def quiet(low: float = 98.0, high: float = 102.0) -> list[Bar]:
    """A session from `low` to `high` that opens and closes at 100, on 1,000 shares a bar."""
    return [(minute, 100.0, high, low, 100.0, 1000.0) for minute in range(0, 375, 5)]


def range_then(*after: Bar, start: float = 100.0) -> list[Bar]:
    """A first quarter of an hour between 99 and 101, then the bars given."""
    return [(minute, start, 101.0, 99.0, 100.0, 1000.0) for minute in (0, 5, 10)] + list(after)


def history() -> dict[date, list[Bar]]:
    return {day: quiet() for day in DAYS[:-1]}


BREAKOUT = (20, 100.5, 101.6, 100.4, 101.5, 2000.0)
INSIDE = (15, 100.0, 100.9, 99.5, 100.5, 1000.0)


def test_a_breakout_by_hand() -> None:
    bars = frame("A", history() | {TODAY: range_then(INSIDE, BREAKOUT, start=100.2)})
    other = frame("B", history() | {TODAY: [(minute, 100.0, 100.0, 98.0, 98.0, 1000.0) for minute in range(0, 25, 5)]})
    [row] = compute_candidates(pl.concat([bars, other])).iter_rows(named=True)
    assert (row["symbol"], row["session"], row["minute"], row["close"]) == ("A", TODAY, 20, 101.5)
    assert row["atr"] == pytest.approx(4.0)  # every day before spans 98 to 102
    assert row["atr_fraction"] == pytest.approx(4 / 101.5)
    assert [row[name] for name in FEATURES] == pytest.approx(
        [
            (101 - 99) / 4,
            (100.2 - 100) / 4,
            (101.5 - 101) / 4,
            (101.5 - 100.2) / 4,
            np.log(2000 / 1000),
            np.log(6000 / 5000),
            25 / 375,
            ((101.5 - 100.2) / 4 + (98 - 100) / 4) / 2,
            0.0,
            np.log(4 / 101.5),
        ]
    )


def later(bar: Bar, minute: int) -> Bar:
    return (minute, *bar[1:])


@pytest.mark.parametrize("minute", [15, 250])
def test_the_first_and_the_last_bar_that_may_break_out(minute: int) -> None:
    found = compute_candidates(frame("A", history() | {TODAY: range_then(later(BREAKOUT, minute))}))
    assert found["minute"].to_list() == [minute]


def gone_up(bars: list[Bar]) -> list[Bar]:
    """The same day after an opening gap of 30 %."""
    return [(minute, *(1.3 * price for price in prices), volume) for minute, *prices, volume in bars]


NOTHING = {
    "at the range's high, not above": range_then((20, 100.5, 101.0, 100.4, 101.0, 2000.0)),
    "above it only within the bar": range_then((20, 100.5, 101.6, 100.4, 101.0, 2000.0)),
    "no more volume than usual": range_then((20, 100.5, 101.6, 100.4, 101.5, 1000.0)),
    "first broken out on little volume": range_then((15, 100.5, 101.6, 100.4, 101.5, 900.0), BREAKOUT),
    "too late": range_then(later(BREAKOUT, 255)),
    "the first bar is missing": [*range_then()[1:], BREAKOUT],
    "the third bar is missing": [*range_then()[:2], BREAKOUT],
    "opened with an unexplained gap": gone_up(range_then(BREAKOUT)),
    "another hour's session": [later(bar, bar[0] + 540) for bar in range_then(BREAKOUT)],
}


@pytest.mark.parametrize("today", NOTHING.values(), ids=NOTHING.keys())
def test_no_proposal(today: list[Bar]) -> None:
    assert compute_candidates(frame("A", history() | {TODAY: today})).is_empty()


def test_no_proposal_where_the_share_missed_one_of_the_sessions_before() -> None:
    days = [DAYS[0] - timedelta(days=7), *DAYS]
    market = frame("B", {day: quiet() for day in days})
    whole = frame("A", {day: quiet() for day in days[:-1]} | {TODAY: range_then(BREAKOUT)})
    missed = whole.filter(pl.col("session") != DAYS[5])
    assert compute_candidates(pl.concat([market, whole])).height == 1
    assert compute_candidates(pl.concat([market, missed])).is_empty()


def test_no_proposal_on_a_saturday() -> None:
    saturday = date(2024, 1, 20)
    days = business_days(date(2023, 12, 28), HISTORY_SESSIONS)
    bars = frame("A", {day: quiet() for day in days} | {saturday: range_then(BREAKOUT)})
    assert compute_candidates(bars).is_empty()
    monday = bars.with_columns(
        pl.when(pl.col("session") == saturday).then(date(2024, 1, 22)).otherwise(pl.col("session")).alias("session")
    )
    assert compute_candidates(monday).height == 1


@pytest.fixture(scope="module")
def market() -> pl.DataFrame:
    return simulate_minutes(0.03, symbols=6, sessions=24, seed=3)


def decided_by(candidates: pl.DataFrame, day: date, minute: int) -> pl.DataFrame:
    """The candidates whose bar had ended `minute` minutes after the open of `day`."""
    bar_ended = (pl.col("session") < day) | ((pl.col("session") == day) & (pl.col("minute") + 5 <= minute))
    return candidates.filter(bar_ended)


@given(back=st.integers(0, 7), slot=st.integers(0, 74), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_no_later_minute_can_change_a_candidate(market: pl.DataFrame, back: int, slot: int, seed: int) -> None:
    day, minute = market["session"].unique().sort()[-1 - back], 5 * slot
    whole = decided_by(compute_candidates(market), day, minute)
    known = (pl.col("session") < day) | ((pl.col("session") == day) & (pl.col("minute") + 5 <= minute))
    assert compute_candidates(market.filter(known)).equals(whole)
    noise = np.random.default_rng(seed).uniform(0.5, 2.0, (5, market.height))
    columns = {name: pl.col(name) * pl.Series(row) for name, row in zip((*PRICES, "volume"), noise, strict=True)}
    disturbed = market.with_columns(
        pl.when(known).then(pl.col(name)).otherwise(changed.round(2)).alias(name) for name, changed in columns.items()
    )
    assert decided_by(compute_candidates(disturbed), day, minute).equals(whole)


def test_the_fifteen_sessions_before_give_what_the_whole_history_gives(market: pl.DataFrame) -> None:
    days = market["session"].unique().sort().to_list()
    whole, compared = compute_candidates(market), 0
    for since, day in zip(days, days[HISTORY_SESSIONS:], strict=False):
        tail = compute_candidates(market.filter(pl.col("session").is_between(since, day)))
        expected = whole.filter(pl.col("session") == day)
        compared += expected.height
        assert tail.filter(pl.col("session") == day).drop("number").equals(expected.drop("number"))
    assert compared > 3


def test_the_order_of_rows_and_the_price_level_decide_nothing(market: pl.DataFrame) -> None:
    whole = compute_candidates(market)
    assert compute_candidates(market.sample(fraction=1, shuffle=True, seed=1)).equals(whole)
    split = compute_candidates(market.with_columns(*((pl.col(name) / 4).alias(name) for name in PRICES)))
    assert split.select("symbol", "session", "minute").equals(whole.select("symbol", "session", "minute"))
    assert split.select(FEATURES).to_numpy() == pytest.approx(whole.select(FEATURES).to_numpy(), rel=1e-9, abs=1e-9)


def test_the_hash_tells_other_features(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features_hash.__wrapped__()
    assert before == features_hash.__wrapped__()
    monkeypatch.setattr("ml_service.intraday.features.RANGE_MINUTES", 20)
    assert features_hash.__wrapped__() != before
