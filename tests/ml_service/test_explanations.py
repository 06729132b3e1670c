"""An explanation adds up to the score it explains, names what moved it most, and is silent where nothing was said."""

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from quick_training import quick_bars, quick_trained, unsigned

from ml_service.features import FEATURES, compute_features
from ml_service.model import HEADS, STRATEGY
from ml_service.predict import CONTRIBUTIONS_MAX, EXPLAINED_EVENT, Explanation, answer_session, explain
from ml_service.registry import Artefact
from ml_service.strategies import STRATEGIES, vote_column, with_votes

RULES = [one for one in STRATEGIES if one.when is not None]


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return unsigned(quick_trained())


def session_ago(ago: int) -> date:
    return quick_bars()["session"].unique().sort()[-1 - ago]


def rows_of(session: date) -> pl.DataFrame:
    return with_votes(compute_features(quick_bars())).filter(session=session).sort("symbol")


def log_odds(artefact: Artefact, session: date) -> dict[str, float]:
    """The model's own uncalibrated scores, asked for directly."""
    rows = rows_of(session)
    x, atr = rows.select(FEATURES).to_numpy(), rows["atr_fraction"].to_numpy()
    scores = artefact.models[STRATEGY].scores(x, atr)[EXPLAINED_EVENT]
    return dict(zip(rows["symbol"], scores.tolist(), strict=True))


def total(found: Explanation) -> float:
    assert found.intercept is not None
    assert found.rest is not None
    return found.intercept + sum(one.contribution for one in found.contributions) + found.rest


def test_parts_add_up_to_the_score(artefact: Artefact) -> None:
    compared = []
    for ago in (0, 1, 7):
        session = session_ago(ago)
        for symbol, score in log_odds(artefact, session).items():
            found = explain(artefact, quick_bars(), session, symbol)
            assert found.event == EXPLAINED_EVENT == "net_profit"
            assert total(found) == pytest.approx(score, abs=1e-4)
            compared.append(score)
    assert len(compared) >= 30
    assert np.std(compared) > 0.05, "scores that are all alike would add up to anything"


def test_contributions_of_every_head_and_strategy_add_up(artefact: Artefact) -> None:
    rows = rows_of(session_ago(3))
    x, ones = rows.select(FEATURES).to_numpy(), np.ones(rows.height)
    for model in artefact.models.values():
        for head in HEADS:
            parts, intercept = model.contributions(x, head)
            assert parts.shape == (rows.height, len(model.inputs))
            np.testing.assert_allclose(intercept + parts.sum(axis=1), model.scores(x, ones)[head], atol=1e-4)


def test_the_ten_largest_are_shown_largest_first(artefact: Artefact) -> None:
    session, symbol = session_ago(0), "SIM04"
    found = explain(artefact, quick_bars(), session, symbol)
    row = rows_of(session).filter(symbol=symbol)
    parts, _ = artefact.models[STRATEGY].contributions(row.select(FEATURES).to_numpy(), EXPLAINED_EVENT)
    every = dict(zip(FEATURES, parts[0].tolist(), strict=True))
    sizes = [abs(one.contribution) for one in found.contributions]
    assert len(sizes) == CONTRIBUTIONS_MAX == 10
    assert all(larger >= smaller for larger, smaller in pairwise(sizes))
    shown = {one.feature: one for one in found.contributions}
    assert len(shown) == 10
    assert min(sizes) >= max(abs(part) for name, part in every.items() if name not in shown)
    for name, one in shown.items():
        assert one.contribution == pytest.approx(every[name], abs=1e-6)
        assert one.value == pytest.approx(row[name][0], rel=1e-6), "the feature's value on that session"


def test_another_feature_value_moves_its_own_linear_part_only(artefact: Artefact) -> None:
    """The linear half is exact by construction; the trees share a change among the features they split on."""
    x = rows_of(session_ago(0)).select(FEATURES).to_numpy()[:1]
    moved = x.copy()
    moved[0, FEATURES.index("rsi_5")] += 0.1
    linear = artefact.models[STRATEGY].linear  # pyright: ignore[reportAttributeAccessIssue]
    before, after = (linear.contributions(rows, EXPLAINED_EVENT)[0][0] for rows in (x, moved))
    assert [name for name, one, other in zip(FEATURES, before, after, strict=True) if one != other] == ["rsi_5"]


def test_a_symbol_that_abstains_has_no_contributions(artefact: Artefact) -> None:
    session = session_ago(0)
    stale = quick_bars().filter(~((pl.col("symbol") == "SIM02") & (pl.col("session") == session)))
    young = stale.filter((pl.col("symbol") != "SIM03") | (pl.col("session") > session - timedelta(days=200)))
    predictions = answer_session(artefact, young, session).predictions
    for symbol, reason in (("SIM02", "stale_bars"), ("SIM03", "short_history")):
        assert predictions[symbol].reasons == [reason]
        found = explain(artefact, young, session, symbol)
        assert (found.intercept, found.contributions, found.rest) == (None, [], None)
        assert [vote.strategy for vote in found.votes] == [one.name for one in RULES]
    acted = explain(artefact, quick_bars(), session, "SIM05", {"SIM05": session})
    assert (acted.intercept, acted.contributions) == (None, [])
    unknown = explain(artefact, quick_bars(), session, "NOSUCH")
    assert (unknown.intercept, unknown.contributions, unknown.votes) == (None, [], [])


def test_votes_are_the_rules_and_their_reasons(artefact: Artefact) -> None:
    fired = 0
    for ago in range(0, 40, 4):
        session = session_ago(ago)
        for row in rows_of(session).iter_rows(named=True):
            if not any(row[vote_column(one.name)] for one in RULES):
                continue
            votes = explain(artefact, quick_bars(), session, row["symbol"]).votes
            assert {vote.strategy: (vote.fired, vote.reason) for vote in votes} == {
                one.name: (row[vote_column(one.name)], one.reason) for one in RULES
            }
            fired += sum(vote.fired for vote in votes)
    assert fired >= 3


def test_the_future_explains_nothing(artefact: Artefact) -> None:
    session = session_ago(12)
    past = quick_bars().filter(pl.col("session") <= session)
    assert explain(artefact, quick_bars(), session, "SIM06") == explain(artefact, past, session, "SIM06")
