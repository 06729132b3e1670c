"""What would have been said on each past day knows nothing later, stands on its scale, and is what is served."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from synthetic_market import simulate

from contracts.predictions import Action, Prediction
from ml_service import history, predict, strategies, walkforward
from ml_service.calibrate import Calibration
from ml_service.features import FEATURES, UNEXPLAINED_MOVE_SESSIONS
from ml_service.history import Run, sessions_of, walk_history
from ml_service.model import STRATEGY, fit_linear
from ml_service.predict import SessionAnswers, answer_session, end_of
from ml_service.registry import Artefact
from ml_service.strategies.base import Strategy
from ml_service.walkforward import (
    Dataset,
    calibrate_rows,
    calibration_starts,
    fit_rows,
    fold_starts,
    like_today,
    make_dataset,
    walk_forward,
)

QUICK = Strategy(STRATEGY, "straight", None, lambda x, scaled, events: fit_linear(x, scaled, events, FEATURES, 0.1))
"""The walk is what is tested here: a linear model walks it in a tenth of the time."""
DIPS = Strategy("dips", "fell", pl.col("relative_5") < -0.5, QUICK.fit)
SYMBOLS, SESSIONS, LATER, MEMBERS = 18, 1026, 60, 15
"""The last refit is so recent that no outcome since is known: only its rows tell that it happened."""
HORIZON = 10
SPLIT, FACTOR = "SIM04", 0.2


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for module in (strategies, walkforward, predict, history):
            patch.setattr(module, "STRATEGIES", (QUICK, DIPS))
        yield


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return simulate(1.0, symbols=SYMBOLS, sessions=SESSIONS + LATER, seed=11)


def until(bars: pl.DataFrame, sessions: int) -> tuple[pl.DataFrame, date]:
    """The bars of the first sessions, and the day after them."""
    days = bars["session"].unique().sort()
    return bars.filter(pl.col("session") <= days[sessions - 1]), days[sessions - 1] + timedelta(days=1)


def closes(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select("symbol", "session", raw="close")


def walked(bars: pl.DataFrame, sessions: int, raw: pl.DataFrame | None = None, **given) -> Run:
    known, as_of_day = until(bars, sessions)
    raw_closes = closes(bars) if raw is None else raw
    return walk_history(known, raw_closes, HORIZON, as_of_day, symbols_max=MEMBERS, **given)


STEPS: list[tuple[int, int, str]] = []


@pytest.fixture(scope="module")
def run(bars: pl.DataFrame) -> Run:
    return walked(bars, SESSIONS, progress=lambda done, total, what: STEPS.append((done, total, what)))


def split_later(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars as they look after one share's split on the last day: earlier prices a fifth, volumes fivefold."""
    last, of_share = bars["session"].max(), pl.col("symbol") == SPLIT
    before = of_share & (pl.col("session") < last)
    prices = ("open", "high", "low", "close")
    return bars.with_columns(
        *(pl.when(before).then(pl.col(name) * FACTOR).otherwise(pl.col(name)).alias(name) for name in prices),
        pl.when(before).then(pl.col("volume") / FACTOR).otherwise(pl.col("volume")).alias("volume"),
    )


def told(run: Run, last: date) -> list[pl.DataFrame]:
    return [frame.filter(pl.col("day") <= last) for frame in (run.days, run.said, run.idle)]


def test_sixty_more_sessions_change_nothing_that_was_said_before(bars: pl.DataFrame, run: Run) -> None:
    later, last = walked(bars, SESSIONS + LATER), until(bars, SESSIONS)[0]["session"].max()
    before, after = told(run, last), told(later, last)
    assert before[0]["day"].max() == last
    assert before[1]["day"].max() > last - timedelta(days=20)
    assert set(before[1]["strategy"]) >= {STRATEGY, DIPS.name}
    assert later.days.height == run.days.height + LATER
    for one, other in zip(before, after, strict=True):
        assert one.equals(other)


