"""What the strategies would have said before each session of the past, each by what had ended before it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from contracts.predictions import WALK_FORWARD, Action, Prediction, SessionPredictions
from ml_service.calibrate import Forecast
from ml_service.checkpoint import Checkpoint, no_checkpoint
from ml_service.clusters import SESSIONS as CLUSTER_SESSIONS
from ml_service.clusters import clusters_of
from ml_service.evidence import MODES, judge_mode
from ml_service.features import UNEXPLAINED_MOVE_SESSIONS
from ml_service.labels import Labels, make_labels
from ml_service.model import LOGIC_VERSION, STRATEGY
from ml_service.predict import Abstention, abstention_of, action_of, end_of, expiring, prediction_of
from ml_service.strategies import STRATEGIES, vote_column
from ml_service.train import UNIVERSE_SYMBOLS_MAX, members_only, no_progress
from ml_service.walkforward import (
    EMBARGO_SESSIONS,
    RECALIBRATE_SESSIONS,
    Dataset,
    OutOfSample,
    Progress,
    TrainingError,
    across,
    calibration_starts,
    dataset_of,
    fold_starts,
    is_eligible,
    numbered,
    walk_forward,
)

HISTORY_VERSION = 1
"""What is kept of a run, and how it is made apart from what training does: raise it with either."""

IDLE_HOLD = "hold"
STEPS_PER_STRATEGY = 100
FORECAST_DECIMALS = 12
RAW_SCHEMA = {"symbol": pl.String, "session": pl.Date, "raw": pl.Float64}

DAYS = pl.Schema({"day": pl.Date, "features_through": pl.Date, "model_version": pl.String, "trained_through": pl.Date})
SAID = pl.Schema({"day": pl.Date, "symbol": pl.String, "strategy": pl.String, "prediction": pl.String})
IDLE = pl.Schema({"day": pl.Date, "symbol": pl.String, "reason": pl.String})


KEPT = (
    *("symbol", "session", "number", "close", "atr", "relative", "member"),
    *("history_sessions", "reach", "move_max", "complete"),
)


@dataclass(frozen=True)
class Run:
    """A finished walk-forward. `days` (DAYS): the trading days it answers for, and what it knew; `said` (SAID): what
    could be acted on, as JSON of contracts Prediction, the strategies in their order; `idle` (IDLE): why the machine-
    learned strategy's view of the other members was nothing to act on."""

    days: pl.DataFrame
    said: pl.DataFrame
    idle: pl.DataFrame


@dataclass(frozen=True)
class _Rows:
    """Every row of the past: what is said of it later (`frame`: KEPT and votes), which rows can be answered for
    (`fit`, and as a dataset), and which look back on an action that no factor undoes."""

    frame: pl.DataFrame
    fit: np.ndarray
    data: Dataset
    unadjusted: np.ndarray


