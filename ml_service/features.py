"""Turn daily bars into the model's inputs, by the same code for training and for serving.

Every feature is a ratio, a log, a rank or a share: none is a price level, so a split, an index level or a currency
cannot be learned. Every window is finite (at most 252 sessions), so a 400-session tail gives what the whole history
gives. A row depends on its own session and earlier ones only.
"""

import hashlib
from functools import cache

import numpy as np
import polars as pl

HISTORY_SESSIONS_MIN = 260
TAIL_SESSIONS = 400
ATR_SESSIONS = 14
UNEXPLAINED_MOVE_FRACTION = 0.20
UNEXPLAINED_MOVE_SESSIONS = 60

RELATIVE_SESSIONS = (1, 3, 5, 10, 20, 60)
MARKET_FEATURES = ("market_5", "market_20", "market_breadth", "market_volatility_ratio")
FEATURES = (
    *(f"relative_{n}" for n in RELATIVE_SESSIONS),
    "momentum_252_21",
    "rsi_2",
    "rsi_14",
    "sma_20_gap",
    "sma_50_gap",
    "high_252_gap",
    "atr_log",
    "volatility_ratio",
    "volume_surge",
    "close_location",
    "open_gap",
    "rank_5",
    "rank_20",
    *MARKET_FEATURES,
)

BAR_SCHEMA = {
    "symbol": pl.String,
    "session": pl.Date,
    "open": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "volume": pl.Float64,
}


def _own(expression: pl.Expr) -> pl.Expr:
    return expression.over("symbol")


def _rsi(sessions: int) -> pl.Expr:
    """Relative strength index (Wilder 1978) with simple means, 0..1, less one half."""
    gain = pl.col("log_return").clip(lower_bound=0).rolling_sum(sessions)
    path = pl.col("log_return").abs().rolling_sum(sessions)
    return _own(pl.when(path > 0).then(gain / path).otherwise(0.5) - 0.5)


def _sma_gap(sessions: int) -> pl.Expr:
    """Distance of the close from its simple moving average, in average true ranges."""
    return (pl.col("close") - _own(pl.col("close").rolling_mean(sessions))) / pl.col("atr")


def _rank(column: str) -> pl.Expr:
    """Rank within the session's cross-section, −½ .. +½; 0 where a symbol stands alone."""
    count = pl.col(column).count().over("session")
    rank = (pl.col(column).rank("average").over("session") - 1) / (count - 1)
    return pl.when(pl.col(column).is_null()).then(None).when(count > 1).then(rank - 0.5).otherwise(0.0)


def _with_returns(bars: pl.DataFrame) -> pl.DataFrame:
    """Daily log returns, true ranges, ATR and what the eligibility rule needs."""
    previous = _own(pl.col("close").shift(1))
    frame = bars.sort("symbol", "session").with_columns(previous.alias("previous_close"))
    frame = frame.with_columns(
        (pl.col("close") / pl.col("previous_close")).log().alias("log_return"),
        (pl.max_horizontal("high", "previous_close") - pl.min_horizontal("low", "previous_close")).alias("true_range"),
        (pl.col("close") / pl.col("previous_close") - 1).abs().alias("move"),
        _own(pl.int_range(1, pl.len() + 1)).alias("history_sessions"),
    )
    return frame.with_columns(
        _own(pl.col("true_range").rolling_mean(ATR_SESSIONS)).alias("atr"),
        (pl.col("log_return") - pl.col("log_return").mean().over("session")).alias("relative"),
        _own(pl.col("move").rolling_max(UNEXPLAINED_MOVE_SESSIONS)).alias("move_max"),
    ).with_columns((pl.col("atr") / pl.col("close")).alias("atr_fraction"))


