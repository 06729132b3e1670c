"""Features look back only, know no price level, and are the same for training and serving."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from synthetic_market import simulate

from ml_service import features
from ml_service.features import (
    FEATURES,
    HISTORY_SESSIONS_MIN,
    TAIL_SESSIONS,
    compute_features,
    eligible,
    features_hash,
)

PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return simulate(1.0, symbols=6, sessions=520, seed=3)


@pytest.fixture(scope="module")
def computed(bars: pl.DataFrame) -> pl.DataFrame:
    return compute_features(bars)


@pytest.mark.parametrize("known_sessions", [270, 333, 519])
def test_the_future_changes_no_bit_of_the_past(bars: pl.DataFrame, computed: pl.DataFrame, known_sessions: int) -> None:
    last = bars["session"].unique().sort()[known_sessions - 1]
    later = pl.col("session") > last
    disturbed = bars.with_columns(
        *(pl.when(later).then(pl.col(name) * 3.7 + 1).otherwise(pl.col(name)).alias(name) for name in PRICES),
        pl.when(later).then(5.0).otherwise(pl.col("volume")).alias("volume"),
    )
    assert not compute_features(disturbed).filter(later).equals(computed.filter(later))
    assert compute_features(disturbed).filter(~later).equals(computed.filter(~later))


def test_a_tail_serves_what_the_whole_history_trained(bars: pl.DataFrame, computed: pl.DataFrame) -> None:
    tail = bars.filter(pl.col("session").is_in(bars["session"].unique().sort().tail(TAIL_SESSIONS).implode()))
    last = pl.col("session") == bars["session"].max()
    whole, served = (frame.filter(last).select(FEATURES).to_numpy() for frame in (computed, compute_features(tail)))
    np.testing.assert_allclose(served, whole, rtol=1e-8, atol=1e-9)


def test_no_feature_knows_the_price_level(bars: pl.DataFrame, computed: pl.DataFrame) -> None:
    scaled = compute_features(bars.with_columns(*(pl.col(name) * 13.0 for name in PRICES)))
    np.testing.assert_allclose(
        scaled.filter(eligible()).select(FEATURES).to_numpy(),
        computed.filter(eligible()).select(FEATURES).to_numpy(),
        rtol=1e-7,
        atol=1e-8,
    )


def test_rows_become_eligible_after_the_minimum_history(computed: pl.DataFrame) -> None:
    first = computed.filter(eligible()).group_by("symbol").agg(pl.col("history_sessions").min())
    assert first["history_sessions"].unique().to_list() == [HISTORY_SESSIONS_MIN]


def test_an_unexplained_move_bars_a_symbol_for_sixty_sessions(bars: pl.DataFrame) -> None:
    sessions = bars["session"].unique().sort()
    fallen = (pl.col("symbol") == "SIM00") & (pl.col("session") >= sessions[400])
    split = bars.with_columns(
        *(pl.when(fallen).then(pl.col(name) / 2).otherwise(pl.col(name)).alias(name) for name in PRICES)
    )
    rows = compute_features(split).filter(pl.col("symbol") == "SIM00").with_columns(eligible().alias("fit"))
    assert rows["fit"][399]
    assert not rows["fit"][400:460].any()
    assert rows["fit"][460]


def test_ranks_lie_between_minus_and_plus_one_half(computed: pl.DataFrame) -> None:
    by_session = computed.filter(eligible()).group_by("session").agg(pl.col("rank_20").min(), pl.len())
    assert set(by_session["rank_20"]) == {-0.5}
    assert computed.filter(eligible())["rank_20"].max() == 0.5


def test_a_lone_symbol_and_a_day_without_trade_still_have_features(bars: pl.DataFrame) -> None:
    lone = bars.filter(pl.col("symbol") == "SIM01")
    quiet = lone.with_columns(
        pl.when(pl.col("session") == lone["session"][-1]).then(0.0).otherwise("volume").alias("volume")
    )
    row = compute_features(quiet).row(-1, named=True)
    assert row["rank_5"] == 0.0
    assert np.isfinite(row["volume_5"])


def test_the_hash_follows_what_features_do(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features_hash()
    assert before == features_hash.__wrapped__()
    monkeypatch.setattr(features, "_rsi", lambda sessions: pl.col("log_return") * sessions)
    assert features_hash.__wrapped__() != before


def test_sessions_may_be_missing_for_one_symbol(bars: pl.DataFrame) -> None:
    gone = bars["session"].unique().sort()[300]
    thinned = bars.filter(~((pl.col("symbol") == "SIM02") & (pl.col("session") == gone)))
    rows = compute_features(thinned).filter(pl.col("session") == gone + timedelta(days=0))
    assert rows.height == 5
    assert rows["complete"].all()
