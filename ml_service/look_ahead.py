"""Whether anything that a model sees of a session knows of a later one: asked of any bars, bit by bit."""

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import polars as pl

from ml_service.features import FEATURES, TAIL_SESSIONS, compute_features, eligible, with_members
from ml_service.strategies import STRATEGIES, vote_column, with_votes

PRICES = ("open", "high", "low", "close")
KEY = ("symbol", "session")
TOLERANCE = 1e-6
VOLUME_TOLERANCE = 1e-3
"""Volumes enter as log (1 + volume): of a few hundred shares a day, the 1 shows in the fourth digit."""
OF_VOLUME = tuple(name for name in FEATURES if name.startswith("volume"))
RANKED_BY_VOLUME = ("rank_volume", "rank_turnover")
"""Two shares of the same rank within that tolerance may change places."""
OTHERS = tuple(name for name in FEATURES if name not in OF_VOLUME + RANKED_BY_VOLUME)
FLAGS_SEEN = ("atr", "atr_fraction", "history_sessions", "move_max", "complete", "member", "eligible")
VOTES = tuple(vote_column(one.name) for one in STRATEGIES)
MEMBERS = 50

Compute = Callable[[pl.DataFrame], pl.DataFrame]
"""What makes features of bars: `compute_features`, or one with a leak planted in it."""

Disturbance = Callable[[pl.DataFrame, date, np.random.Generator], pl.DataFrame]
"""(bars, session, randomness) → bars that are the same up to and including the session."""

Progress = Callable[[int, int, str], None]


def visible(bars: pl.DataFrame, symbols_max: int | None, compute: Compute = compute_features) -> pl.DataFrame:
    """All that a model may see of each row: features, votes, membership, eligibility. Without `symbols_max`
    every symbol is a member, as in serving, where the bars are those of the model's universe."""
    frame = with_votes(compute(bars if symbols_max is None else with_members(bars, symbols_max)))
    return frame.with_columns(eligible().fill_null(False).alias("eligible")).select(
        *KEY, *FEATURES, *VOTES, *FLAGS_SEEN
    )


def truncated(bars: pl.DataFrame, session: date, _random: np.random.Generator) -> pl.DataFrame:
    """Nothing has happened yet."""
    return bars.filter(pl.col("session") <= session)


def repriced(bars: pl.DataFrame, session: date, random: np.random.Generator) -> pl.DataFrame:
    """Every later price and volume is another."""
    later = pl.col("session") > session
    scale = pl.Series(random.uniform(0.3, 3.0, bars.height))
    return bars.with_columns(
        *(pl.when(later).then(pl.col(name) * scale + 1).otherwise(pl.col(name)).alias(name) for name in PRICES),
        pl.when(later).then((pl.col("volume") * scale**3).floor()).otherwise(pl.col("volume")).alias("volume"),
    )


