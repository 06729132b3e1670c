"""Judges bars before they are stored: what is surely wrong is kept out, what is doubtful is served and flagged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from contracts.market import Interval
from data_service.checks.reasons import BarReason
from data_service.checks.rows import (
    HUNDREDFOLD_FROM,
    HUNDREDFOLD_TO,
    VALUES,
    missing_sessions,
    row_faults,
    with_sessions,
)
from data_service.checks.series import (
    SERIES,
    action_facts,
    hundredfold,
    place_in_run,
    reverts,
    run_length,
    unconfirmed,
    with_moves,
)
from data_service.sessions import Sessions
from data_service.store.base import trust_of
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, QUARANTINE_SCHEMA

NO_ACTIONS = pl.DataFrame(schema=ACTION_SCHEMA)
NO_BARS = pl.DataFrame(schema=BAR_SCHEMA)


@dataclass(frozen=True, slots=True)
class BarLimits:
    """How much is too much. Moves, spikes and differences are fractions of a price.

    A spike leaves the series by `spike_move_min` (up by 50 % or down by a third) and is back within `revert_max` on the
    next bar; real shares came back from a smaller one (ZEEL 2020-03-18, FRETAIL 2020-08-31). Across a gap of more than
    `gap_days_max` days a move is no move of a session. `factor_log_min` is a natural logarithm: smaller splits and
    bonuses are lost among usual moves.
    """

    outlier_move_max: float = 0.25
    spike_move_min: float = 0.5
    revert_max: float = 0.10
    gap_days_max: int = 10
    disagreement_max: float = 0.03
    action_move_min: float = 0.03
    factor_log_min: float = 0.15
    frozen_bars_min: int = 5


@dataclass(frozen=True, slots=True)
class BarContext:
    """What is known beside the bars.

    `now_s` (epoch seconds) bounds what can have ended and stamps the findings. `last_close` is, per symbol, the day and
    unadjusted close (paise) of the last stored bar; `actions` (ACTION_SCHEMA) the known corporate actions, under the
    bars' symbols; `others` (BAR_SCHEMA) the same bars as other sources tell them, on the same scale; `derivatives` the
    symbols with derivatives (their continuous trading ends earlier since 2026-08-03).
    """

    sessions: Sessions
    now_s: int
    last_close: Mapping[str, tuple[date, int]] = field(default_factory=dict)
    actions: pl.DataFrame = field(default_factory=lambda: NO_ACTIONS)
    others: pl.DataFrame = field(default_factory=lambda: NO_BARS)
    derivatives: frozenset[str] = frozenset()
    limits: BarLimits = BarLimits()


@dataclass(frozen=True, slots=True)
class CheckedBars:
    """`good` (BAR_SCHEMA) is ordered by symbol and start, keys unique per source; `findings` is QUARANTINE_SCHEMA."""

    good: pl.DataFrame
    findings: pl.DataFrame


class _Judge:
    """The bars still thought good, and the findings so far."""

    def __init__(self, bars: pl.DataFrame) -> None:
        self.bars = bars
        self.found: list[pl.DataFrame] = []

    def flag(self, reason: BarReason, wrong: pl.Expr, detail: pl.Expr, *, quarantined: bool = False) -> int:
        """Note the bars where `wrong` holds, and keep those out that are quarantined. Returns how many there are."""
        hits = self.bars.filter(wrong.fill_null(False))
        if hits.is_empty():
            return 0
        self.found.append(_noted(hits.with_columns(reason=pl.lit(reason.value), detail=detail), quarantined))
        if quarantined:
            self.bars = self.bars.filter(~wrong.fill_null(False))
        return len(hits)


def check_bars(bars: pl.DataFrame, interval: Interval, context: BarContext) -> CheckedBars:
    """Judge `bars` (BAR_SCHEMA, unadjusted, any order) of one interval. Raises nothing for bad data: that is found.

    Rows that repeat each other exactly are collapsed without a finding.
    """
    unique = bars.with_row_index("place").unique(list(BAR_SCHEMA), keep="first")
    judge = _Judge(with_sessions(unique, context.sessions, context.derivatives))
    _order(judge)
    _rows(judge, interval, context)
    _moves(judge, context)
    _volumes(judge, interval)
    _frozen(judge, context.limits)
    last_days = {symbol: day for symbol, (day, _) in context.last_close.items()}
    seen = with_sessions(unique, context.sessions, context.derivatives)
    gaps = missing_sessions(seen.filter(pl.col("start").is_not_null()), context.sessions, last_days)
    if not gaps.is_empty():
        nulls = [pl.lit(None, pl.Int64).alias(name) for name in VALUES]
        judge.found.append(_noted(gaps.with_columns(*nulls, reason=pl.lit(BarReason.MISSING_SESSION.value)), False))
    good = judge.bars.select(list(BAR_SCHEMA)).sort("symbol", "start")
    stamped = [part.with_columns(interval=pl.lit(interval.value), found_at=context.now_s) for part in judge.found]
    empty = pl.DataFrame(schema=QUARANTINE_SCHEMA)
    findings = pl.concat([empty, *(part.select(list(QUARANTINE_SCHEMA)).cast(QUARANTINE_SCHEMA) for part in stamped)])
    return CheckedBars(good, findings.sort("symbol", "start", "reason", maintain_order=True))


def _noted(rows: pl.DataFrame, quarantined: bool) -> pl.DataFrame:
    return rows.select(*BAR_SCHEMA, "reason", "detail", quarantined=pl.lit(quarantined))


def _order(judge: _Judge) -> None:
    """Bars that came after a later one, and those told twice with other values: which is right nobody knows."""
    late = pl.col("start") < pl.col("start").shift(1).over(SERIES, order_by="place")
    judge.flag(BarReason.OUT_OF_ORDER, late, pl.lit("came after a later bar"))
    judge.bars = judge.bars.sort("symbol", "source", "start", "place")
    told = pl.len().over([*SERIES, "start"])
    closes = _rupees("close").cast(pl.String).str.join(", ").over([*SERIES, "start"])
    detail = pl.format("told {} times with other values, closes {}", told, closes)
    judge.flag(BarReason.CONFLICTING_DUPLICATE, told > 1, detail, quarantined=True)


def _rows(judge: _Judge, interval: Interval, context: BarContext) -> None:
    judged = judge.bars.with_columns(fault=row_faults(interval, context.sessions, context.now_s))
    bad = judged.filter(pl.col("fault").is_not_null())
    judge.found.append(_noted(bad.unnest("fault"), True))
    judge.bars = judged.filter(pl.col("fault").is_null()).drop("fault")


def _moves(judge: _Judge, context: BarContext) -> None:
    """What only shows beside the bar before, the actions, the market and other sources."""
    limits, shares = context.limits, judge.bars.select(pl.col("symbol").unique())
    facts = action_facts(context.actions.join(shares, on="symbol", how="semi"))
    plain = judge.bars.columns
    judge.bars = _with_others(judge.bars, context.others)

    def refresh() -> None:
        kept = [*plain, "other", "other_trust"]
        moved = with_moves(judge.bars.select(kept), facts, context.last_close)
        doubted = unconfirmed(limits.factor_log_min).fill_null(False)
        straight = pl.col("close") / pl.col("previous") - 1
        judge.bars = moved.with_columns(doubted=doubted).with_columns(
            relative=pl.when("doubted").then(straight).otherwise("relative"),
            expected=pl.when("doubted").then(pl.col("previous").cast(pl.Float64)).otherwise("expected"),
        )

    refresh()
    beside = pl.col("close") / pl.col("other")
    far = beside.is_between(HUNDREDFOLD_FROM, HUNDREDFOLD_TO) | (1 / beside).is_between(
        HUNDREDFOLD_FROM, HUNDREDFOLD_TO
    )
    of_hundred = hundredfold(HUNDREDFOLD_FROM, HUNDREDFOLD_TO) | far.fill_null(False)
    if judge.flag(BarReason.HUNDREDFOLD, of_hundred, _beside_previous(), quarantined=True):
        refresh()
    differs = (beside - 1).abs() > limits.disagreement_max
    said = pl.format("close {} where another source has {}", _rupees("close"), _rupees("other"))
    weaker = trust_of("source") < pl.col("other_trust")
    near = (pl.col("day") - pl.col("previous_day")).dt.total_days() <= limits.gap_days_max
    out = near & (pl.col("relative").abs() > limits.outlier_move_max)
    times = 1 + pl.col("relative")
    far_out = near & (pl.max_horizontal(times, 1 / times) >= 1 + limits.spike_move_min)
    excused, agreed = pl.col("flagged").is_not_null(), ~differs.fill_null(True)
    sane = (pl.col("other") / pl.col("expected") - 1).abs() <= limits.outlier_move_max
    contradicted = out & differs & sane
    spike = far_out & ~excused & ~agreed & reverts(limits.revert_max).fill_null(False)
    kept_out = judge.flag(BarReason.OUTLIER, contradicted | spike, _beside_previous(), quarantined=True)
    if judge.flag(BarReason.SOURCE_DISAGREEMENT, differs & weaker, said, quarantined=True) + kept_out:
        refresh()
    judge.flag(BarReason.SOURCE_DISAGREEMENT, differs, said)
    judge.flag(BarReason.OUTLIER, out & ~excused & ~agreed, _beside_previous())
    moved = pl.col("relative").abs() >= limits.action_move_min
    unfixed = pl.format("moved {} % beside the market on: {}", _percent("relative"), "flagged")
    judge.flag(BarReason.UNADJUSTED_ACTION, excused & moved, unfixed)
    unmoved = pl.format("factor {} but the close moved {} %", "factor", _percent("relative"))
    judge.flag(BarReason.ACTION_UNCONFIRMED, pl.col("doubted"), unmoved)
    judge.bars = judge.bars.select(plain)


def _with_others(bars: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Adds `other` and `other_trust`: the close that the most trusted other source tells of the same bar."""
    told = others.select("symbol", "start", other="close", other_source="source", other_trust=trust_of("source"))
    pairs = bars.select("place", "symbol", "start", "source").join(told, on=["symbol", "start"])
    best = pairs.filter(pl.col("source") != pl.col("other_source")).sort("other_trust", descending=True)
    chosen = best.unique("place", keep="first", maintain_order=True).select("place", "other", "other_trust")
    return bars.join(chosen, on="place", how="left", maintain_order="left")