def walk_history(
    bars: pl.DataFrame,
    raw_closes: pl.DataFrame,
    horizon: int,
    as_of_day: date,
    *,
    unadjusted: Mapping[str, Sequence[date]] = MappingProxyType({}),
    progress: Progress = no_progress,
    checkpoint: Checkpoint = no_checkpoint,
    symbols_max: int = UNIVERSE_SYMBOLS_MAX,
) -> Run:
    """Walk forward over `bars` (BAR_SCHEMA, on the scale of `as_of_day`, of sessions before it), and say what would
    have been served on every trading day up to `as_of_day`.

    Models are refitted and calibrated as in training. A mode is certified, from each recalibration to the next, by the
    out-of-sample predictions whose outcomes were complete by then. `raw_closes` (RAW_SCHEMA) are the unadjusted closes:
    reference prices stand on the scale of the day that is traded. `unadjusted`: see `make_dataset`; of an action it is
    known from its ex-date on.

    Raises TrainingError where the bars cannot carry the machine-learned strategy.
    """
    progress(0, len(STRATEGIES) * STEPS_PER_STRATEGY, "computing features")
    members, _ = members_only(bars, symbols_max)
    rows = _rows(members, horizon, unadjusted)
    sessions = rows.frame["session"].unique().sort()
    starts = fold_starts(rows.data, last=len(sessions) - 1)
    said: list[_Said] = []
    for number, strategy in enumerate(STRATEGIES):
        own = rows.data.proposed_by(strategy)
        place = np.flatnonzero(rows.fit)[rows.data.votes[strategy.name]]
        try:
            answers = walk_forward(own, strategy, starts, _part(progress, number), checkpoint, unlabelled=True)
        except TrainingError:
            if strategy.name == STRATEGY:
                raise
            continue
        answers = replace(answers, forecast=_steady(answers.forecast))
        said.append(_Said(strategy.name, answers, place[answers.rows], _certified(own, answers, horizon)))
    steps = len(STRATEGIES) * STEPS_PER_STRATEGY
    progress(steps, steps, "writing down what was said")
    first = int(rows.frame["number"].to_numpy()[said[0].place].min())
    days = _days(sessions, starts, first, as_of_day)
    frame = _on_traded_scale(rows.frame, raw_closes, days)
    return Run(days, _said_frame(frame, said, horizon), _idle_frame(frame, rows, said[0]))


def _steady(forecast: Forecast) -> Forecast:
    """The forecast without the last bits of its sums: how many rows are scored together decides those."""
    events = {name: value.round(FORECAST_DECIMALS) for name, value in forecast.events.items()}
    return Forecast(events, forecast.expected.round(FORECAST_DECIMALS), forecast.error.round(FORECAST_DECIMALS))


