"""Group shares that moved together of late, so that a decision can bound what it stakes on one movement."""

import numpy as np
import polars as pl
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

SESSIONS = 120
SESSIONS_MIN = 100
CORRELATION_MIN = 0.4


def clusters_of(frame: pl.DataFrame) -> dict[str, str]:
    """Symbol → the name of its cluster, the first of its members by the alphabet.

    Average linkage (Sokal and Michener 1958) on the correlation of the last 120 sessions' returns against the market:
    members of a cluster correlate with 0.4 or more on average. A session a share did not trade in counts as a return of
    zero; one with fewer than 100 of them stands alone. `frame` has
    `symbol`, `session` and `relative` (log return less the market's) of `compute_features`.
    """
    last = frame["session"].unique().sort().tail(SESSIONS)
    alone = {symbol: symbol for symbol in frame["symbol"].unique().sort()}
    if len(last) < SESSIONS:
        return alone
    recent = frame.filter(pl.col("session") >= last[0]).select("symbol", "session", "relative")
    full = recent.group_by("symbol").agg(pl.col("relative").is_finite().fill_null(False).sum().alias("n"))
    symbols = full.filter(pl.col("n") >= SESSIONS_MIN)["symbol"].sort().to_list()
    if len(symbols) < 2:
        return alone
    known = recent.filter(pl.col("symbol").is_in(symbols), pl.col("relative").is_finite())
    wide = known.pivot("symbol", index="session", values="relative").select(symbols).fill_null(0.0).to_numpy().T
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(wide))
    distance = np.clip(1 - (correlation + correlation.T) / 2, 0, 2)
    np.fill_diagonal(distance, 0.0)
    number = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - CORRELATION_MIN, "distance")
    first: dict[int, str] = {}
    for symbol, cluster in zip(symbols, number, strict=True):
        first.setdefault(int(cluster), symbol)
    return alone | {symbol: first[int(cluster)] for symbol, cluster in zip(symbols, number, strict=True)}
