"""Turn daily bars into the model's inputs, by the same code for training and for serving.

84 features in the manner of qlib's Alpha158: ratios, logs, ranks and shares, most in the share's own volatility or
average true range. None is a price level, so a split, an index level or a currency cannot be learned; none is a level
of the whole market's volatility either, because a few years hold too few of its cycles to learn from. Every window is
finite (at most 252 sessions), so a 400-session tail gives what the whole history gives. A row depends on its own
session and earlier ones only.
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
TURNOVER_SESSIONS = 250
TURNOVER_SESSIONS_MIN = 60

RELATIVE_SESSIONS = (1, 3, 5, 10, 20, 60, 120)
WINDOWS = (5, 10, 20, 30, 60)
CORRELATION_SESSIONS = (10, 20, 60)
RANKED = {
    "rank_5": "relative_5",
    "rank_20": "relative_20",
    "rank_60": "relative_60",
    "rank_120": "relative_120",
    "rank_momentum": "momentum_252_21",
    "rank_atr": "atr_log",
    "rank_volume": "volume_5",
    "rank_turnover": "turnover_log",
}
"""Rank within the session's cross-section → what is ranked."""
MARKET_SESSIONS = (5, 20, 60)
MARKET_FEATURES = ("market_1", *(f"market_{n}" for n in MARKET_SESSIONS), "market_breadth", "market_volatility_ratio")
PER_WINDOW = ("return", "gap", "volatility", "slope", "high", "low", "up_share", "rsi", "volume", "volume_spread")
FEATURES = (
    *(f"relative_{n}" for n in RELATIVE_SESSIONS),
    *(f"{name}_{n}" for n in WINDOWS for name in PER_WINDOW),
    *(f"volume_correlation_{n}" for n in CORRELATION_SESSIONS),
    "momentum_252_21",
    "rsi_2",
    "high_252",
    "low_252",
    "atr_log",
    "volatility_252",
    "close_location",
    "body",
    "open_gap",
    "range",
    *RANKED,
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


def _ratio(part: pl.Expr, whole: pl.Expr, otherwise: float) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole).otherwise(otherwise)


def _rsi(sessions: int) -> pl.Expr:
    """Relative strength index (Wilder 1978) with simple means, 0..1, less one half."""
    gain, path = pl.col("log_return").clip(lower_bound=0), pl.col("log_return").abs()
    return _ratio(_own(gain.rolling_sum(sessions)), _own(path.rolling_sum(sessions)), 0.5) - 0.5


def _slope(sessions: int) -> pl.Expr:
    """Least-squares slope of the log close over the window, in own volatilities of as many sessions."""
    middle, scale = (sessions - 1) / 2, 12 / (sessions * (sessions**2 - 1))
    weights = [(i - middle) * scale for i in range(sessions)]
    return _own(pl.col("close_log").rolling_sum(sessions, weights=weights)) * sessions**0.5 / pl.col("volatility_60")


def _rank(column: str) -> pl.Expr:
    """Rank within the members of the session's cross-section, −½ .. +½; 0 where a symbol stands alone."""
    value = pl.when(pl.col("member")).then(pl.col(column))
    count = value.count().over("session")
    rank = (value.rank("average").over("session") - 1) / (count - 1)
    return pl.when(count > 1).then(rank - 0.5).otherwise(0.0)


def with_members(bars: pl.DataFrame, symbols_max: int) -> pl.DataFrame:
    """Add `member`: whether the symbol was among the `symbols_max` of the most turnover, as known at that session.

    By the median of the last 250 sessions (at least 60 of its own): a share that was later delisted is a member as
    long as it was large, and one that grew later is not yet.
    """
    turnover = (pl.col("close") * pl.col("volume")).rolling_median(TURNOVER_SESSIONS, min_samples=TURNOVER_SESSIONS_MIN)
    frame = bars.sort("symbol", "session").with_columns(_own(turnover).alias("turnover"))
    place = pl.col("turnover").rank("ordinal", descending=True).over("session")
    return frame.with_columns((place <= symbols_max).fill_null(False).alias("member")).drop("turnover")


def _with_returns(bars: pl.DataFrame) -> pl.DataFrame:
    """Daily log returns, true ranges, ATR, the market's return and what the eligibility rule needs."""
    frame = bars if "member" in bars.columns else bars.with_columns(pl.lit(True).alias("member"))
    frame = frame.sort("symbol", "session").with_columns(_own(pl.col("close").shift(1)).alias("previous_close"))
    close, previous = pl.col("close"), pl.col("previous_close")
    frame = frame.with_columns(
        (close / previous).log().alias("log_return"),
        (pl.max_horizontal("high", "previous_close") - pl.min_horizontal("low", "previous_close")).alias("true_range"),
        (close / previous - 1).abs().alias("move"),
        close.log().alias("close_log"),
        pl.col("volume").log1p().alias("volume_log"),
        _own(pl.int_range(1, pl.len() + 1)).alias("history_sessions"),
    )
    # A market of the session's members. The mean is of sorted values, so that the order of rows decides no last bit.
    market = pl.col("log_return").filter(pl.col("member")).sort().mean()
    frame = frame.join(frame.group_by("session").agg(market.alias("market")), on="session", maintain_order="left")
    frame = frame.with_columns((pl.col("log_return") - pl.col("market")).alias("relative"))
    return frame.with_columns(
        _own(pl.col("true_range").rolling_mean(ATR_SESSIONS)).alias("atr"),
        _own(pl.col("move").rolling_max(UNEXPLAINED_MOVE_SESSIONS)).alias("move_max"),
        _own(pl.col("log_return").rolling_std(60)).alias("volatility_60"),
        _own(pl.col("log_return").rolling_std(120)).alias("volatility_120"),
        _own(pl.col("relative").rolling_std(60)).alias("relative_volatility"),
        _own(pl.col("volume_log").rolling_mean(120)).alias("volume_120"),
        _own(pl.col("volume_log").diff()).alias("volume_change"),
        (pl.col("close_log") + pl.col("volume_log")).alias("turnover_log"),
    ).with_columns((pl.col("atr") / close).alias("atr_fraction"))


