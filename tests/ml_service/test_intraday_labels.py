"""What became of a breakout's plan: a table by hand, and what an intraday round trip costs."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from backend.domain.charges import round_trip_fraction
from backend.domain.market import Exchange, Product
from ml_service.intraday.bars import BARS_5M
from ml_service.intraday.labels import COST_FRACTION, SQUARE_OFF_MINUTE, make_labels, plan_outcomes

DAY = date(2024, 1, 22)
ATR = 4.0
SLOTS = 75

# The breakout is bar 10; what follows replaces a bar that stands at 100: position → open, high, low, close.
# ATR 4, entry 100: target 104, stop 98; +2 % net is 102.13.
TABLE = {
    "nothing happens": ({}, 0.0, set()),
    "held to the square-off": ({69: (100, 101, 100, 101)}, 0.01, set()),
    "what follows the square-off does not count": ({70: (100, 110, 90, 105)}, 0.0, set()),
    "the breakout bar itself does not count": ({10: (100, 110, 90, 100)}, 0.0, set()),
    "target": ({30: (100, 104, 100, 103)}, 0.04, {"bracket", "touch_0.01", "touch_0.02", "touch_0.035"}),
    "a gap through the target fills at the target": ({30: (106, 107, 106, 106)}, 0.04, {"bracket", "touch_0.035"}),
    "stop": ({30: (100, 100, 98, 99)}, -0.02, set()),
    "a gap through the stop fills at the open": ({30: (97, 97.5, 96, 97)}, -0.03, set()),
    "stop and target in one bar": ({30: (100, 105, 97, 100)}, -0.02, set()),
    "target in the entry bar": ({11: (100, 104.5, 99, 104)}, 0.04, {"bracket", "touch_0.035"}),
    "stop, then target": ({30: (100, 100, 98, 99), 31: (99, 105, 99, 105)}, -0.02, set()),
    "target, then stop": ({30: (100, 105, 99, 100), 31: (99, 99, 90, 90)}, 0.04, {"bracket", "touch_0.02"}),
    "a touch short of the target": ({30: (100, 102.2, 100, 100)}, 0.0, {"touch_0.01", "touch_0.015", "touch_0.02"}),
    "a touch after the stop": ({30: (100, 100, 98, 99), 40: (100, 102.2, 100, 100)}, -0.02, set()),
    "entered at the next bar there is": (
        {11: (np.nan,) * 4, 12: (101, 101, 101, 101), 69: (100, 100, 100, 100)},
        100 / 101 - 1,
        set(),
    ),
    "left at the last bar there is": (
        {**dict.fromkeys(range(60, 70), (np.nan,) * 4), 59: (100, 102, 100, 102)},
        0.02,
        {"touch_0.015"},
    ),
}


@pytest.mark.parametrize(("bars", "gross", "hits"), TABLE.values(), ids=TABLE.keys())
def test_a_plan_by_hand(bars: dict[int, tuple[float, ...]], gross: float, hits: set[str]) -> None:
    path = np.full((SLOTS, 4), 100.0)
    for place, bar in bars.items():
        path[place] = bar
    paths = {name: path[None, :, i] for i, name in enumerate(("open", "high", "low", "close"))}
    found, _, events = plan_outcomes(paths, np.array([10]), np.array([ATR]))
    assert found[0] == pytest.approx(gross)
    assert hits <= {name for name, hit in events.items() if hit[0]}
    if not hits:
        assert not any(hit[0] for hit in events.values())


def day_of(close: float, minutes: range, day: date = DAY, symbol: str = "A") -> pl.DataFrame:
    rows = [(symbol, day, minute, 100.0, max(100.0, close), min(100.0, close), close, 1.0) for minute in minutes]
    return pl.DataFrame(rows, schema=BARS_5M, orient="row")


def candidate(minute: int, day: date = DAY) -> pl.DataFrame:
    return pl.DataFrame({"symbol": ["A"], "session": [day], "minute": [minute], "atr": [ATR], "number": [7]})


def test_the_outcome_is_known_with_its_own_session_and_net_of_costs() -> None:
    labels = make_labels(day_of(101, range(0, 375, 5)), candidate(50))
    assert (labels.end[0], labels.known[0]) == (7, True)
    assert labels.gross[0] == pytest.approx(0.01)
    assert labels.net[0] == pytest.approx(0.01 - COST_FRACTION)
    assert labels.forward[0] == pytest.approx(0.01)
    assert labels.events["net_profit"][0]
    assert not make_labels(day_of(100.1, range(0, 375, 5)), candidate(50)).events["net_profit"][0]


def unknown(bars: pl.DataFrame, minute: int = 50) -> bool:
    labels = make_labels(bars, candidate(minute))
    nothing = not any(hit[0] for hit in labels.events.values())
    return labels.end[0] == -1 and not labels.known[0] and bool(np.isnan(labels.net[0])) and nothing


def test_nothing_is_known_before_the_square_off() -> None:
    assert unknown(day_of(105, range(0, SQUARE_OFF_MINUTE - 5, 5)))
    assert not unknown(day_of(105, range(0, SQUARE_OFF_MINUTE, 5)))


def test_nothing_is_known_where_no_bar_follows() -> None:
    market = day_of(100, range(0, 375, 5), symbol="B")
    assert unknown(pl.concat([day_of(105, range(0, 55, 5)), market]))
    assert not unknown(pl.concat([day_of(105, range(0, 60, 5)), market]))


def test_another_day_or_share_does_not_count() -> None:
    whole = day_of(100, range(0, 375, 5))
    others = [day_of(110, range(0, 375, 5), symbol="B"), day_of(110, range(0, 375, 5), DAY + timedelta(days=1))]
    labels = make_labels(pl.concat([*others, whole]), candidate(50))
    assert labels.gross[0] == 0.0


def test_the_cost_covers_the_charges_of_an_intraday_round_trip_and_a_spread() -> None:
    charges = round_trip_fraction(Decimal(500), 40, Product.MIS, Exchange.NSE, on=date(2026, 6, 1))
    assert float(charges) == pytest.approx(0.00106, abs=0.00001)
    spread = COST_FRACTION - float(charges)
    assert 0.0002 < spread < 0.0003
