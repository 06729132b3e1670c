"""The model's features written a second time, share by share over rolling windows in numpy, to hold polars against.

For markets in which every share trades in every session and is a member.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import rankdata

from ml_service.features import (
    CORRELATION_SESSIONS,
    FEATURES,
    MARKET_SESSIONS,
    RANKED,
    RELATIVE_SESSIONS,
    WINDOWS,
)

Columns = dict[str, np.ndarray]


def _windows(values: np.ndarray, n: int) -> np.ndarray:
    """The last `n` values of each row, NaN before there are as many."""
    return sliding_window_view(np.concatenate([np.full(n - 1, np.nan), values]), n)


def _std(values: np.ndarray, n: int) -> np.ndarray:
    return _windows(values, n).std(axis=1, ddof=1)


def _mean(values: np.ndarray, n: int) -> np.ndarray:
    return _windows(values, n).mean(axis=1)


def _sum(values: np.ndarray, n: int) -> np.ndarray:
    return _windows(values, n).sum(axis=1)


def _shift(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([np.full(n, np.nan), values[:-n]])


def _correlation(one: np.ndarray, other: np.ndarray, n: int) -> np.ndarray:
    first, second = (w - w.mean(axis=1, keepdims=True) for w in (_windows(one, n), _windows(other, n)))
    return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))


def _rsi(log_return: np.ndarray, n: int) -> np.ndarray:
    gains = np.where(np.isnan(log_return), np.nan, np.maximum(log_return, 0))
    return _sum(gains, n) / _sum(np.abs(log_return), n) - 0.5


def _windowed(bars: Columns, n: int) -> Columns:
    close, log_return, atr = bars["close"], bars["log_return"], bars["atr"]
    place = np.arange(n) - (n - 1) / 2
    slope = _windows(np.log(close), n) @ place * 12 / (n * (n**2 - 1))
    up = np.where(np.isnan(log_return), np.nan, log_return > 0)
    return {
        f"return_{n}": _sum(log_return, n) / (bars["volatility_60"] * n**0.5),
        f"gap_{n}": (close - _mean(close, n)) / atr,
        f"volatility_{n}": np.log(_std(log_return, n) / _std(log_return, 120)),
        f"slope_{n}": slope * n**0.5 / bars["volatility_60"],
        f"high_{n}": (_windows(bars["high"], n).max(axis=1) - close) / atr,
        f"low_{n}": (close - _windows(bars["low"], n).min(axis=1)) / atr,
        f"up_share_{n}": _mean(up, n) - 0.5,
        f"rsi_{n}": _rsi(log_return, n),
        f"volume_{n}": _mean(bars["volume_log"], n) - _mean(bars["volume_log"], 120),
        f"volume_spread_{n}": _std(bars["volume_log"], n),
    }


def _own(bars: Columns, market: np.ndarray) -> Columns:
    """The features of one share; `market` is the mean log return of all."""
    close, high, low = bars["close"], bars["high"], bars["low"]
    log_return, previous = np.log(close / _shift(close, 1)), _shift(close, 1)
    relative, volume_log = log_return - market, np.log1p(bars["volume"])
    atr = _mean(np.fmax(high, previous) - np.fmin(low, previous), 14)
    volatility = _std(log_return, 60)
    known = bars | {"log_return": log_return, "atr": atr, "volatility_60": volatility, "volume_log": volume_log}
    found = {f"relative_{n}": _sum(relative, n) / (_std(relative, 60) * n**0.5) for n in RELATIVE_SESSIONS}
    for n in WINDOWS:
        found |= _windowed(known, n)
    change, spread = volume_log - _shift(volume_log, 1), high - low
    found |= {f"volume_correlation_{n}": _correlation(log_return, change, n) for n in CORRELATION_SESSIONS}
    return found | {
        "momentum_252_21": np.log(_shift(close, 21) / _shift(close, 251)) / (volatility * 230**0.5),
        "rsi_2": _rsi(log_return, 2),
        "high_252": np.log(close / _windows(high, 252).max(axis=1)),
        "low_252": np.log(close / _windows(low, 252).min(axis=1)),
        "atr_log": np.log(atr / close),
        "volatility_252": np.log(volatility / _std(log_return, 250)),
        "close_location": np.where(spread > 0, (close - low) / np.where(spread > 0, spread, 1), 0.5) - 0.5,
        "body": (close - bars["open"]) / atr,
        "open_gap": (bars["open"] - previous) / atr,
        "range": spread / atr,
        "turnover_log": np.log(close) + volume_log,
    }


def _market(market: np.ndarray, above: np.ndarray) -> Columns:
    """The market's state; `above` (shares × sessions): closes above their mean of 60 sessions."""
    volatility = _std(market, 60)
    found = {f"market_{n}": _sum(market, n) / (volatility * n**0.5) for n in MARKET_SESSIONS}
    ratio = np.log(_std(market, 20) / _std(market, 120))
    return found | {
        "market_1": market / volatility,
        "market_breadth": above.mean(axis=0),
        "market_volatility_ratio": ratio,
    }


def numpy_features(bars: Columns) -> np.ndarray:
    """Features (shares × sessions × len(FEATURES)) of the columns open … volume (shares × sessions); NaN where windows
    are not full."""
    close = bars["close"]
    returns = np.concatenate([np.full((len(close), 1), np.nan), np.log(close[:, 1:] / close[:, :-1])], axis=1)
    market = returns.mean(axis=0)
    shares = [_own({name: column[i] for name, column in bars.items()}, market) for i in range(len(close))]
    stacked = {name: np.stack([share[name] for share in shares]) for name in shares[0]}
    for name, ranked in RANKED.items():
        stacked[name] = (rankdata(stacked[ranked], axis=0) - 1) / (len(close) - 1) - 0.5
    common = _market(market, stacked["gap_60"] > 0)
    stacked |= {name: np.broadcast_to(values, close.shape) for name, values in common.items()}
    return np.stack([stacked[name] for name in FEATURES], axis=-1)
