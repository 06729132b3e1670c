"""Freeze every prediction as it was first served, and put its outcome beside it, so that nobody can improve the record.

Under `<data folder>/scoreboard/<environment>/`: `frozen/` as served, `outcomes/` what then happened, `features/` how
the features that were served with are spread over the bins of the training data.
"""

from collections.abc import Callable, Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from contracts.common import Environment
from contracts.predictions import Prediction
from contracts.scoreboard import FrozenPrediction, Outcome
from ml_service.drift import BINS
from ml_service.labels import EVENTS, touch_name
from ml_service.write_once import Part, WriteOnce

STATED = [f"p_{event}" for event in EVENTS]
BASE = [f"base_{event}" for event in EVENTS]
HIT = [f"hit_{event}" for event in EVENTS]

FROZEN = pl.Schema(
    {
        "session": pl.Date,
        "version": pl.String,
        "strategy": pl.String,
        "symbol": pl.String,
        "served_at": pl.Datetime("us", "UTC"),
        "shadow": pl.Boolean,
        "horizon": pl.Int64,
        "action": pl.String,
        "certified_modes": pl.String,
        "expected": pl.Float64,
        "lower": pl.Float64,
    }
    | dict.fromkeys((*STATED, *BASE), pl.Float64)
)
OUTCOMES = pl.Schema(
    {
        "session": pl.Date,
        "version": pl.String,
        "symbol": pl.String,
        "outcome": pl.String,
        "matured_through": pl.Date,
        "net_return": pl.Float64,
    }
    | dict.fromkeys(HIT, pl.Boolean)
)
FEATURES_SEEN = pl.Schema(
    {"session": pl.Date, "version": pl.String, "feature": pl.String} | dict.fromkeys(BINS, pl.Int64)
)
OUTCOME_KEY = ["session", "version", "symbol"]


def stated_events(prediction: Prediction) -> dict[str, float]:
    """Event → the probability that the prediction states of it."""
    stated = {prediction.confidence_kind: prediction.confidence, "bracket": prediction.target_probability}
    stated |= {touch_name(touch.net_return): touch.probability for touch in prediction.touch}
    return {event: probability for event, probability in stated.items() if probability is not None}


def frozen_rows(
    predictions: Iterable[Prediction],
    *,
    session: date,
    version: str,
    manifest: dict[str, Any],
    served_at: datetime,
    shadow: bool = False,
) -> pl.DataFrame:
    """Rows of FROZEN: those predictions that state numbers, with the base rates known when they were calibrated.

    Plans that end within a session are left out: daily bars cannot say how they ended.
    """
    rows: list[dict[str, object]] = []
    for prediction in predictions:
        if prediction.confidence is None or prediction.expected_return_net is None or prediction.intraday:
            continue
        stated, lower = stated_events(prediction), prediction.expected_return_net_lower
        metrics = manifest.get("strategies", {}).get(prediction.strategy, {}).get("metrics") or {}
        row: dict[str, object] = {
            "session": session,
            "version": version,
            "strategy": prediction.strategy,
            "symbol": prediction.symbol,
            "served_at": served_at,
            "shadow": shadow,
            "horizon": prediction.horizon_sessions,
            "action": prediction.action.value,
            "certified_modes": " ".join(prediction.certified_modes),
            "expected": prediction.expected_return_net,
            "lower": prediction.expected_return_net if lower is None else lower,
        }
        row |= {f"p_{event}": stated.get(event) for event in EVENTS}
        row |= {f"base_{event}": metrics.get("events", {}).get(event, {}).get("base_rate") for event in EVENTS}
        rows.append(row)
    return pl.DataFrame(rows, schema=FROZEN)


