"""The real ex-dates of the files: no true split or bonus is disbelieved, and a price that stayed is."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest

from backend.domain.corporate_actions import ActionKind, CorporateAction, Levels, bears_out, levels_after, price_told

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
FACTORS, BARS = DATA / "split_bonus_factors_2019_2024.csv", DATA / "nse_daily_unadjusted_2019_2024.parquet"

pytestmark = pytest.mark.skipif(not BARS.exists() or not FACTORS.exists(), reason="the real files are not here")


def ex_dates() -> list[tuple[CorporateAction, dict[str, Decimal]]]:
    """Each rescaling of a share with bars: the action, and rupees of the ex-date's bar and of the close before."""
    bars = pl.read_parquet(BARS).sort("symbol", "date")
    bars = bars.with_columns(pl.col("date").cast(pl.Date), before_p=pl.col("close_p").shift(1).over("symbol"))
    factors = pl.read_csv(FACTORS, try_parse_dates=True).with_columns(date=pl.col("exDate").cast(pl.Date))
    rows = factors.join(bars, on=["symbol", "date"]).drop_nulls("before_p").iter_rows(named=True)
    found = []
    for row in rows:
        ratio = Fraction(row["factor"]).limit_denominator(1000)
        prices = {
            name: Decimal(row[f"{name}_p"]).scaleb(-2) for name in ("open", "high", "low", "before", "prev_close")
        }
        shares = ratio.numerator, ratio.denominator
        close = prices["before"]
        action = CorporateAction(row["symbol"], row["date"], ActionKind.SPLIT, *shares, close_before=close)
        found.append((action, prices))
    return found


def test_every_true_ex_date_is_borne_out_and_a_price_that_stayed_is_not() -> None:
    known = ex_dates()
    assert len(known) > 80
    for action, prices in known:
        told = price_told([action], prices["before"])
        assert all(bears_out(prices[name], told) for name in ("open", "high", "low")), action.key
        if action.shares_after >= 2 * action.shares_before:
            assert not bears_out(prices["before"], told), action.key


def test_a_stop_is_tripped_by_the_old_scale_and_by_hardly_any_morning_on_the_new() -> None:
    """A stop 6 % below the close before: what an action costs who does not follow it."""
    unmoved = followed = 0
    for action, prices in ex_dates():
        plan = Levels(100, prices["before"], prices["before"] * Decimal("1.03"), prices["before"] * Decimal("0.94"))
        unmoved += prices["open"] <= plan.stop
        followed += prices["open"] <= levels_after(action, plan).stop
    assert unmoved > 80
    assert followed <= 1


def test_the_exchanges_previous_close_proves_nothing() -> None:
    """It equals the close before on every ex-date: who took that for an unchanged scale would sell on all of them."""
    assert all(prices["prev_close"] == prices["before"] for _, prices in ex_dates())
