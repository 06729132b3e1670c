"""Rules that look along a share's series: its moves beside its actions, the market and what another source says."""

from collections.abc import Mapping
from datetime import date

import polars as pl

from contracts.market import ActionKind
from data_service.adjust import ratios_by_day
from data_service.store.schemas import TRUST

SERIES = ["symbol", "source"]
FLAGGED_KINDS = (ActionKind.DEMERGER, ActionKind.MERGER, ActionKind.RIGHTS, ActionKind.CAPITAL_REDUCTION)
"""Actions that move the price by what no ratio tells."""

MARKET_SYMBOLS_MIN = 5
"""Fewer shares are no market to measure a move against."""

LASTING_BARS_MIN = 5
"""So many bars at least on either side of a step make it one that lasts."""

ACTION_FACTS = {
    "symbol": pl.String,
    "ex_date": pl.Date,
    "factor": pl.Float64,
    "dividend": pl.Int64,
    "flagged": pl.String,
}


def action_facts(actions: pl.DataFrame) -> pl.DataFrame:
    """ACTION_SCHEMA rows as one row per symbol and ex-date: `factor` of splits and bonuses (1 without), `dividend` in
    paise per share, `flagged` the kinds that no factor can undo (null without)."""
    rows: list[tuple[str, date, float, int, str | None]] = []
    for (symbol,), part in actions.partition_by("symbol", as_dict=True).items():
        told = part.to_dicts()
        ratios = ratios_by_day(told)
        for ex_date in sorted({row["ex_date"] for row in told}):
            of_day = [row for row in told if row["ex_date"] == ex_date]
            best = max(TRUST.get(row["source"], 0) for row in of_day)
            trusted = [row for row in of_day if TRUST.get(row["source"], 0) == best]
            dividends = {(row["subject"], row["amount_paise"] or 0) for row in trusted if row["kind"] == "dividend"}
            kinds = sorted({row["kind"] for row in of_day if row["kind"] in FLAGGED_KINDS})
            factor = float(ratios.get(ex_date, 1))
            paise = sum(amount for _, amount in dividends)
            if factor != 1 or paise or kinds:
                rows.append((str(symbol), ex_date, factor, paise, ", ".join(kinds) or None))
    return pl.DataFrame(rows, schema=ACTION_FACTS, orient="row")


def with_moves(bars: pl.DataFrame, facts: pl.DataFrame, last_close: Mapping[str, tuple[date, int]]) -> pl.DataFrame:
    """Adds to bars ordered by symbol, source and start how each close came from the one before it.

    `previous` (paise) and `previous_day`: the bar before, or the last stored close where that is earlier; `factor`,
    `dividend`, `flagged`: the actions in between; `expected` (paise): the close before, seen from after the actions;
    `move`: close over expected, less 1; `relative`: the same beside the median of all shares at that instant.
    """
    stored = pl.DataFrame(
        [(symbol, day, close) for symbol, (day, close) in last_close.items()],
        schema={"symbol": pl.String, "stored_day": pl.Date, "stored_close": pl.Int64},
        orient="row",
    )
    earlier = pl.col("stored_day") < pl.col("day")
    bars = bars.join(stored, on="symbol", how="left", maintain_order="left").with_columns(
        previous=pl.coalesce(pl.col("close").shift(1).over(SERIES), pl.when(earlier).then("stored_close")),
        previous_day=pl.coalesce(pl.col("day").shift(1).over(SERIES), pl.when(earlier).then("stored_day")),
    )
    between = _actions_between(bars, facts)
    bars = bars.join(between, on=[*SERIES, "day", "previous_day"], how="left", maintain_order="left")
    factor, dividend = pl.col("factor").fill_null(1.0), pl.col("dividend").fill_null(0)
    before = pl.col("previous") - dividend
    expected = pl.when(before > 0).then(before).otherwise("previous") * factor
    bars = bars.with_columns(factor=factor, dividend=dividend, expected=expected)
    moved = bars.with_columns(move=pl.col("close") / pl.col("expected") - 1)
    of_instant = pl.col("move").median().over("start")
    market = pl.when(pl.col("move").count().over("start") >= MARKET_SYMBOLS_MIN).then(of_instant).otherwise(0.0)
    dropped = ["stored_day", "stored_close"]
    return moved.with_columns(relative=(1 + pl.col("move")) / (1 + market) - 1).drop(dropped)


