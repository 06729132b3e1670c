"""Every rule proposes what its description says and nothing else, and a new one is one entry."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from quick_training import few_trees, quick_bars, unsigned
from synthetic_market import business_days

from contracts.predictions import HORIZON_SESSIONS_DEFAULT, Action
from ml_service import strategies
from ml_service.features import BAR_SCHEMA, compute_features, with_members
from ml_service.model import STRATEGY, LinearModel
from ml_service.predict import Abstention, answer_session
from ml_service.registry import Artefact
from ml_service.strategies import STRATEGIES, vote_column, with_votes
from ml_service.strategies.base import Strategy, rule
from ml_service.train import Trained, train

RULES = [one for one in STRATEGIES if one.when is not None]
SESSIONS = 400
SHARE = "SHARE"
MODES = ("conservative", "moderate", "aggressive")


def bars_of(symbol: str, close: np.ndarray, volume: np.ndarray) -> pl.DataFrame:
    """Bars that open at the close before and reach 0.5 % beyond both."""
    opening = np.concatenate([close[:1], close[:-1]])
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(close),
            "session": business_days(date(2020, 1, 1), len(close)),
            "open": opening,
            "high": np.maximum(opening, close) * 1.005,
            "low": np.minimum(opening, close) * 0.995,
            "close": close,
            "volume": volume,
        },
        schema=BAR_SCHEMA,
    )


def wave(day: np.ndarray, size: float = 0.01) -> np.ndarray:
    """A log price that goes up one day and down the next."""
    return size * (day % 2)


def proposed(returns: dict[int, float], *, drift: float = 0.0, volume: dict[int, float] | None = None) -> set[str]:
    """The rules that propose a share on its last day. Its log price wavers by 1 % around a `drift` per day, and then,
    for the given days from the end (1: the last), returns what is given; `volume` are multiples of the usual.
    Four other shares waver at random around where they were."""
    day = np.arange(SESSIONS)
    steps = np.diff(wave(day) + drift * day, prepend=0.0)
    amount = np.full(SESSIONS, 1e6)
    for ago, value in returns.items():
        steps[-ago] = value
    for ago, multiple in (volume or {}).items():
        amount[-ago] *= multiple
    share = bars_of(SHARE, 100 * np.exp(np.cumsum(steps)), amount)
    noise = np.random.default_rng(5).normal(0, 0.006, (4, SESSIONS))
    others = [bars_of(f"CALM{i}", 100 * np.exp(noise[i]), np.full(SESSIONS, 1e6)) for i in range(4)]
    last = with_votes(compute_features(pl.concat([share, *others]))).filter(symbol=SHARE).row(-1, named=True)
    return {one.name for one in RULES if last[vote_column(one.name)]}


RISING = 0.003
FALLEN = {3: -0.02, 2: -0.02, 1: -0.02}
DIPPED = {5: -0.012, 4: -0.012, 3: -0.012, 2: -0.012, 1: -0.006}
NARROW = {ago: 0.001 * (-1) ** ago for ago in range(1, 31)}


def test_a_share_that_only_wavers_is_proposed_by_nothing() -> None:
    assert proposed({}) == proposed({}, volume={1: 5.0}) == set()


def test_momentum_wants_a_strong_year_that_goes_on() -> None:
    assert "momentum" in proposed({}, drift=RISING)
    assert "momentum" not in proposed({}, drift=-RISING), "a falling year"
    assert "momentum" not in proposed(dict.fromkeys(range(1, 21), -0.004), drift=RISING), "a month behind all others"
    assert "momentum" not in proposed(dict.fromkeys(range(1, 21), 0.01)), "a strong month, but no year"


def test_mean_reversion_wants_a_sharp_fall_in_no_downtrend() -> None:
    assert "mean_reversion" in proposed(FALLEN, drift=RISING)
    assert "mean_reversion" not in proposed(FALLEN, drift=-RISING), "a downtrend"
    assert "mean_reversion" not in proposed({3: -0.02, 2: -0.02, 1: 0.02}, drift=RISING), "it has turned already"
    assert "mean_reversion" not in proposed({2: -0.003, 1: -0.003}, drift=RISING), "hardly a fall"


def test_breakout_wants_the_highest_close_and_volume() -> None:
    assert "breakout" in proposed({1: 0.05}, volume={1: 3.0})
    assert "breakout" not in proposed({1: 0.05}), "no more volume than usual"
    assert "breakout" not in proposed({1: 0.05}, volume={1: 0.5}), "less volume than usual"
    assert "breakout" not in proposed({40: 0.06, 39: -0.06, 1: 0.05}, volume={1: 3.0}), (
        "it stood higher 40 sessions ago"
    )
    # A share opens at the close before, so that its high lasts one session more.
    assert "breakout" not in proposed({57: 0.06, 56: -0.06, 1: 0.05}, volume={1: 3.0}), "55 sessions ago still counts"
    assert "breakout" in proposed({58: 0.06, 57: -0.06, 1: 0.05}, volume={1: 3.0}), "56 sessions ago does not"
    assert "breakout" not in proposed({2: 0.05, 1: 0.0}, volume={1: 3.0, 2: 3.0}), "today's close is below today's high"


def test_pullback_wants_a_dip_above_a_rising_mean() -> None:
    assert "pullback" in proposed(DIPPED, drift=RISING)
    assert "pullback" not in proposed({}, drift=RISING), "no dip"
    assert "pullback" not in proposed(DIPPED), "no rise before"
    assert "pullback" not in proposed({ago: 4 * value for ago, value in DIPPED.items()}, drift=RISING), "a collapse"


def test_squeeze_wants_a_narrow_range_and_a_new_high() -> None:
    assert "squeeze" in proposed(NARROW | {1: 0.012})
    assert "squeeze" not in proposed({1: 0.05}), "a usual range"
    assert "squeeze" not in proposed(NARROW), "no new high"
    assert "squeeze" not in proposed(NARROW | {1: -0.02}), "a new low"


def test_the_channels_are_those_of_a_plain_loop() -> None:
    rows = with_votes(compute_features(quick_bars())).filter(symbol="SIM03")
    close, high = rows["close"].to_list(), rows["high"].to_list()
    volume, spread = np.log1p(rows["volume"].to_numpy()), rows["volatility_20"].to_list()
    for day in range(260, len(close)):
        breaks = close[day] > max(high[day - 55 : day]) and volume[day] > volume[day - 19 : day + 1].mean()
        assert rows["vote_breakout"][day] == breaks
        assert rows["vote_squeeze"][day] == (spread[day - 1] < -0.3 and close[day] > max(high[day - 20 : day]))


def test_names_and_reasons_are_unique_and_stable_codes() -> None:
    assert STRATEGIES[0].name == STRATEGY
    assert STRATEGIES[0].when is None, "the learned one has a view of every row"
    assert {one.name for one in RULES} == {"momentum", "mean_reversion", "breakout", "pullback", "squeeze"}
    for said in ([one.name for one in STRATEGIES], [one.reason for one in STRATEGIES]):
        assert max(Counter(said).values()) == 1
        assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", word) for word in said)


def test_unknown_inputs_are_no_vote() -> None:
    young = with_votes(compute_features(quick_bars().head(40)))
    votes = young.select(vote_column(one.name) for one in RULES)
    assert votes.select(pl.all().null_count()).row(0) == (0,) * len(RULES)
    assert not any(votes.select(pl.all().any()).row(0))


# One more strategy.


def dipping(name: str = "dipping", below: float = 0.0) -> Strategy:
    return rule(name, f"below_its_mean_{name}", pl.col("gap_10") < below, ("gap_10", "relative_5", "atr_log", "rsi_5"))


@contextmanager
def more_rules() -> Iterator[None]:
    """One rule that proposes often enough to be judged, and one that never does, beside the others."""
    present, more = strategies.STRATEGIES, (*STRATEGIES, dipping(), dipping("never", -1e6))
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("ml_service") and getattr(module, "STRATEGIES", None) is present:
                patch.setattr(module, "STRATEGIES", more)
        yield


@pytest.fixture(scope="module")
def extended() -> Trained:
    with more_rules(), few_trees():
        return train(quick_bars(), HORIZON_SESSIONS_DEFAULT)


def certifying(trained: Trained, certified: dict[str, list[str]]) -> Artefact:
    """The model with other certificates."""
    records: dict[str, Any] = {
        name: record
        | {"modes": {mode: record["modes"][mode] | {"certified": mode in certified.get(name, [])} for mode in MODES}}
        for name, record in trained.manifest["strategies"].items()
    }
    artefact = unsigned(trained)
    return replace(artefact, manifest=artefact.manifest | {"strategies": records})


def sessions_from(number: int) -> list[date]:
    return quick_bars()["session"].unique().sort()[number:].to_list()


def test_a_new_rule_is_trained_judged_and_served_like_any_other(extended: Trained) -> None:
    assert isinstance(extended.models["dipping"], LinearModel)
    assert extended.models["dipping"].inputs == ("gap_10", "relative_5", "atr_log", "rsi_5")
    record = extended.manifest["strategies"]["dipping"]
    assert 400 < record["metrics"]["rows"] < extended.manifest["strategies"][STRATEGY]["metrics"]["rows"]
    assert set(record["modes"]) == set(MODES)
    frame = with_members(quick_bars(), 200)
    dips = compute_features(frame).filter(pl.col("gap_10") < 0).select("symbol", "session")
    served = 0
    with more_rules():
        for session in sessions_from(-6):
            answers = answer_session(unsigned(extended), quick_bars(), session)
            below = set(dips.filter(session=session)["symbol"])
            said = {
                symbol: one
                for symbol, candidates in answers.candidates.items()
                for one in candidates
                if one.strategy == "dipping"
            }
            assert set(said) <= below
            served += len(said)
            for symbol, one in said.items():
                assert one.symbol == symbol
                assert one.confidence is not None
                assert "dipping" not in one.supporting_strategies
                assert "dipping" in answers.predictions[symbol].supporting_strategies
    assert served >= 10


def test_a_candidate_carries_its_own_strategys_certificates(extended: Trained) -> None:
    artefact = certifying(extended, {"dipping": ["moderate"], STRATEGY: ["aggressive", "conservative"]})
    bought = 0
    with more_rules():
        for session in sessions_from(-30):
            answers = answer_session(artefact, quick_bars(), session)
            for one in (one for candidates in answers.candidates.values() for one in candidates):
                assert one.certified_modes == (["moderate"] if one.strategy == "dipping" else [])
                bought += one.action is Action.BUY
            numbered = [one for one in answers.predictions.values() if one.confidence is not None]
            assert {tuple(one.certified_modes) for one in numbered} <= {("conservative", "aggressive")}
    assert bought > 0


def test_a_rule_without_evidence_answers_nothing_that_could_be_traded(extended: Trained) -> None:
    never = extended.manifest["strategies"]["never"]
    assert "never" not in extended.models
    assert "too little" in never["why"]
    assert {(mode["verdict"], mode["certified"]) for mode in never["modes"].values()} == {
        ("insufficient_evidence", False)
    }
    artefact, seen = certifying(extended, {STRATEGY: list(MODES)}), 0
    with more_rules():
        for session in sessions_from(-20):
            for candidates in answer_session(artefact, quick_bars(), session).candidates.values():
                for one in candidates:
                    seen += 1
                    assert one.strategy in extended.models
                    assert (one.action, one.certified_modes) == (Action.HOLD, [])
                    assert one.reasons == [Abstention.INSUFFICIENT_EVIDENCE.value]
    assert seen >= 10