def _windowed(n: int) -> dict[str, pl.Expr]:
    """The features of PER_WINDOW over `n` sessions."""
    close, atr, log_return = pl.col("close"), pl.col("atr"), pl.col("log_return")
    return {
        f"return_{n}": _own(log_return.rolling_sum(n)) / (pl.col("volatility_60") * n**0.5),
        f"gap_{n}": (close - _own(close.rolling_mean(n))) / atr,
        f"volatility_{n}": (_own(log_return.rolling_std(n)) / pl.col("volatility_120")).log(),
        f"slope_{n}": _slope(n),
        f"high_{n}": (_own(pl.col("high").rolling_max(n)) - close) / atr,
        f"low_{n}": (close - _own(pl.col("low").rolling_min(n))) / atr,
        f"up_share_{n}": _own((log_return > 0).cast(pl.Float64).rolling_mean(n)) - 0.5,
        f"rsi_{n}": _rsi(n),
        f"volume_{n}": _own(pl.col("volume_log").rolling_mean(n)) - pl.col("volume_120"),
        f"volume_spread_{n}": _own(pl.col("volume_log").rolling_std(n)),
    }


def _with_own_features(frame: pl.DataFrame) -> pl.DataFrame:
    close, atr, log_return = pl.col("close"), pl.col("atr"), pl.col("log_return")
    spread, change = pl.col("high") - pl.col("low"), pl.col("volume_change")
    features = {
        f"relative_{n}": _own(pl.col("relative").rolling_sum(n)) / (pl.col("relative_volatility") * n**0.5)
        for n in RELATIVE_SESSIONS
    }
    for n in WINDOWS:
        features |= _windowed(n)
    features |= {
        f"volume_correlation_{n}": _own(pl.rolling_corr(log_return, change, window_size=n))
        for n in CORRELATION_SESSIONS
    }
    features |= {
        "momentum_252_21": _own((close.shift(21) / close.shift(251)).log()) / (pl.col("volatility_60") * 230**0.5),
        "rsi_2": _rsi(2),
        "high_252": (close / _own(pl.col("high").rolling_max(252))).log(),
        "low_252": (close / _own(pl.col("low").rolling_min(252))).log(),
        "atr_log": pl.col("atr_fraction").log(),
        "volatility_252": (pl.col("volatility_60") / _own(log_return.rolling_std(250))).log(),
        "close_location": _ratio(close - pl.col("low"), spread, 0.5) - 0.5,
        "body": (close - pl.col("open")) / atr,
        "open_gap": (pl.col("open") - pl.col("previous_close")) / atr,
        "range": spread / atr,
    }
    return frame.with_columns(**features)


def _market(frame: pl.DataFrame) -> pl.DataFrame:
    """The market's state per session, from its equally weighted members."""
    rising = (pl.col("gap_60") > 0).filter(pl.col("member")).mean()
    by_session = frame.group_by("session").agg(pl.col("market").first(), rising.alias("market_breadth")).sort("session")
    market = pl.col("market")
    volatility = market.rolling_std(60)
    return by_session.with_columns(
        (market / volatility).alias("market_1"),
        *((market.rolling_sum(n) / (volatility * n**0.5)).alias(f"market_{n}") for n in MARKET_SESSIONS),
        (market.rolling_std(20) / market.rolling_std(120)).log().alias("market_volatility_ratio"),
    ).select("session", *MARKET_FEATURES)


def compute_features(bars: pl.DataFrame) -> pl.DataFrame:
    """Features of every bar, sorted by symbol and session.

    `bars` has the columns of BAR_SCHEMA, one row per symbol and session, adjusted prices in rupees, volume in shares;
    a column `member` (see `with_members`) says whose ranks and market these are, all symbols without it. The result
    adds FEATURES, `atr` (rupees), `atr_fraction` (of the close), `history_sessions`, `move_max` (largest absolute
    daily return of the last 60 sessions), `member` and `complete` (all features finite).
    """
    frame = _with_own_features(_with_returns(bars))
    frame = frame.with_columns(**{name: _rank(ranked) for name, ranked in RANKED.items()})
    frame = frame.join(_market(frame), on="session", how="left", maintain_order="left")
    return frame.with_columns(pl.all_horizontal(pl.col(FEATURES).is_finite().fill_null(False)).alias("complete"))


def eligible() -> pl.Expr:
    """Rows a model may learn from and answer for: members with long enough a history, no unexplained move, all features
    known."""
    return (
        pl.col("complete")
        & (pl.col("history_sessions") >= HISTORY_SESSIONS_MIN)
        & (pl.col("move_max") <= UNEXPLAINED_MOVE_FRACTION)
        & (pl.col("atr_fraction") > 0)
        & pl.col("member")
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
