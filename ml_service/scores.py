"""Score frozen predictions against what happened: pure functions of the record, the same for everybody who asks."""

from collections.abc import Iterable

import numpy as np
import polars as pl

from contracts.scoreboard import EventScore, Outcome, ReliabilityBin, Share
from ml_service.calibrate import LOWER_BOUND_Z, Forecast
from ml_service.evidence import (
    MODES,
    Interval,
    Mode,
    accepts,
    clustered_interval,
    episodes_of,
    expected_calibration_error,
    proportion,
    reliability,
)
from ml_service.labels import EVENTS, touch_name


def event_score(rows: pl.DataFrame, strategy: str, event: str) -> EventScore | None:
    """How one strategy's stated probability of one event held; None until one row has matured.

    `rows` as Scoreboard.read gives them. Brier score (Brier 1950) against the base rate frozen beside each row.
    """
    names = [f"{kind}_{event}" for kind in ("p", "base", "hit")]
    own = rows.lazy().filter(pl.col("strategy") == strategy).select("outcome", *names).collect()
    stated = own.drop_nulls(names[:2])
    matured = stated.filter(pl.col("outcome") == Outcome.MATURED.value, pl.col(names[2]).is_not_null())
    if matured.is_empty():
        return None
    p, base = (matured[f"{kind}_{event}"].to_numpy() for kind in ("p", "base"))
    hit = matured[f"hit_{event}"].to_numpy().astype(float)
    brier, base_brier = float(np.mean((p - hit) ** 2)), float(np.mean((base - hit) ** 2))
    return EventScore(
        strategy=strategy,
        event=event,
        matured=matured.height,
        pending=stated.filter(pl.col("outcome") == Outcome.PENDING.value).height,
        stated=float(p.mean()),
        realised=float(hit.mean()),
        brier=brier,
        base_brier=base_brier,
        brier_skill=1 - brier / base_brier if base_brier > 0 else 0.0,
        calibration_error=expected_calibration_error(p, hit),
        bins=[ReliabilityBin.model_validate(each) for each in reliability(p, hit)],
    )


def event_scores(rows: pl.DataFrame) -> list[EventScore]:
    """`event_score` of every strategy and event of which one row at least has matured, by strategy."""
    strategies = rows["strategy"].unique().sort()
    found = (event_score(rows, strategy, event) for strategy in strategies for event in EVENTS)
    return [score for score in found if score is not None]


def session_numbers(rows: pl.DataFrame) -> dict[object, int]:
    """Running number of each session that the record knows of, as the last one known or as an outcome's last.

    Sessions on which nothing was served have none, so what lies around them comes closer: episodes may merge, and
    never multiply.
    """
    days = pl.concat([rows["session"], rows["matured_through"].drop_nulls()]).unique().sort()
    return {day: number for number, day in enumerate(days)}


def taken(rows: pl.DataFrame, mode: Mode) -> pl.DataFrame:
    """The rows that `mode` would have taken, by the rule it is certified by."""
    if rows.is_empty():
        return rows
    columns = {event: rows[f"p_{event}"].fill_null(float("nan")).to_numpy() for event in EVENTS}
    expected, lower = rows["expected"].to_numpy(), rows["lower"].to_numpy()
    forecast = Forecast(columns, expected, (expected - lower) / LOWER_BOUND_Z)
    return rows.filter(pl.Series(accepts(mode, forecast), dtype=pl.Boolean))


def share(interval: Interval) -> Share:
    """The interval on the wire; infinite bounds become null."""
    low, high = (bound if np.isfinite(bound) else None for bound in (interval.low, interval.high))
    return Share(mean=interval.mean, low=low, high=high)


class ModeRecord:
    """What one mode would have taken of one strategy's predictions, aligned arrays over the matured ones.

    `rows` are that strategy's own. `session` and `end` are session numbers: the last one known, and the one in which
    the outcome was known.
    """

    def __init__(self, strategy: str, mode: Mode, rows: pl.DataFrame, numbers: dict[object, int]) -> None:
        self.strategy, self.mode = strategy, mode
        chosen = taken(rows, mode)
        self.signals = chosen.height
        event = f"hit_{touch_name(mode.net_return)}"
        matured = chosen.filter(pl.col("outcome") == Outcome.MATURED.value, pl.col(event).is_not_null())
        self.horizon = int(str(matured["horizon"].max() or 1))
        self.session = _numbered(matured["session"], numbers)
        self.end = _numbered(matured["matured_through"], numbers)
        self.hit = matured[event].to_numpy().astype(float)
        self.net = matured["net_return"].to_numpy()

    @property
    def matured(self) -> int:
        return len(self.session)

    def judge(self, rows: np.ndarray | None = None) -> tuple[int, Interval, Interval] | None:
        """Episodes, hit rate and net return per trade of the matured `rows` (a mask; all by default); None of none."""
        rows = np.ones(self.matured, dtype=bool) if rows is None else rows
        if not rows.any():
            return None
        episode = episodes_of(self.session[rows], self.horizon)
        hit, net = proportion(self.hit[rows], episode), clustered_interval(self.net[rows], episode)
        return int(episode.max()) + 1, hit, net


def _numbered(days: Iterable[object], numbers: dict[object, int]) -> np.ndarray:
    return np.array([numbers[day] for day in days], dtype=np.int64)


def mode_records(rows: pl.DataFrame, strategies: Iterable[str]) -> list[ModeRecord]:
    """One record per strategy and mode, with or without rows."""
    numbers = session_numbers(rows)
    own = {strategy: rows.filter(pl.col("strategy") == strategy) for strategy in strategies}
    return [ModeRecord(strategy, mode, own[strategy], numbers) for strategy in own for mode in MODES]