def _actions_between(bars: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """The facts of actions with previous_day < ex-date <= day, per bar that is the first of its series since then."""
    firsts = bars.filter(pl.col("previous_day") < pl.col("day")).select(*SERIES, "day", "previous_day")
    wanted = facts.join(bars.select(SERIES).unique(), on="symbol").sort("ex_date")
    found = wanted.join_asof(
        firsts.sort("day"),
        left_on="ex_date",
        right_on="day",
        by=SERIES,
        strategy="forward",
        coalesce=False,
        check_sortedness=False,
    )
    return (
        found.filter(pl.col("ex_date") > pl.col("previous_day"))
        .group_by(*SERIES, "day", "previous_day")
        .agg(pl.col("factor").product(), pl.col("dividend").sum(), pl.col("flagged").drop_nulls().str.join(", "))
        .with_columns(pl.col("flagged").replace("", None))
    )


def hundredfold(from_times: int, to_times: int) -> pl.Expr:
    """Whether a bar of `with_moves` stands about 100 times above or below its series.

    Jumps up and down are counted along the series. Where a last close is stored, bars off its level are wrong, however
    many follow each other. Else those off the level most bars have, unless they are LASTING_BARS_MIN at least and all
    before or all after these: a level that is left once and for ever is a re-denomination, not an error.
    """
    ratio = pl.col("close") / (pl.col("previous") * pl.col("factor"))
    up = ratio.is_between(from_times, to_times)
    down = (1 / ratio).is_between(from_times, to_times)
    jump = pl.when(up).then(1).when(down).then(-1).otherwise(0)
    level = jump.cum_sum().over(SERIES)
    anchored = pl.col("previous").first().over(SERIES).is_not_null()
    usual = level.mode().min().over(SERIES)
    start, of_level = pl.col("start"), [*SERIES, level]
    at_usual = pl.when(level == usual).then(start)
    before = start.max().over(of_level) < at_usual.min().over(SERIES)
    after = start.min().over(of_level) > at_usual.max().over(SERIES)
    lasting = (pl.len().over(of_level) >= LASTING_BARS_MIN) & (before | after)
    return pl.when(anchored).then(level != 0).otherwise((level != usual) & ~lasting)


def reverts(revert_max: float) -> pl.Expr:
    """Whether the next close is back within `revert_max` of where the series stood before this bar."""
    following = pl.col("close").shift(-1).over(SERIES) / pl.col("factor").shift(-1).over(SERIES)
    return (following / pl.col("expected") - 1).abs() <= revert_max


def unconfirmed(factor_log_min: float) -> pl.Expr:
    """Whether the price moved as if a split or bonus had not been: open and close both fit better without its factor.

    Factors within `factor_log_min` (natural logarithm) of 1 are lost among usual moves and never doubted.
    """

    def distance(base: pl.Expr) -> pl.Expr:
        return pl.min_horizontal((pl.col(name) / base).log().abs() for name in ("open", "close"))

    material = pl.col("factor").log().abs() >= factor_log_min
    return material & (distance(pl.col("expected")) > distance(pl.col("previous").cast(pl.Float64)))


def run_length(columns: tuple[str, ...]) -> pl.Expr:
    """How many bars in a row, this one among them, have the same values in `columns`."""
    return pl.len().over([*SERIES, _run(columns)])


def place_in_run(columns: tuple[str, ...]) -> pl.Expr:
    """The place of a bar in such a row of bars, from 0."""
    return pl.int_range(pl.len()).over([*SERIES, _run(columns)])


def _run(columns: tuple[str, ...]) -> pl.Expr:
    changed = pl.any_horizontal(
        (pl.col(name) != pl.col(name).shift(1).over(SERIES)).fill_null(True) for name in columns
    )
    return changed.cum_sum().over(SERIES)
