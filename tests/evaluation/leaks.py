"""Whether anything that a model sees of a session knows of a later one: asked of any market, bit by bit."""

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import polars as pl

from ml_service import features
from ml_service.features import FEATURES, TAIL_SESSIONS, eligible, with_members
from ml_service.strategies import STRATEGIES, vote_column, with_votes
from ml_service.walkforward import Progress
from tests.evaluation.claims import Claim, at_most, nothing

PRICES = ("open", "high", "low", "close")
KEY = ("symbol", "session")
TOLERANCE = 1e-6
VOLUME_TOLERANCE = 1e-3
"""Volumes enter as log (1 + volume): of a few hundred shares a day, the 1 shows in the fourth digit."""
OF_VOLUME = tuple(name for name in FEATURES if name.startswith("volume"))
RANKED_BY_VOLUME = ("rank_volume", "rank_turnover")
"""Two shares of the same rank within that tolerance may change places."""
OTHERS = tuple(name for name in FEATURES if name not in OF_VOLUME + RANKED_BY_VOLUME)
MEMBERS = 50
FLAGS_SEEN = ("atr", "atr_fraction", "history_sessions", "move_max", "complete", "member", "eligible")

Disturbance = Callable[[pl.DataFrame, date, np.random.Generator], pl.DataFrame]
"""(bars, session, randomness) → bars that are the same up to and including the session."""


def visible(bars: pl.DataFrame, symbols_max: int | None) -> pl.DataFrame:
    """All that a model may see of each row: features, votes, membership, eligibility. Without `symbols_max`
    every symbol is a member, as in serving, where the bars are those of the model's universe."""
    frame = with_votes(features.compute_features(bars if symbols_max is None else with_members(bars, symbols_max)))
    votes = [vote_column(one.name) for one in STRATEGIES]
    return frame.with_columns(eligible().fill_null(False).alias("eligible")).select(
        *KEY, *FEATURES, *votes, *FLAGS_SEEN
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


def bits(column: pl.Series) -> tuple[bytes, bytes]:
    """A column's values and which of them are unknown, to the last bit."""
    return column.is_null().to_numpy().tobytes(), column.fill_null(strategy="zero").to_numpy().tobytes()


def leaks(
    bars: pl.DataFrame,
    session: date,
    disturb: Disturbance,
    symbols_max: int,
    seed: int = 1,
    before: pl.DataFrame | None = None,
) -> list[str]:
    """Names of the columns of `visible` that say something else of a session up to `session` once what came after it is
    disturbed. `before` is `visible(bars, symbols_max)`, where it is at hand."""
    disturbed = disturb(bars, session, np.random.default_rng(seed))
    past = pl.col("session") <= session
    one, other = (
        frame.filter(past).sort(KEY)
        for frame in (visible(bars, symbols_max) if before is None else before, visible(disturbed, symbols_max))
    )
    if not one.select(KEY).equals(other.select(KEY)):
        return list(KEY)
    return [name for name in one.columns if name not in KEY and bits(one[name]) != bits(other[name])]


def disagreement(one: pl.DataFrame, other: pl.DataFrame, names: Sequence[str] = FEATURES) -> float:
    """Largest difference of any of these features between the eligible rows of two frames of `visible`; infinite where
    they do not agree on which rows, members and votes there are."""
    flags = (*KEY, "eligible", "member", *(vote_column(strategy.name) for strategy in STRATEGIES))
    first, second = (frame.sort(KEY) for frame in (one, other))
    if not first.select(flags).equals(second.select(flags)):
        return np.inf
    values = (frame.filter("eligible").select(names).to_numpy() for frame in (first, second))
    return float(np.max(np.abs(next(values) - next(values)), initial=0.0))


def tail_disagreement(bars: pl.DataFrame) -> float:
    """How far the last session's features differ between the whole history and the tail that serving reads."""
    sessions = bars["session"].unique().sort()
    tail = visible(bars.filter(pl.col("session") >= sessions.tail(TAIL_SESSIONS)[0]), None)
    # A share that seldom traded has too short a history in the tail: it abstains, which is no other answer.
    served = tail.filter(pl.col("eligible"), pl.col("session") == sessions[-1])
    if served.is_empty():
        return np.inf
    return disagreement(visible(bars, None).join(served.select(KEY), on=KEY, how="semi"), served)


def halved(bars: pl.DataFrame) -> pl.DataFrame:
    """The same market after a split of every share in two: half the price, twice the volume."""
    return bars.with_columns(*(pl.col(name) * 0.5 for name in PRICES), pl.col("volume") * 2)


def claims(bars: pl.DataFrame, which: str, progress: Progress) -> list[Claim]:
    """Every disturbance of what came after an early and a late session, the serving tail, and another adjustment."""
    days = bars["session"].unique().sort()
    moments = (days[len(days) // 3], days[-30])
    seen, steps = visible(bars, MEMBERS), len(DISTURBANCES) + 1
    found: list[Claim] = []
    for number, (name, disturb) in enumerate(DISTURBANCES.items()):
        progress(number, steps, name)
        told = {column for day in moments for column in leaks(bars, day, disturb, MEMBERS, before=seen)}
        found.append(nothing(f"columns that know the future, {name}, {which}", sorted(told)))
    progress(steps - 1, steps, "tail and adjustment")
    found.append(at_most(f"tail against whole history, {which}", tail_disagreement(bars), TOLERANCE))
    split = visible(halved(bars), MEMBERS)
    found.append(at_most(f"after another adjustment, {which}", disagreement(seen, split, OTHERS), TOLERANCE))
    moved = disagreement(seen, split, OF_VOLUME)
    return [*found, at_most(f"after another adjustment, of volumes, {which}", moved, VOLUME_TOLERANCE)]