def test_a_later_split_leaves_the_prices_of_before(bars: pl.DataFrame, run: Run) -> None:
    known, as_of_day = until(bars, SESSIONS)
    adjusted = walk_history(split_later(known), closes(known), HORIZON, as_of_day, symbols_max=MEMBERS)
    prices = [
        {
            (day, text.strategy): [Decimal(str(price)) for price in (text.reference_close, text.target, text.stop)]
            for day, text in said_of(each, SPLIT)
            if day < as_of_day - timedelta(days=3)
        }
        for each in (run, adjusted)
    ]
    assert len(prices[0]) > 5
    assert prices[0].keys() == prices[1].keys()
    # A sum that lies between two steps of 0.05 rupees may be rounded either way.
    apart = [abs(one - other) for key in prices[0] for one, other in zip(prices[0][key], prices[1][key], strict=True)]
    assert max(apart) <= Decimal("0.05")
    assert sum(apart) <= Decimal("0.05") * 3


def said_of(run: Run, symbol: str) -> list[tuple[date, Prediction]]:
    rows = run.said.filter(pl.col("symbol") == symbol)
    return [(day, Prediction.model_validate_json(text)) for day, text in rows.select("day", "prediction").iter_rows()]


def test_a_rows_scale_is_that_of_the_day_that_is_traded() -> None:
    """A split of one in five has its ex-date on the third day; GAP did not trade on it."""
    days = [date(2024, 1, day) for day in (1, 2, 3, 4)]
    frame = pl.DataFrame(
        [(symbol, day, 10.0) for symbol in ("FIVE", "GAP", "SAME") for day in days if (symbol, day.day) != ("GAP", 3)],
        schema={"symbol": pl.String, "session": pl.Date, "close": pl.Float64},
        orient="row",
    )
    raw = frame.select(
        "symbol",
        "session",
        raw=pl.when((pl.col("symbol") != "SAME") & (pl.col("session") < days[2])).then(50.0).otherwise(10.0),
    )
    traded = [*days[1:], date(2024, 1, 5)]
    table = pl.DataFrame({"day": traded, "features_through": days})
    scales = history._on_traded_scale(frame, raw, table).select("symbol", "session", "scale").rows()
    by_share = {name: [scale for symbol, _, scale in scales if symbol == name] for name in ("FIVE", "GAP", "SAME")}
    assert by_share == {"FIVE": [5, 1, 1, 1], "GAP": [5, 5, 1], "SAME": [1, 1, 1, 1]}