def _with_own_features(frame: pl.DataFrame) -> pl.DataFrame:
    relative, close = pl.col("relative"), pl.col("close")
    volatility = _own(relative.rolling_std(60))
    volume = pl.col("volume").log1p()
    spread = pl.col("high") - pl.col("low")
    return frame.with_columns(
        *((_own(relative.rolling_sum(n)) / (volatility * n**0.5)).alias(f"relative_{n}") for n in RELATIVE_SESSIONS),
        (_own((close.shift(21) / close.shift(251)).log()) / (volatility * 231**0.5)).alias("momentum_252_21"),
        _rsi(2).alias("rsi_2"),
        _rsi(14).alias("rsi_14"),
        _sma_gap(20).alias("sma_20_gap"),
        _sma_gap(50).alias("sma_50_gap"),
        (close / _own(pl.col("high").rolling_max(252))).log().alias("high_252_gap"),
        pl.col("atr_fraction").log().alias("atr_log"),
        (_own(pl.col("log_return").rolling_std(20)) / _own(pl.col("log_return").rolling_std(120)))
        .log()
        .alias("volatility_ratio"),
        (volume - _own(volume.rolling_mean(20))).alias("volume_surge"),
        pl.when(spread > 0).then((close - pl.col("low")) / spread).otherwise(0.5).sub(0.5).alias("close_location"),
        ((pl.col("open") - pl.col("previous_close")) / pl.col("atr")).alias("open_gap"),
    )


def _market(frame: pl.DataFrame) -> pl.DataFrame:
    """The market's state per session, from the equally weighted universe."""
    by_session = (
        frame.group_by("session")
        .agg(pl.col("log_return").mean().alias("market"), (pl.col("sma_50_gap") > 0).mean().alias("market_breadth"))
        .sort("session")
    )
    market = pl.col("market")
    volatility = market.rolling_std(60)
    return by_session.with_columns(
        (market.rolling_sum(5) / (volatility * 5**0.5)).alias("market_5"),
        (market.rolling_sum(20) / (volatility * 20**0.5)).alias("market_20"),
        (market.rolling_std(20) / market.rolling_std(120)).log().alias("market_volatility_ratio"),
    ).select("session", *MARKET_FEATURES)


def compute_features(bars: pl.DataFrame) -> pl.DataFrame:
    """Features of every bar, sorted by symbol and session.

    `bars` has the columns of BAR_SCHEMA, one row per symbol and session, adjusted prices in rupees, volume in shares.
    The result adds FEATURES, `atr` (rupees), `atr_fraction` (of the close), `history_sessions`, `move_max` (largest
    absolute daily return of the last 60 sessions) and `complete` (all features finite).
    """
    frame = _with_own_features(_with_returns(bars))
    frame = frame.with_columns(_rank("relative_5").alias("rank_5"), _rank("relative_20").alias("rank_20"))
    frame = frame.join(_market(frame), on="session", how="left", maintain_order="left")
    return frame.with_columns(pl.all_horizontal(pl.col(FEATURES).is_finite().fill_null(False)).alias("complete"))


def eligible() -> pl.Expr:
    """Rows a model may learn from and answer for: long enough a history, no unexplained move, all features known."""
    return (
        pl.col("complete")
        & (pl.col("history_sessions") >= HISTORY_SESSIONS_MIN)
        & (pl.col("move_max") <= UNEXPLAINED_MOVE_FRACTION)
        & (pl.col("atr_fraction") > 0)
    )


@cache
def features_hash() -> str:
    """Hash of what the features *do*: their names, order and values on a fixed set of bars.

    A model trained with other features is refused even where the names are the same; a reformatted source is not.
    """
    sessions, rng = 300, np.random.default_rng(7)
    start = pl.date_range(pl.date(2000, 1, 3), pl.date(2000, 1, 3) + pl.duration(days=sessions - 1), eager=True)
    frames = []
    for symbol in ("A", "B", "C"):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, sessions)))
        open_ = close * np.exp(rng.normal(0, 0.005, sessions))
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * sessions,
                    "session": start,
                    "open": open_,
                    "high": np.maximum(open_, close) * 1.01,
                    "low": np.minimum(open_, close) * 0.99,
                    "close": close,
                    "volume": np.floor(rng.uniform(1e5, 1e6, sessions)),
                },
                schema=BAR_SCHEMA,
            )
        )
    values = compute_features(pl.concat(frames)).filter(eligible()).select(FEATURES).tail(8).to_numpy()
    text = ",".join(FEATURES) + ";" + ",".join(f"{value:.4f}" for value in (values + 0.0).ravel())
    return hashlib.sha256(text.replace("-0.0000", "0.0000").encode()).hexdigest()