def _beside_previous() -> pl.Expr:
    before = _rupees("previous").cast(pl.String).fill_null("unknown")
    beside = _percent("relative")
    return pl.format("close {}, the one before {}; {} % beside the market", _rupees("close"), before, beside)


def _rupees(name: str) -> pl.Expr:
    return (pl.col(name) / 100).round(2)


def _percent(name: str) -> pl.Expr:
    return (pl.col(name) * 100).round(1).cast(pl.String).fill_null("unknown")


def _volumes(judge: _Judge, interval: Interval) -> None:
    """Volumes that are not there although the prices say that shares were traded."""
    none = pl.col("volume") == 0
    if interval is Interval.DAY_1:
        judge.flag(
            BarReason.ZERO_VOLUME, none & (pl.col("high") > pl.col("low")), pl.lit("prices moved without volume")
        )
        return
    of_day = pl.col("volume").sum().over([*SERIES, "day"])
    opening = none & (pl.col("start") == pl.col("open_s")) & (of_day > 0)
    judge.flag(BarReason.OPENING_VOLUME_MISSING, opening, pl.format("volume 0 of the day's {}", of_day))


def _frozen(judge: _Judge, limits: BarLimits) -> None:
    """Bars that repeat the one before: prices may for want of trades, prices and traded volume together do not."""
    prices, volume = ("open", "high", "low", "close"), pl.col("volume")
    judge.bars = judge.bars.with_columns(
        length=run_length(prices),
        place_in_run=place_in_run(prices),
        stale_length=run_length((*prices, "volume")),
        stale_place=place_in_run((*prices, "volume")),
    )
    detail = pl.format("{} bars with the same prices", "length")
    stale = (pl.col("stale_length") >= limits.frozen_bars_min) & (pl.col("stale_place") > 0) & (volume > 0)
    judge.flag(BarReason.FROZEN, (pl.col("length") >= limits.frozen_bars_min) & (pl.col("place_in_run") == 1), detail)
    judge.flag(BarReason.FROZEN, stale, pl.format("{}, and volume", detail), quarantined=True)