def test_nothing_is_certified_by_outcomes_to_come(run: Run) -> None:
    """At first there is no record; twenty episodes of ten sessions each must be over."""
    first = run.days["day"][0]
    assert run.said["day"][0] >= first + timedelta(days=200 * 7 // 5)
    early = run.idle.filter(pl.col("day") == first)
    assert early.height == MEMBERS
    assert "insufficient_evidence" in set(early["reason"])


def test_all_that_is_said_can_be_acted_on_until_its_day_ends(run: Run) -> None:
    for day, _, strategy, text in run.said.iter_rows():
        said = Prediction.model_validate_json(text)
        assert said.action in (Action.BUY, Action.SELL)
        assert said.certified_modes
        assert (said.strategy, said.valid_until, said.reasons) == (strategy, end_of(day), [])
    order = [QUICK.name, DIPS.name]
    by_day = run.said.group_by("day", maintain_order=True).agg("strategy")["strategy"].to_list()
    assert all([order.index(s) for s in names] == sorted(order.index(s) for s in names) for names in by_day)


def test_an_action_without_a_factor_silences_a_share_from_its_day_on_and_not_before(
    bars: pl.DataFrame, run: Run
) -> None:
    days = until(bars, SESSIONS)[0]["session"].unique().sort()
    number = SESSIONS - 100
    changed = walked(bars, SESSIONS, unadjusted={"SIM02": [days[number]]})
    of_share = changed.idle.filter(pl.col("symbol") == "SIM02", pl.col("reason") == "unadjusted_action")
    before = [frame.filter(pl.col("day") <= days[number]) for frame in (changed.days, changed.said, changed.idle)]
    assert all(one.equals(other) for one, other in zip(before, told(run, days[number]), strict=True))
    silent = changed.days.filter(pl.col("day").is_in(of_share["day"].implode()))["features_through"]
    assert silent.to_list() == days[number : number + UNEXPLAINED_MOVE_SESSIONS].to_list()


def last_artefact(bars: pl.DataFrame) -> tuple[Artefact, Dataset]:
    """The model of the last fold as it would have been registered, calibrated at the last recalibration."""
    data = make_dataset(bars, HORIZON)
    starts = fold_starts(data, last=int(data.session.max()))
    answers = walk_forward(data, QUICK, starts, lambda *_: None, unlabelled=True)
    model = fit_rows(data, np.flatnonzero(data.learnable(starts[-1])), QUICK.fit)
    month = calibration_starts(data, answers.scored)[-1]
    like = data.learnable(month)[answers.scored] & like_today(data, answers.scored, month)
    scores = {name: score[like] for name, score in answers.scores.items()}
    calibration: Calibration = calibrate_rows(data, answers.scored[like], scores)
    manifest = {
        "horizon_sessions": HORIZON,
        "universe": sorted(set(bars["symbol"])),
        "strategies": {STRATEGY: {"modes": {"aggressive": {"certified": True}}}},
    }
    return Artefact("0" * 64, {STRATEGY: model}, {STRATEGY: calibration}, manifest), data


def test_it_says_what_a_model_registered_then_would_have_served(bars: pl.DataFrame) -> None:
    known, as_of_day = until(bars, SESSIONS)
    run = walk_history(known, closes(known), HORIZON, as_of_day, symbols_max=SYMBOLS)
    artefact, _ = last_artefact(known)
    sessions = known["session"].unique().sort()
    compared = 0
    for through in sessions.tail(3).to_list():
        recent = known.filter(pl.col("session") >= sessions[-403])
        served: SessionAnswers = answer_session(artefact, recent, through)
        (day,) = run.days.filter(pl.col("features_through") == through)["day"].to_list()
        (answer,) = sessions_of(run, artefact.manifest["universe"], day, day)
        acted = {s: p for s, p in served.predictions.items() if p.action is not Action.HOLD}
        assert set(answer.predictions) == set(acted)
        assert sum(answer.idle.values()) == SYMBOLS - len(set(acted) | set(answer.candidates))
        for symbol, said in answer.predictions.items():
            other = acted[symbol]
            same = ("action", "reference_close", "target", "stop", "cluster", "horizon_sessions", "strategy")
            assert [getattr(said, name) for name in same] == [getattr(other, name) for name in same]
            assert said.expected_return_net == pytest.approx(other.expected_return_net, abs=1e-6)
            assert [t.probability for t in said.touch] == pytest.approx([t.probability for t in other.touch], abs=1e-6)
            compared += 1
    assert compared >= 3


def test_a_day_tells_what_was_asked_for_and_counts_the_rest(run: Run) -> None:
    day, symbol = run.said.filter(pl.col("strategy") == STRATEGY).row(-1)[:2]
    others = run.idle.filter(pl.col("day") == day)
    (answer,) = sessions_of(run, [symbol, "NOSUCH", *others["symbol"]], day, day)
    assert symbol in answer.predictions
    assert answer.idle["unknown_symbol"] == 1
    spoken = set(answer.predictions) | set(answer.candidates)
    expected = others.filter(~pl.col("symbol").is_in(list(spoken)))["reason"].value_counts()
    assert {k: v for k, v in answer.idle.items() if k != "unknown_symbol"} == dict(expected.iter_rows())
    assert answer.features_through < day
    assert answer.trained_through is not None
    assert answer.trained_through < answer.features_through
    assert list(sessions_of(run, ["NOSUCH"], day + timedelta(days=4000), date.max)) == []


def test_steps_are_told_as_parts_of_the_whole(run: Run) -> None:
    assert run.days.height
    shares = [done / total for done, total, _ in STEPS]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert any("fold" in what for _, _, what in STEPS)


def test_a_share_outside_the_universe_of_a_day_names_no_cluster_of_it() -> None:
    rng = np.random.default_rng(1)
    sessions = 130
    moves = {name: rng.normal(size=sessions) for name in ("BBB", "CCC", "DDD")}
    moves["AAA"] = moves["BBB"] + 0.1 * rng.normal(size=sessions)
    frame = pl.DataFrame(
        [
            (symbol, date(2024, 1, 1) + timedelta(days=n), n, float(moves[symbol][n]), symbol != "AAA" or n > 125)
            for symbol in sorted(moves)
            for n in range(sessions)
        ],
        schema=["symbol", "session", "number", "relative", "member"],
        orient="row",
    )
    clusters = history._Clusters(frame)
    assert clusters.of(125) == {"BBB": "BBB", "CCC": "CCC", "DDD": "DDD"}
    assert clusters.of(126)["BBB"] == "AAA"
