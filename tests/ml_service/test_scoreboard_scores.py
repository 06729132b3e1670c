"""The board's figures, against a plain loop over the same rows."""

import math
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from frozen_record import frozen, outcomes
from scipy.stats import t

from ml_service.evidence import MODES
from ml_service.labels import EVENTS
from ml_service.scores import event_score, event_scores, mode_records, share

FIRST = date(2022, 1, 3)
HORIZON = 10
SYMBOLS = [f"S{n}" for n in range(6)]
STRATEGIES = ("momentum", "squeeze")


def record(seed: int, sessions: int = 80) -> pl.DataFrame:
    """Rows as Scoreboard.read gives them: random probabilities and outcomes, the newest still pending."""
    rng = np.random.default_rng(seed)
    days = [FIRST + timedelta(days=n) for n in range(sessions)]
    tables = []
    for number, day in enumerate(days):
        for strategy in STRATEGIES:
            rows = frozen(day, SYMBOLS, strategy=strategy)
            size = rows.height
            expected = rng.normal(0.02, 0.01, size)
            stated = {f"p_{event}": rng.uniform(0.4, 1, size) for event in EVENTS}
            rows = rows.with_columns(
                expected=pl.Series(expected),
                lower=pl.Series(expected - rng.uniform(0, 0.03, size)),
                **{name: pl.Series(values) for name, values in stated.items()},
            )
            end = number + HORIZON
            known = outcomes(day, SYMBOLS, days[end] if end < sessions else day)
            known = known.with_columns(
                net_return=pl.Series(rng.normal(0.01, 0.03, size)),
                **{f"hit_{event}": pl.Series(rng.uniform(0, 1, size) < stated[f"p_{event}"]) for event in EVENTS},
            )
            if end >= sessions:
                known = known.clear()
            elif rng.uniform() < 0.3:
                known = known.with_columns(outcome=pl.lit("unscorable"), matured_through=None, net_return=None)
            tables.append(
                rows.join(known, on=["session", "version", "symbol"], how="left").with_columns(
                    pl.col("outcome").fill_null("pending")
                )
            )
    return pl.concat(tables)


def plain_event(rows: list[dict[str, Any]], event: str) -> dict[str, float]:
    """Everything an EventScore says, by a loop."""
    done = [row for row in rows if row["outcome"] == "matured"]
    brier = base = stated = realised = 0.0
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in done:
        p, hit = row[f"p_{event}"], row[f"hit_{event}"]
        brier += (p - hit) ** 2 / len(done)
        base += (row[f"base_{event}"] - hit) ** 2 / len(done)
        stated += p / len(done)
        realised += hit / len(done)
        bins.setdefault(min(9, math.floor(p * 10)), []).append((p, hit))
    gaps = [abs(sum(p for p, _ in each) - sum(hit for _, hit in each)) for each in bins.values()]
    return {
        "matured": len(done),
        "pending": sum(row["outcome"] == "pending" for row in rows),
        "stated": stated,
        "realised": realised,
        "brier": brier,
        "base_brier": base,
        "brier_skill": 1 - brier / base,
        "calibration_error": sum(gaps) / len(done),
    }


