"""Nothing that a model sees of a session knows of a later one, of an outcome, or of how the history was adjusted."""

import ast
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from synthetic_market import simulate

from ml_service import features
from ml_service.features import FEATURES, compute_features, eligible, with_members
from ml_service.labels import make_labels
from ml_service.look_ahead import (
    DISTURBANCES,
    KINDS,
    disagreement,
    first_change,
    first_changes,
    halved,
    leaks,
    tail_disagreement,
    visible,
)
from tests.bench.numpy_features import numpy_features

MEMBERS = 5
SESSIONS = 530


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    """Eight symbols of very different turnover, one of them listed late, with a day missing here and there."""
    found = simulate(1.0, symbols=8, sessions=SESSIONS, seed=11)
    size = pl.col("symbol").str.slice(3).cast(pl.Int64)
    days = found["session"].unique().sort()
    late = (pl.col("symbol") == "SIM07") & (pl.col("session") < days[120])
    missing = (pl.col("symbol") == "SIM02") & pl.col("session").is_in([days[300], days[301], days[500]])
    gap = pl.Series(np.random.default_rng(3).normal(1, 0.004, found.height))
    return found.with_columns(
        pl.col("open") * gap,
        pl.max_horizontal("high", pl.col("open") * gap).alias("high"),
        pl.min_horizontal("low", pl.col("open") * gap).alias("low"),
        ((1 + size) * pl.col("volume")).alias("volume"),
    ).filter(~late & ~missing)


@pytest.fixture(scope="module")
def seen(bars: pl.DataFrame) -> pl.DataFrame:
    return visible(bars, MEMBERS)


def session_of(bars: pl.DataFrame, number: int) -> date:
    return bars["session"].unique().sort()[number]


def test_there_is_something_to_leak_into(seen: pl.DataFrame) -> None:
    assert len(FEATURES) == 84
    assert set(FEATURES) <= set(seen.columns)
    assert seen["eligible"].sum() > 1000
    assert 0 < seen["member"].sum() < seen.height
    values = seen.filter("eligible").select(pl.col(FEATURES).n_unique()).row(0, named=True)
    assert min(values.values()) >= MEMBERS, values


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
@given(number=st.integers(262, SESSIONS - 2), seed=st.integers(0, 2**32 - 1))
def test_what_comes_later_changes_no_bit(
    bars: pl.DataFrame, seen: pl.DataFrame, disturbance: str, number: int, seed: int
) -> None:
    found = leaks(bars, session_of(bars, number), DISTURBANCES[disturbance], MEMBERS, seed, seen)
    assert found == []


@pytest.mark.parametrize(
    ("name", "leaked", "shown_by"),
    [
        ("body", pl.col("close").shift(-1).over("symbol") / pl.col("close"), {"truncated", "repriced"}),
        ("rank_5", pl.col("volume").mean().over("symbol"), set(DISTURBANCES) - {"listed"}),
        ("market_1", pl.col("symbol").n_unique().cast(pl.Float64), {"listed"}),
    ],
)
def test_a_planted_leak_is_reported(bars: pl.DataFrame, name: str, leaked: pl.Expr, shown_by: set[str]) -> None:
    def leaking(frame: pl.DataFrame) -> pl.DataFrame:
        return compute_features(frame).with_columns(leaked.alias(name))

    session = session_of(bars, 400)
    told = visible(bars, MEMBERS, leaking)
    found = {
        one
        for one, disturb in DISTURBANCES.items()
        if name in leaks(bars, session, disturb, MEMBERS, before=told, compute=leaking)
    }
    assert found >= shown_by


def test_the_first_value_that_knows_of_tomorrow_is_named(bars: pl.DataFrame) -> None:
    ahead = pl.col("close").shift(-1).over("symbol") / pl.col("close")
    session = session_of(bars, 400)
    changed = first_change(
        "repriced",
        bars,
        session,
        symbols_max=MEMBERS,
        compute=lambda frame: compute_features(frame).with_columns(ahead.alias("body")),
    )
    prices = bars.filter(pl.col("symbol") == "SIM00", pl.col("session") >= session).sort("session")["close"]
    assert changed is not None
    assert changed.startswith(f"{session} SIM00: body {prices[1] / prices[0]:.9g} became ")
    gone = first_change(
        "truncated",
        bars,
        session,
        symbols_max=MEMBERS,
        compute=lambda frame: compute_features(frame).with_columns(ahead.alias("body")),
    )
    assert gone == f"{session} SIM00: body {prices[1] / prices[0]:.9g} became unknown"