def to_wire(row: dict[str, Any]) -> FrozenPrediction:
    """A row of Scoreboard.read as the contract shows it."""
    matured = row["outcome"] == Outcome.MATURED
    return FrozenPrediction(
        served_at=row["served_at"],
        session=row["session"],
        symbol=row["symbol"],
        strategy=row["strategy"],
        model_version=row["version"],
        horizon_sessions=row["horizon"],
        action=row["action"],
        probability={event: row[f"p_{event}"] for event in EVENTS if row[f"p_{event}"] is not None},
        expected_return_net=row["expected"],
        expected_return_net_lower=row["lower"],
        certified_modes=row["certified_modes"].split(),
        outcome=Outcome(row["outcome"]),
        matured_through=row["matured_through"],
        net_return=row["net_return"],
        hit={event: row[f"hit_{event}"] for event in EVENTS if matured and row[f"hit_{event}"] is not None},
    )


class Scoreboard:
    """The record of one environment. Files are read where they are needed; only the list of finished ones is kept."""

    def __init__(
        self, data_dir: Path, environment: Environment, on_damaged: Callable[[str], None] | None = None
    ) -> None:
        root = data_dir / "scoreboard" / environment.value
        self.frozen = WriteOnce(root / "frozen", FROZEN, ("strategy", "symbol"), on_damaged)
        self.outcomes = WriteOnce(root / "outcomes", OUTCOMES, ("symbol",), on_damaged)
        self.features = WriteOnce(root / "features", FEATURES_SEEN, ("feature",), on_damaged)
        self._finished: set[tuple[date, str]] = set()

    def read(self, first: date = date.min, last: date = date.max, *, shadow: bool | None = False) -> pl.DataFrame:
        """FROZEN with OUTCOMES beside it for the sessions `first`..`last`, oldest first; `outcome` is pending where
        none is written. `shadow`: only shadow models' rows, only the served ones (default), or None for both."""
        return self.scan(self.frozen.parts(first, last), self.outcomes.parts(first, last), shadow=shadow).collect()

    def scan(self, frozen: list[Part], outcomes: list[Part], *, shadow: bool | None = False) -> pl.LazyFrame:
        """As `read`, of these files only."""
        rows = self.frozen.scan(frozen)
        if shadow is not None:
            rows = rows.filter(pl.col("shadow") == shadow)
        rows = rows.join(self.outcomes.scan(outcomes), on=OUTCOME_KEY, how="left", maintain_order="left")
        return rows.with_columns(pl.col("outcome").fill_null(Outcome.PENDING.value))

    def symbols(self, sessions: list[date]) -> list[str]:
        """All symbols with a frozen prediction of one of these sessions, sorted."""
        parts = [part for part in self.frozen.parts(min(sessions), max(sessions)) if part.session in set(sessions)]
        return self.frozen.scan(parts).select("symbol").unique().sort("symbol").collect()["symbol"].to_list()

    def pending(self) -> pl.DataFrame:
        """Frozen rows without an outcome, shadows too: session, version, symbol and horizon, each once.

        A session whose outcomes are damaged is left out: what they said must not be said anew.
        """
        parts = self._unfinished(self.frozen)
        outcomes = self._unfinished(self.outcomes)
        damaged = {(part.session, part.version) for part in set(outcomes) - set(self.outcomes.whole(outcomes))}
        parts = [part for part in parts if (part.session, part.version) not in damaged]
        rows = self.frozen.scan(parts).select(*OUTCOME_KEY, "horizon").unique()
        found = rows.join(self.outcomes.scan(outcomes).select(OUTCOME_KEY), on=OUTCOME_KEY, how="anti").collect()
        open_keys = set(found.select("session", "version").unique().iter_rows())
        newest = parts[-1].session if parts else date.min
        # More rows may still be served for the newest session.
        self._finished |= {(p.session, p.version) for p in parts if p.session < newest} - open_keys
        return found.sort(OUTCOME_KEY)

    def _unfinished(self, folder: WriteOnce) -> list[Part]:
        return [part for part in folder.parts() if (part.session, part.version) not in self._finished]
