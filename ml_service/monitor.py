"""Hold a strategy back where its own record no longer bears out what it was certified for: rules over the scoreboard.

Nothing here is stored: every state follows from the frozen predictions and their outcomes, so a restart changes none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, partial

import numpy as np
import polars as pl
import structlog

from contracts.scoreboard import FeatureDrift, Outcome
from ml_service.drift import DRIFT_SESSIONS, drift, drifted
from ml_service.evidence import MODES, clustered_interval, episodes_of
from ml_service.labels import EVENTS
from ml_service.lifecycle import ShadowRecord, Verdict
from ml_service.model import STRATEGY
from ml_service.registry import Artefact
from ml_service.scoreboard import Scoreboard
from ml_service.scores import ModeRecord, session_numbers

log = structlog.get_logger(__name__)

HOLD_EPISODES_MIN = 10
HOLD_SESSIONS = 250
HOLD_EPISODES = 20
COOL_DOWN_SESSIONS = 20
VERDICT_SESSIONS = 500
"""How far back a model is judged for its demotion and beside its shadow."""
DEMOTION_EPISODES_MIN = 20
DEMOTION_EVENT = "touch_0.02"
FEATURE_DRIFT = "feature_drift"
RECORD_UNREADABLE = "record_unreadable"
RECORD_NOT_WRITTEN = "record_not_written"


def _failing(record: ModeRecord, now: int) -> str | None:
    """What is known at session number `now` of the last HOLD_EPISODES episodes, however old, and of all the trailing
    HOLD_SESSIONS shows against the mode, or None: at least ten episodes, and an upper 95 % bound under what is
    promised."""
    known = record.end <= now
    days = np.unique(record.session[known])
    if not len(days):
        return None
    episode = episodes_of(days, record.horizon)
    first = min(days[episode > episode[-1] - HOLD_EPISODES][0], now - HOLD_SESSIONS + 1)
    judged = record.judge(known & (record.session >= first))
    if judged is None or judged[0] < HOLD_EPISODES_MIN:
        return None
    _, hit, net = judged
    if hit.high < record.mode.confidence:
        return "hit_rate_below_confidence"
    return "net_return_below_zero" if net.high < 0 else None


def held(record: ModeRecord, present: int) -> str | None:
    """Why the mode is held at session number `present`, or None.

    It is held from the session on at which its record fails, and released when it no longer does and
    COOL_DOWN_SESSIONS have passed since.
    """
    failing = cache(partial(_failing, record))
    # Whatever came before, after a whole cool-down without failing it is not held, and after a whole one of failing
    # it is released with the first session without: the walk may begin at either.
    first, start, alike = int(record.session.min(initial=present)), present, 1
    while start > first and alike < COOL_DOWN_SESSIONS:
        start -= 1
        alike = alike + 1 if bool(failing(start)) == bool(failing(start + 1)) else 1
    reason, since = None, start
    for now in range(start, present + 1):
        if (shown := failing(now)) is not None:
            since = now if reason is None else since
            reason = shown
        elif now - since >= COOL_DOWN_SESSIONS:
            reason = None
    return reason


def holds(records: Iterable[ModeRecord], present: int) -> dict[tuple[str, str], str]:
    """(strategy, mode) → reason, of those that are held."""
    found = {(record.strategy, record.mode.name): held(record, present) for record in records}
    return {key: reason for key, reason in found.items() if reason is not None}


def demotion(rows: pl.DataFrame, strategy: str, version: str) -> Verdict | None:
    """Whether the model's own stated probabilities are worse than its base rate, beyond chance.

    `rows` as Scoreboard.read gives them. The gain over the base rate per row, (base − hit)² − (p − hit)², has an upper
    95 % bound below zero over at least DEMOTION_EPISODES_MIN episodes.
    """
    p, base, hit = (pl.col(f"{kind}_{DEMOTION_EVENT}") for kind in ("p", "base", "hit"))
    numbers = session_numbers(rows)
    own = rows.filter(
        pl.col("strategy") == strategy,
        pl.col("version") == version,
        pl.col("outcome") == Outcome.MATURED.value,
        p.is_not_null() & base.is_not_null() & hit.is_not_null(),
    )
    if own.is_empty():
        return None
    happened = hit.cast(pl.Float64)
    gain = own.select((base - happened) ** 2 - (p - happened) ** 2).to_series().to_numpy()
    session = np.array([numbers[day] for day in own["session"]], dtype=np.int64)
    episode = episodes_of(session, int(str(own["horizon"].max())))
    episodes, interval = int(episode.max()) + 1, clustered_interval(gain, episode)
    if episodes < DEMOTION_EPISODES_MIN or interval.high >= 0:
        return None
    evidence = {"outcomes": len(gain), "episodes": episodes, "gain": interval.mean, "gain_high": interval.high}
    return Verdict(version, strategy, f"brier_skill_below_zero of {DEMOTION_EVENT}", evidence)


def compare(rows: pl.DataFrame, strategy: str, current: str, shadow: str, since: date | None = None) -> ShadowRecord:
    """The `shadow` version against the `current` one: mean Brier over all events of one strategy's common rows of the
    sessions from `since` on, when the trial began.

    `rows` as Scoreboard.read gives them with shadows.
    """
    rows = rows.filter(pl.col("session") >= (since or date.min))
    mine, other = (
        rows.filter(pl.col("version") == version, pl.col("strategy") == strategy) for version in (current, shadow)
    )
    both = mine.join(other, on=["session", "symbol"], suffix="_shadow").filter(
        pl.col("outcome") == Outcome.MATURED.value, pl.col("outcome_shadow") == Outcome.MATURED.value
    )
    sessions = len(set(mine["session"]) & set(other["session"]))
    if both.is_empty():
        return ShadowRecord(sessions, 0, None, None)
    briers = both.select(
        pl.mean_horizontal(
            (pl.col(f"p_{event}{suffix}") - pl.col(f"hit_{event}").cast(pl.Float64)) ** 2 for event in EVENTS
        )
        .mean()
        .alias(name)
        for name, suffix in (("current", ""), ("shadow", "_shadow"))
    ).row(0)
    return ShadowRecord(sessions, both.height, *briers)


@dataclass(frozen=True)
class State:
    """What the monitor makes of one model's record: (strategy, mode) → why it is held, and how far features shifted.

    `own`: of those held, the ones that this version's own record or features would hold alone. `unreadable`: the record
    could not be read as a whole, so that everything is held until it can.
    """

    held: Mapping[tuple[str, str], str]
    drift: Sequence[FeatureDrift] = ()
    own: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unreadable: bool = False

    def of(self, strategy: str, modes: Iterable[str]) -> dict[str, str]:
        """Those of `modes` in which the strategy is held → why."""
        return {mode: self.held[strategy, mode] for mode in modes if (strategy, mode) in self.held}


def judge_state(rows: pl.DataFrame, seen: pl.DataFrame, artefact: Artefact, through: date) -> State:
    """The model's state after session `through`, from `rows` (Scoreboard.read) and the features `seen` with it until
    then. Outcomes that were known only later count as pending.

    What was served uncertified holds nothing back: a mode is judged by the predictions that were served with it, by
    whatever version, and by all of this version where that certifies it (so that a held mode can earn its release).
    """
    known = pl.col("matured_through") <= through
    rows = rows.filter(pl.col("horizon") == artefact.horizon_sessions).with_columns(
        outcome=pl.when(known).then(pl.col("outcome")).otherwise(pl.lit(Outcome.PENDING.value)),
        matured_through=pl.when(known).then(pl.col("matured_through")),
    )
    numbers = session_numbers(rows)
    present, mine = max(numbers.values(), default=0), pl.col("version") == artefact.version
    found = holds(_records(rows, artefact, numbers), present)
    own = holds(_records(rows.filter(mine), artefact, numbers), present) if found else {}
    trained = artefact.manifest.get("feature_drift")
    if not trained:
        return State(found, own=own)
    shifts = drift(seen.filter(mine), trained["shares"])
    if drifted(shifts, trained["drifted_share_max"]):
        drifting = everything(artefact, FEATURE_DRIFT)
        found, own = found | drifting, own | drifting
    return State(found, shifts, own)


def _records(rows: pl.DataFrame, artefact: Artefact, numbers: dict[object, int]) -> Iterator[ModeRecord]:
    """The record of each strategy and mode over the rows that were certified for it."""
    for strategy in rows["strategy"].unique().sort():
        own = rows.filter(pl.col("strategy") == strategy)
        certified = artefact.certified(strategy)
        for mode in MODES:
            counted = pl.col("certified_modes").str.split(" ").list.contains(mode.name)
            if mode.name in certified:
                counted |= pl.col("version") == artefact.version
            yield ModeRecord(strategy, mode, own.filter(counted), numbers)


def everything(artefact: Artefact, reason: str) -> dict[tuple[str, str], str]:
    """Every mode of every strategy of the model, held for one reason."""
    strategies = (*artefact.manifest.get("strategies", {}), STRATEGY)
    return {(strategy, mode.name): reason for strategy in strategies for mode in MODES}


def state_of(board: Scoreboard, artefact: Artefact, through: date) -> State:
    """As `judge_state`, of what the board holds; reads no file about a later session.

    Where a file is damaged, or the disk does not let one be read, everything is held: nobody can know what it would
    show.
    """
    try:
        found = _state_of(board, artefact, through)
    except (OSError, pl.exceptions.ComputeError) as error:
        log.error("record_unreadable", why=str(error))
        found = None
    return found or State(everything(artefact, RECORD_UNREADABLE), unreadable=True)


def _state_of(board: Scoreboard, artefact: Artefact, through: date) -> State | None:
    """None where a file is damaged."""
    frozen, outcomes = board.frozen.parts(last=through), board.outcomes.parts(last=through)
    if not frozen and not outcomes:
        return State({})
    days = sorted({part.session for part in (*frozen, *outcomes)})
    features = board.features.parts(days[-DRIFT_SESSIONS:][0], through)
    for folder, parts in ((board.frozen, frozen), (board.outcomes, outcomes), (board.features, features)):
        if len(folder.whole(parts)) != len(parts):
            return None
    rows = board.scan(frozen, outcomes).filter(pl.col("horizon") == artefact.horizon_sessions).collect()
    return judge_state(rows, board.features.read(features), artefact, through)