def test_the_earliest_session_counts_before_the_first_column(bars: pl.DataFrame) -> None:
    near, far = (pl.col("close").shift(-n).over("symbol") / pl.col("close") for n in (1, 3))
    told = first_change(
        "repriced",
        bars,
        session_of(bars, 400),
        symbols_max=MEMBERS,
        compute=lambda frame: compute_features(frame).with_columns(near.alias("relative_1"), far.alias("body")),
    )
    assert told is not None
    assert told.startswith(f"{session_of(bars, 398)} SIM00: body ")


def test_every_kind_of_change_finds_these_features_honest(bars: pl.DataFrame) -> None:
    steps: list[str] = []
    found = first_changes(
        bars, session_of(bars, 430), symbols_max=MEMBERS, progress=lambda done, total, what: steps.append(what)
    )
    assert found == dict.fromkeys(KINDS)
    assert len(steps) == len(KINDS)


@pytest.mark.parametrize(
    ("kind", "name", "leaked"),
    [
        ("shorter history", "body", pl.col("close").ewm_mean(half_life=100).over("symbol") / pl.col("close")),
        ("rescaled prices", "body", pl.col("close")),
        ("rescaled prices", "volume_5", pl.col("volume")),
        ("listed", "market_1", pl.col("symbol").n_unique().cast(pl.Float64)),
        ("promoted", "rank_5", pl.col("volume").mean().over("symbol")),
    ],
)
def test_each_kind_of_change_finds_what_it_is_for(bars: pl.DataFrame, kind: str, name: str, leaked: pl.Expr) -> None:
    found = first_change(
        kind,
        bars,
        session_of(bars, 430),
        symbols_max=MEMBERS,
        compute=lambda frame: compute_features(frame).with_columns(leaked.alias(name)),
    )
    assert found is not None
    assert f": {name} " in found


def test_a_comparison_that_cannot_see_says_so(bars: pl.DataFrame) -> None:
    unknown = pl.lit(None, pl.Float64)
    blind = first_change(
        "shifted",
        bars,
        session_of(bars, 430),
        symbols_max=MEMBERS,
        compute=lambda frame: compute_features(frame).with_columns(unknown.alias("body")),
    )
    assert blind is not None
    assert blind.startswith("body: moved by one session it is the same")
    young = bars.filter(pl.col("session") <= session_of(bars, 100))
    said = first_change("shorter history", young, session_of(bars, 100), symbols_max=MEMBERS)
    assert said == f"{session_of(bars, 100)}: no share can be answered for, so there is nothing to compare"