def delisted(bars: pl.DataFrame, session: date, random: np.random.Generator) -> pl.DataFrame:
    """Half of the symbols are gone afterwards."""
    symbols = bars["symbol"].unique().sort().to_list()
    gone = random.choice(symbols, size=max(1, len(symbols) // 2), replace=False).tolist()
    return bars.filter((pl.col("session") <= session) | ~pl.col("symbol").is_in(gone))


def listed(bars: pl.DataFrame, session: date, _random: np.random.Generator) -> pl.DataFrame:
    """As many symbols again are listed afterwards, larger than all before."""
    new = bars.filter(pl.col("session") > session).with_columns(
        pl.format("A{}", "symbol").alias("symbol"), pl.col("volume") * 100
    )
    return pl.concat([bars, new])


def promoted(bars: pl.DataFrame, session: date, random: np.random.Generator) -> pl.DataFrame:
    """The smallest symbols trade a thousandfold afterwards, so that the members change."""
    symbols = bars.group_by("symbol").agg(pl.col("volume").mean()).sort("volume", "symbol")["symbol"]
    risen = pl.col("symbol").is_in(symbols.head(max(1, len(symbols) // 2)).to_list()) & (pl.col("session") > session)
    factor = float(random.integers(500, 2000))
    return bars.with_columns(pl.when(risen).then(pl.col("volume") * factor).otherwise(pl.col("volume")).alias("volume"))


DISTURBANCES: dict[str, Disturbance] = {one.__name__: one for one in (truncated, repriced, delisted, listed, promoted)}
SHORTER, RESCALED, SHIFTED = "shorter history", "rescaled prices", "shifted"
KINDS = (*DISTURBANCES, SHORTER, RESCALED, SHIFTED)
"""What `first_change` can do to bars."""


def halved(bars: pl.DataFrame) -> pl.DataFrame:
    """The same market after a split of every share in two: half the price, twice the volume."""
    return bars.with_columns(*(pl.col(name) * 0.5 for name in PRICES), pl.col("volume") * 2)


def differing(one: pl.Series, other: pl.Series, tolerance: float = 0.0) -> np.ndarray:
    """Which values differ: in any bit, or by more than a tolerance; or are known in one and not in the other."""
    unlike = (one.is_null() != other.is_null()).to_numpy()
    first, second = (column.fill_null(strategy="zero").to_numpy() for column in (one, other))
    if first.dtype != np.float64:
        return unlike | (first != second)
    if tolerance:
        return unlike | ~((np.abs(first - second) <= tolerance) | (first == second))
    return unlike | (first.view(np.int64) != second.view(np.int64))


def leaks(
    bars: pl.DataFrame,
    session: date,
    disturb: Disturbance,
    symbols_max: int,
    seed: int = 1,
    before: pl.DataFrame | None = None,
    compute: Compute = compute_features,
) -> list[str]:
    """Names of the columns of `visible` that say something else of a session up to `session` once what came after it is
    disturbed. `before` is `visible(bars, symbols_max, compute)`, where it is at hand."""
    one = _until(visible(bars, symbols_max, compute) if before is None else before, session)
    other = _until(visible(disturb(bars, session, np.random.default_rng(seed)), symbols_max, compute), session)
    if not one.select(KEY).equals(other.select(KEY)):
        return list(KEY)
    return [name for name in one.columns if name not in KEY and differing(one[name], other[name]).any()]


def disagreement(one: pl.DataFrame, other: pl.DataFrame, names: Sequence[str] = FEATURES) -> float:
    """Largest difference of any of these features between the eligible rows of two frames of `visible`; infinite where
    they do not agree on which rows, members and votes there are."""
    flags = (*KEY, "eligible", "member", *VOTES)
    first, second = (frame.sort(KEY) for frame in (one, other))
    if not first.select(flags).equals(second.select(flags)):
        return np.inf
    values = (frame.filter("eligible").select(names).to_numpy() for frame in (first, second))
    return float(np.max(np.abs(next(values) - next(values)), initial=0.0))


def tail_disagreement(bars: pl.DataFrame, compute: Compute = compute_features) -> float:
    """How far the last session's features differ between the whole history and the tail that serving reads."""
    whole, served = _whole_and_tail(bars, compute)
    return np.inf if served.is_empty() else disagreement(whole, served)


def _whole_and_tail(bars: pl.DataFrame, compute: Compute) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The last session's rows that the serving tail can answer for: as the whole history has them, and as the tail."""
    sessions = bars["session"].unique().sort()
    tail = visible(bars.filter(pl.col("session") >= sessions.tail(TAIL_SESSIONS)[0]), None, compute)
    # A share that seldom traded has too short a history in the tail: it abstains, which is no other answer.
    served = tail.filter(pl.col("eligible"), pl.col("session") == sessions[-1])
    return visible(bars, None, compute).join(served.select(KEY), on=KEY, how="semi"), served


def first_change(
    kind: str,
    bars: pl.DataFrame,
    cut: date,
    seed: int = 1,
    *,
    symbols_max: int = MEMBERS,
    before: pl.DataFrame | None = None,
    compute: Compute = compute_features,
) -> str | None:
    """The first thing that a model would see otherwise of a session up to `cut` if `bars` were disturbed: session,
    symbol, column and both values in words; None where nothing changes.

    Args:
        kind: of KINDS. The names of DISTURBANCES change what comes after `cut`, and no bit may change; "shorter
            history" leaves the last TAIL_SESSIONS up to it (tolerance 1e-6); "rescaled prices" is a split of every
            share (1e-6; volumes 1e-3). "shifted" moves every feature by one session, which must be seen: None where it
            is, as a comparison that saw nothing would prove nothing.
        bars: BAR_SCHEMA. `before`: `visible(bars, symbols_max, compute)` where it is at hand.
    """
    known = bars.filter(pl.col("session") <= cut)
    if kind == SHORTER:
        one, other = _whole_and_tail(known, compute)
        if other.is_empty():
            return f"{cut}: no share can be answered for, so there is nothing to compare"
        return _first(one, other, {**dict.fromkeys(FEATURES, TOLERANCE), **dict.fromkeys(VOTES, 0.0)})
    seen = _until(visible(bars, symbols_max, compute) if before is None else before, cut)
    every = dict.fromkeys((*FEATURES, *VOTES, *FLAGS_SEEN), 0.0)
    if kind == RESCALED:
        return _first_of_eligible(seen, _until(visible(halved(bars), symbols_max, compute), cut))
    if kind == SHIFTED:
        moved = seen.with_columns(pl.col(FEATURES).shift(1).over("symbol"))
        blind = [name for name in FEATURES if not differing(seen[name], moved[name]).any()]
        return f"{blind[0]}: moved by one session it is the same, so no look ahead would show in it" if blind else None
    return _first(seen, _until(visible(_disturbed(kind, bars, cut, seed), symbols_max, compute), cut), every)


def first_changes(
    bars: pl.DataFrame,
    cut: date,
    seed: int = 1,
    *,
    symbols_max: int = MEMBERS,
    compute: Compute = compute_features,
    progress: Progress = lambda *_: None,
) -> dict[str, str | None]:
    """`first_change` of every kind."""
    seen, found = visible(bars, symbols_max, compute), dict[str, str | None]()
    for number, kind in enumerate(KINDS):
        progress(number, len(KINDS), f"features of {cut}: {kind}")
        found[kind] = first_change(kind, bars, cut, seed, symbols_max=symbols_max, before=seen, compute=compute)
    return found


def _disturbed(kind: str, bars: pl.DataFrame, cut: date, seed: int) -> pl.DataFrame:
    return DISTURBANCES[kind](bars, cut, np.random.default_rng(seed))


def _until(frame: pl.DataFrame, session: date) -> pl.DataFrame:
    return frame.filter(pl.col("session") <= session).sort("session", "symbol")


def _first_of_eligible(one: pl.DataFrame, other: pl.DataFrame) -> str | None:
    """Which rows there are, and then the features of those that can be answered for."""
    changed = _first(one, other, dict.fromkeys(("eligible", "member"), 0.0))
    if changed is not None:
        return changed
    tolerated = (
        dict.fromkeys(OTHERS, TOLERANCE) | dict.fromkeys(OF_VOLUME, VOLUME_TOLERANCE) | dict.fromkeys(VOTES, 0.0)
    )
    return _first(one.filter("eligible"), other.filter("eligible"), tolerated)


def _first(one: pl.DataFrame, other: pl.DataFrame, tolerated: dict[str, float]) -> str | None:
    """The first row, and in it the first column, in which two frames differ by more than is tolerated of the column."""
    one, other = (frame.sort("session", "symbol") for frame in (one, other))
    keys, others = one.select(KEY), other.select(KEY)
    if not keys.equals(others):
        apart = pl.concat([keys.join(others, on=KEY, how="anti"), others.join(keys, on=KEY, how="anti")])
        symbol, session = apart.sort("session", "symbol").row(0)
        return f"{session} {symbol}: the row itself"
    rows = {
        name: int(differs.argmax())
        for name, tolerance in tolerated.items()
        if (differs := differing(one[name], other[name], tolerance)).any()
    }
    if not rows:
        return None
    name = min(rows, key=lambda each: rows[each])
    row = rows[name]
    value, later = _words(one[name][row]), _words(other[name][row])
    return f"{one['session'][row]} {one['symbol'][row]}: {name} {value} became {later}"


def _words(value: float | bool | None) -> str:
    return "unknown" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