def _part(progress: Progress, number: int) -> Progress:
    """Progress of one strategy as a part of the whole: its folds, then its calibrations, never backwards."""
    furthest = 0

    def report(done: int, total: int, what: str) -> None:
        nonlocal furthest
        furthest = max(furthest, STEPS_PER_STRATEGY * done // max(total, 1))
        progress(number * STEPS_PER_STRATEGY + furthest, len(STRATEGIES) * STEPS_PER_STRATEGY, what)

    return report


def _rows(members: pl.DataFrame, horizon: int, unadjusted: Mapping[str, Sequence[date]]) -> _Rows:
    """What can be answered for is told by the past alone; what teaches, by outcomes too."""
    reach = pl.col("session").shift(UNEXPLAINED_MOVE_SESSIONS - 1).over("symbol")
    frame = numbered(members).with_columns(reach=pl.coalesce(reach, pl.col("session").min().over("symbol")))
    behind = np.zeros(frame.height, dtype=bool)
    for symbol, ex_dates in unadjusted.items():
        for day in ex_dates:
            near = (pl.col("symbol") == symbol) & (pl.col("reach") <= day) & (pl.col("session") >= day)
            behind |= frame.select(near).to_series().to_numpy()
    fit = is_eligible(frame) & ~behind
    labels = make_labels(frame, horizon)
    end = np.where(across(frame, horizon, unadjusted), -1, labels.end)
    taught = Labels(labels.gross, labels.net, labels.forward, labels.events, end)
    votes = [vote_column(one.name) for one in STRATEGIES]
    return _Rows(frame.select(*KEPT, *votes), fit, dataset_of(frame, taught, fit), behind)


@dataclass(frozen=True)
class _Said:
    """One strategy's calibrated answers: `place` are their rows in the frame, `certified` the modes of each."""

    strategy: str
    answers: OutOfSample
    place: np.ndarray
    certified: list[list[str]]


def _certified(data: Dataset, answers: OutOfSample, horizon: int) -> list[list[str]]:
    """Per calibrated row, the modes that were certified when its calibration was made."""
    starts = calibration_starts(data, answers.scored)
    session, rows, forecast = data.session[answers.rows], answers.rows, answers.forecast
    hits, net = data.events(rows), data.labels.net[rows]
    at: list[list[str]] = []
    for start in starts:
        learnable = data.learnable(start)[rows]
        past = Forecast(
            {name: value[learnable] for name, value in forecast.events.items()},
            forecast.expected[learnable],
            forecast.error[learnable],
        )
        outcomes = {name: hit[learnable] for name, hit in hits.items()}
        record = (judge_mode(m, past, outcomes, net[learnable], session[learnable], horizon) for m in MODES)
        at.append([mode["name"] for mode in record if mode["certified"]])
    return [at[number] for number in ((session - starts[0]) // RECALIBRATE_SESSIONS).tolist()]


def _days(sessions: pl.Series, starts: list[int], first: int, as_of_day: date) -> pl.DataFrame:
    """The trading days answered for (DAYS): those after the sessions from number `first` on."""
    through = sessions.slice(first)
    fold = np.array(starts)[np.searchsorted(starts, np.arange(first, len(sessions)), side="right") - 1]
    trained = sessions.gather(fold - EMBARGO_SESSIONS - 1)
    return pl.DataFrame(
        {
            "day": [*through.to_list()[1:], as_of_day],
            "features_through": through,
            "model_version": [f"{WALK_FORWARD}:{day}" for day in trained],
            "trained_through": trained,
        },
        schema=DAYS,
    )


def _on_traded_scale(frame: pl.DataFrame, raw_closes: pl.DataFrame, days: pl.DataFrame) -> pl.DataFrame:
    """The frame with each row's trading `day` and the `scale` that brings its prices to that day's.

    A bar of the day tells its scale; where the share did not trade, the row's own does; the last day's is that of the
    bars.
    """
    own = frame.select("symbol", "session", "close").join(raw_closes, on=["symbol", "session"], how="left")
    ratio = own.select("symbol", "session", ratio=(pl.col("raw") / pl.col("close")).fill_null(1.0))
    last = days["day"].max()
    return (
        frame.join(days.select("day", session="features_through"), on="session", how="left", maintain_order="left")
        .join(ratio, on=["symbol", "session"], how="left", maintain_order="left")
        .join(
            ratio.rename({"session": "day", "ratio": "scale"}), on=["symbol", "day"], how="left", maintain_order="left"
        )
        .with_columns(
            scale=pl.when(pl.col("day") == last).then(1.0).otherwise(pl.coalesce("scale", "ratio")),
        )
    )


def _said_frame(frame: pl.DataFrame, said: list[_Said], horizon: int) -> pl.DataFrame:
    """All that could be acted on (SAID), by day, strategy and symbol, of days that the learned one answers for."""
    chosen = [
        (int(place), order, i)
        for order, one in enumerate(said)
        for i, place in enumerate(one.place.tolist())
        if one.certified[i] and action_of(one.answers.forecast, i, True)[0] is not Action.HOLD
    ]
    number, answered = frame["number"].to_numpy(), frame["day"].is_not_null().to_numpy()
    chosen = [each for each in chosen if answered[each[0]]]
    chosen.sort(key=lambda each: (number[each[0]], each[1], each[0]))
    found = frame[[place for place, _, _ in chosen]].iter_rows(named=True)
    clusters = _Clusters(frame)
    rows: list[tuple[date, str, str, str]] = []
    for (_, order, i), row in zip(chosen, found, strict=True):
        one = said[order]
        prediction = prediction_of(
            one.strategy,
            row,
            one.answers.forecast,
            i,
            horizon=horizon,
            certified=one.certified[i],
            clusters=clusters.of(row["number"]),
            scale=row["scale"],
        )
        text = expiring(prediction, end_of(row["day"])).model_dump_json()
        rows.append((row["day"], row["symbol"], one.strategy, text))
    return pl.DataFrame(rows, schema=SAID, orient="row")


class _Clusters:
    """The clusters of a session's members, of one session at a time."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame.select("symbol", "session", "number", "relative", "member").sort("number", "symbol")
        self._numbers = self._frame["number"].to_numpy()
        self._last: tuple[int, Mapping[str, str]] = (-1, {})

    def of(self, number: int) -> Mapping[str, str]:
        if self._last[0] != number:
            low, high = np.searchsorted(self._numbers, [number - CLUSTER_SESSIONS + 1, number + 1])
            recent = self._frame.slice(int(low), int(high - low))
            members = recent.filter(pl.col("number") == number, "member").select("symbol")
            self._last = number, clusters_of(recent.join(members, on="symbol", how="semi", maintain_order="left"))
        return self._last[1]


def _idle_frame(frame: pl.DataFrame, rows: _Rows, learned: _Said) -> pl.DataFrame:
    """Why there was nothing to act on in the machine-learned strategy's view of each member (IDLE)."""
    reasons: dict[int, str] = {}
    for i, place in enumerate(learned.place.tolist()):
        action, why = action_of(learned.answers.forecast, i, bool(learned.certified[i]))
        if action is Action.HOLD:
            reasons[place] = why[0] if why else IDLE_HOLD
    acted, fit = set(learned.place.tolist()), rows.fit
    scored = set(np.flatnonzero(fit)[learned.answers.scored].tolist())
    asked = frame.with_row_index("place").filter("member", pl.col("day").is_not_null())
    for row in asked.filter(~pl.col("place").is_in(list(acted))).iter_rows(named=True):
        place = row["place"]
        if fit[place]:
            reasons[place] = Abstention.NO_MODEL if place in scored else Abstention.OUT_OF_RANGE_FEATURES
        else:
            reasons[place] = _why_unfit(row, bool(rows.unadjusted[place]))
    places = sorted(reasons)
    of = frame.select("day", "symbol")[places].with_columns(reason=pl.Series([str(reasons[p]) for p in places]))
    return of.drop_nulls("day").sort("day", "symbol").cast(IDLE)  # pyright: ignore[reportArgumentType]


def _why_unfit(row: dict[str, Any], unadjusted: bool) -> str:
    action = {row["symbol"]: row["session"]} if unadjusted else {}
    return abstention_of(row, row["session"], action) or Abstention.OUT_OF_RANGE_FEATURES


def is_actionable(prediction: Prediction) -> bool:
    """Whether anybody may act on it."""
    return prediction.action is not Action.HOLD and bool(prediction.certified_modes)


def sessions_of(run: Run, symbols: Sequence[str], from_: date, through: date) -> Iterator[SessionPredictions]:
    """What the run says of `symbols` on its trading days of `from_`..`through`, oldest first."""
    of_days, asked = pl.col("day").is_between(from_, through), list(dict.fromkeys(symbols))
    here = of_days & pl.col("symbol").is_in(asked)
    said = run.said.filter(here).partition_by("day", as_dict=True)
    idle = run.idle.filter(here).partition_by("day", as_dict=True)
    for day in run.days.filter(of_days).iter_rows(named=True):
        key = (day["day"],)
        told = [Prediction.model_validate_json(text) for text in said[key]["prediction"]] if key in said else []
        reasons = dict(idle[key].select("symbol", "reason").iter_rows()) if key in idle else {}
        yield session_predictions(told, asked, reasons, LOGIC_VERSION, **day)


def session_predictions(
    told: Sequence[Prediction], asked: Sequence[str], reasons: Mapping[str, str], logic_version: str, **day: Any
) -> SessionPredictions:
    """What could be acted on of all that was `told` on a day; of the other symbols asked for, `reasons` say why."""
    predictions = {each.symbol: each for each in told if each.strategy == STRATEGY}
    candidates: dict[str, list[Prediction]] = {}
    for each in told:
        if each.strategy != STRATEGY:
            candidates.setdefault(each.symbol, []).append(each)
    idle: dict[str, int] = {}
    for symbol in asked:
        if symbol not in predictions and symbol not in candidates:
            reason = reasons.get(symbol, Abstention.UNKNOWN_SYMBOL.value)
            idle[reason] = idle.get(reason, 0) + 1
    return SessionPredictions(
        logic_version=logic_version, predictions=predictions, candidates=candidates, idle=idle, **day
    )