def plain_mode(rows: list[dict[str, Any]], net_return: float, confidence: float) -> dict[str, Any]:
    """Signals, episodes, and the mean and interval of hits and net returns, by loops."""
    event = f"touch_{net_return:g}"
    chosen = [r for r in rows if r["expected"] >= net_return and r[f"p_{event}"] >= confidence and r["lower"] > 0]
    done = [row for row in chosen if row["outcome"] == "matured"]
    episodes: list[list[dict[str, Any]]] = []
    opened = date.min
    for row in sorted(done, key=lambda row: row["session"]):
        if not episodes or (row["session"] - opened).days >= HORIZON:
            episodes.append([])
            opened = row["session"]
        episodes[-1].append(row)
    found: dict[str, Any] = {"signals": len(chosen), "matured": len(done), "episodes": len(episodes)}
    for name, column in (("hit_rate", f"hit_{event}"), ("net_return", "net_return")):
        mean = sum(row[column] for row in done) / len(done)
        sums = [sum(row[column] - mean for row in episode) for episode in episodes]
        squares = sum(each**2 for each in sums)
        squares += max(0.0, sum(one * other for one, other in pairwise(sums)))
        error = math.sqrt(squares * len(episodes) / (len(episodes) - 1)) / len(done)
        effective = len(done) ** 2 / sum(len(episode) ** 2 for episode in episodes)
        reach = float(t.ppf(0.975, max(effective - 1, 1))) * error
        found[name] = (mean, mean - reach, mean + reach)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_event_scores_are_those_of_a_plain_loop(seed: int) -> None:
    rows = record(seed)
    scores = event_scores(rows)
    assert [(s.strategy, s.event) for s in scores] == [(strategy, e) for strategy in STRATEGIES for e in EVENTS]
    for score in scores:
        own = rows.filter(strategy=score.strategy).rows(named=True)
        found = score.model_dump(include=set(plain := plain_event(own, score.event)))
        assert found == pytest.approx(plain, abs=1e-12)
        assert sum(each.count for each in score.bins) == score.matured


@pytest.mark.parametrize("seed", [1, 2])
def test_mode_records_are_those_of_a_plain_loop(seed: int) -> None:
    rows = record(seed)
    for found in mode_records(rows, STRATEGIES):
        mode = found.mode
        plain = plain_mode(rows.filter(strategy=found.strategy).rows(named=True), mode.net_return, mode.confidence)
        assert (found.signals, found.matured) == (plain["signals"], plain["matured"])
        assert found.matured > 20
        judged = found.judge()
        assert judged is not None
        episodes, hit, net = judged
        assert episodes == plain["episodes"]
        mean, low, high = plain["hit_rate"]
        assert (hit.mean, hit.low, hit.high) == pytest.approx((mean, max(low, 0), min(high, 1)), abs=1e-12)
        assert (net.mean, net.low, net.high) == pytest.approx(plain["net_return"], abs=1e-12)
    assert len(mode_records(rows, STRATEGIES)) == len(STRATEGIES) * len(MODES)


def test_what_has_not_matured_says_nothing() -> None:
    rows = record(1).filter(pl.col("outcome") != "matured")
    assert event_scores(rows) == []
    for found in mode_records(rows, STRATEGIES):
        assert found.signals > 0
        assert (found.matured, found.judge()) == (0, None)
    nothing = rows.clear()
    assert event_scores(nothing) == []
    assert all(found.signals == 0 for found in mode_records(nothing, ["momentum"]))


def test_one_episode_has_no_interval() -> None:
    rows = record(1, sessions=HORIZON + 1)
    found = next(r for r in mode_records(rows, STRATEGIES) if r.matured)
    judged = found.judge()
    assert judged is not None
    assert judged[0] == 1
    assert (share(judged[1]).low, share(judged[1]).high) == (None, None)
    assert share(judged[1]).mean == judged[1].mean


def test_rows_without_a_probability_or_base_rate_are_not_scored() -> None:
    rows = record(1)
    unscored = rows.with_columns(p_net_profit=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("p_net_profit")))
    half = event_score(unscored, "momentum", "net_profit")
    whole = event_score(rows, "momentum", "net_profit")
    assert half is not None
    assert whole is not None
    assert half.matured * 2 == whole.matured
    assert event_score(rows.with_columns(base_net_profit=None), "momentum", "net_profit") is None


def test_a_base_rate_that_is_always_right_leaves_no_skill_to_show() -> None:
    certain = pl.lit(1.0)
    rows = record(1).with_columns(base_net_profit=certain, hit_net_profit=pl.lit(True))
    score = event_score(rows, "momentum", "net_profit")
    assert score is not None
    assert (score.base_brier, score.brier_skill) == (0, 0)