def test_membership_that_knows_the_end_is_reported(bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def final_members(frame: pl.DataFrame, symbols_max: int) -> pl.DataFrame:
        last = with_members(frame, symbols_max).sort("session").group_by("symbol").agg(pl.col("member").last())
        return frame.join(last, on="symbol").sort("symbol", "session")

    monkeypatch.setattr("ml_service.look_ahead.with_members", final_members)
    found = leaks(bars, session_of(bars, 400), DISTURBANCES["promoted"], MEMBERS)
    assert {"member", "eligible", "rank_20", "market_1"} <= set(found)


def test_serving_reads_a_tail_and_sees_the_same(bars: pl.DataFrame) -> None:
    assert tail_disagreement(bars) < 1e-6
    endless = pl.col("close").ewm_mean(half_life=100).over("symbol") / pl.col("close")
    told = tail_disagreement(bars, lambda frame: compute_features(frame).with_columns(endless.alias("body")))
    assert told > 1e-6, "a window without an end is reported"


def test_adjusting_the_whole_history_again_changes_nothing(bars: pl.DataFrame, seen: pl.DataFrame) -> None:
    assert disagreement(seen, visible(halved(bars), MEMBERS)) < 1e-6
    level = bars.with_columns(pl.col("close") * 0.5)
    assert disagreement(seen, visible(level, MEMBERS)) > 1e-6, "only the close moved, which is no adjustment"


def test_adjusting_one_share_again_changes_nothing_of_any_other(bars: pl.DataFrame, seen: pl.DataFrame) -> None:
    one = pl.col("symbol") == "SIM05"
    split = pl.concat([halved(bars.filter(one)), bars.filter(~one)])
    assert disagreement(seen, visible(split, MEMBERS)) < 1e-6


def test_every_feature_is_what_plain_windows_of_numpy_say() -> None:
    """The benchmark's reference: each feature written a second time, from the bars alone."""
    found = simulate(1.0, symbols=6, sessions=330, seed=15).sort("symbol", "session")
    columns = {name: found[name].to_numpy().reshape(6, 330) for name in ("open", "high", "low", "close", "volume")}
    values = compute_features(found).select(FEATURES).to_numpy().reshape(6, 330, len(FEATURES))
    np.testing.assert_allclose(values[:, 259:], numpy_features(columns)[:, 259:], rtol=1e-6, atol=1e-8)


def test_features_and_rules_never_read_an_outcome(bars: pl.DataFrame) -> None:
    folder = Path(features.__file__).parent
    for module in (folder / "features.py", *(folder / "strategies").glob("*.py")):
        imported = {
            name
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.ImportFrom | ast.Import)
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        }
        assert not {"ml_service.labels", "labels", "make_labels"} & imported, module.name
    told = bars.sort("symbol", "session")
    outcome = make_labels(compute_features(told), 10)
    with_outcome = told.with_columns(
        pl.Series("gross", outcome.gross), pl.Series("net_profit", outcome.events["bracket"])
    )
    plain, informed = (compute_features(frame).select(FEATURES) for frame in (told, with_outcome))
    assert informed.equals(plain)


def leaning(frame: pl.DataFrame) -> float:
    """The largest |correlation| of any feature with the plan's outcome, over eligible rows whose outcome is known."""
    outcome = make_labels(frame, 10)
    keep = frame.select(eligible().fill_null(False)).to_series().to_numpy() & outcome.known
    x = frame.select(FEATURES).to_numpy()[keep]
    scaled = outcome.gross[keep] / frame["atr_fraction"].to_numpy()[keep]
    spread = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    return float(np.abs(spread.T @ (scaled - scaled.mean()) / len(scaled) / scaled.std()).max())


def test_in_a_random_walk_no_feature_leans_to_the_outcome() -> None:
    frame = compute_features(simulate(0.0, symbols=12, sessions=800, seed=4))
    assert leaning(frame) < 0.25
    ahead = pl.col("close").shift(-5).over("symbol") / pl.col("close") - 1
    assert leaning(frame.with_columns(ahead.fill_null(0.0).alias("body"))) > 0.5


def test_members_are_those_known_at_each_session() -> None:
    bars = simulate(1.0, symbols=4, sessions=700, seed=2)
    days = bars["session"].unique().sort()
    size = {"SIM00": 4e6, "SIM01": 3e6, "SIM02": 1e6, "SIM03": 0.5e6}
    gone = (pl.col("symbol") == "SIM00") & (pl.col("session") > days[499])
    risen = (pl.col("symbol") == "SIM03") & (pl.col("session") >= days[300])
    volume = pl.col("symbol").replace_strict(size, return_dtype=pl.Float64)
    market = bars.filter(~gone).with_columns(
        pl.lit(500.0).alias("close"), pl.when(risen).then(volume * 100).otherwise(volume).alias("volume")
    )
    member = {
        (symbol, day): flag
        for symbol, day, flag in with_members(market, 2).select("symbol", "session", "member").rows()
    }

    def at(number: int) -> set[str]:
        return {symbol for symbol in size if member.get((symbol, days[number]), False)}

    assert at(58) == set(), "sixty sessions are needed to know"
    assert at(59) == at(299) == at(423) == {"SIM00", "SIM01"}, "one that grows is not one yet"
    assert at(424) == at(499) == {"SIM00", "SIM03"}, "half of its last 250 sessions were large"
    assert at(500) == at(699) == {"SIM01", "SIM03"}, "one that was delisted was one as long as it traded"
