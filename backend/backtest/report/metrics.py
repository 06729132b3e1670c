"""What an account's daily returns come to: each figure by the field's usual definition, for one series or for many.

Every function takes returns of shape (..., sessions) and gives an array of the leading shape, so that a thousand
resampled series cost one call. NaN stands for a figure that does not exist. A year is 252 sessions; the risk-free rate
is 0, as idle cash earns nothing here. On (sessions,) the figures agree with empyrical-reloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from backend.backtest.report.series import Daily, Floats, Ints

SESSIONS_PER_YEAR = 252
SESSIONS_FOR_RATIOS = 20
"""Under a month of sessions a ratio of return to risk is noise, whatever its value."""
YEARLY = ("cagr", "calmar", "alpha")
RATIOS = ("sharpe", "sortino", "probabilistic_sharpe", "deflated_sharpe", "track_record_sessions_min")
VAR_TAIL = 0.05
_FLAT = 1e-14
"""A standard deviation below it is rounding, not risk."""


def growth(returns: Floats) -> Floats:
    """Value of 1 at the start after each session, the start included: shape (..., sessions + 1)."""
    start = np.ones((*returns.shape[:-1], 1))
    return np.concatenate((start, np.cumprod(1 + returns, axis=-1)), axis=-1, dtype=np.float64)


def total_return(value: Floats) -> Floats:
    """V_n / V_0 - 1, of the growth."""
    return value[..., -1] - 1


def cagr(value: Floats) -> Floats:
    """(V_n / V_0)^(252 / n) - 1, the compound annual growth rate; -1 where nothing is left."""
    sessions = value.shape[-1] - 1
    if sessions == 0:
        return np.full(value.shape[:-1], np.nan)
    return np.maximum(value[..., -1], 0) ** (SESSIONS_PER_YEAR / sessions) - 1


def volatility(returns: Floats) -> Floats:
    """Sample standard deviation x sqrt(252); NaN under two sessions."""
    return _deviation(returns) * SESSIONS_PER_YEAR**0.5


def sharpe(returns: Floats) -> Floats:
    """Mean / sample standard deviation x sqrt(252) (Sharpe 1994, risk-free rate 0); NaN on a flat series."""
    return per_session_sharpe(returns) * np.sqrt(SESSIONS_PER_YEAR)


def per_session_sharpe(returns: Floats) -> Floats:
    """The Sharpe ratio of one session, not annualised."""
    return _ratio(_mean(returns), _deviation(returns))


def sortino(returns: Floats) -> Floats:
    """Mean x 252 / downside deviation, sqrt(mean(min(r, 0)^2) x 252) over all sessions (Sortino and van der Meer 1991,
    target 0); NaN without a loss."""
    downside = np.sqrt(_mean(np.minimum(returns, 0) ** 2) * SESSIONS_PER_YEAR)
    return _ratio(_mean(returns) * SESSIONS_PER_YEAR, downside)


def drawdowns(value: Floats) -> Floats:
    """V_t / max(V_0..V_t) - 1 of the growth, never above 0."""
    return value / np.maximum.accumulate(value, axis=-1) - 1


def calmar(value: Floats, deepest: Floats) -> Floats:
    """CAGR / |max drawdown| (Young 1991, over the whole series); NaN without a drawdown."""
    return _ratio(cagr(value), -deepest)


def drawdown_span(drawdown: Floats) -> tuple[Ints, Ints, Ints]:
    """Peak, trough and end of the deepest drawdown, as indices of the growth. It ends at the first value that is no
    lower than its peak, or with the series."""
    index = np.arange(drawdown.shape[-1])
    trough = np.argmin(drawdown, axis=-1)
    peaks = np.maximum.accumulate(np.where(drawdown >= 0, index, 0), axis=-1)
    peak = np.take_along_axis(peaks, trough[..., None], axis=-1)[..., 0]
    over = (drawdown >= 0) & (index > trough[..., None])
    end = np.where(over.any(axis=-1), np.argmax(over, axis=-1), drawdown.shape[-1] - 1)
    return peak, trough, np.where(drawdown.min(axis=-1) < 0, end, peak)


def value_at_risk(returns: Floats) -> Floats:
    """The 5 % quantile of the daily returns (historic, linear between neighbours): -0.02 is a loss of 2 %."""
    if returns.shape[-1] == 0:
        return np.full(returns.shape[:-1], np.nan)
    place = VAR_TAIL * (returns.shape[-1] - 1)
    low = int(place)
    high = min(low + 1, returns.shape[-1] - 1)
    part = np.partition(returns, (low, high), axis=-1)
    return part[..., low] + (part[..., high] - part[..., low]) * (place - low)


def conditional_value_at_risk(returns: Floats) -> Floats:
    """Mean of the worst returns up to the 5 % quantile: floor(0.05 (n - 1)) + 1 of n (expected shortfall, historic)."""
    if returns.shape[-1] == 0:
        return np.full(returns.shape[:-1], np.nan)
    place = int(VAR_TAIL * (returns.shape[-1] - 1))
    return np.partition(returns, place, axis=-1)[..., : place + 1].mean(axis=-1)


def alpha_beta(returns: Floats, market: Floats) -> tuple[Floats, Floats]:
    """Annual alpha, (1 + mean(r - beta m))^252 - 1, and beta, cov(r, m) / var(m), against `market` (Jensen 1968, daily,
    risk-free rate 0); NaN under two sessions or beside a flat market."""
    centred = market - _mean(market)[..., None]
    variance = _mean(centred**2)
    known = variance > _FLAT**2
    beta = np.where(known, _mean(centred * returns) / np.where(known, variance, 1.0), np.nan)
    excess = _mean(returns) - beta * _mean(market)
    with np.errstate(over="ignore"):
        return np.maximum(1 + excess, 0) ** SESSIONS_PER_YEAR - 1, beta


def curve_metrics(returns: Floats, market: Floats | None = None) -> dict[str, Floats]:
    """All figures of the returns, by name; `alpha` and `beta` only beside a market."""
    value = growth(returns)
    drawdown = drawdowns(value)
    deepest = drawdown.min(axis=-1)
    peak, _, end = drawdown_span(drawdown)
    found = {
        "total_return": total_return(value),
        "cagr": cagr(value),
        "volatility": volatility(returns),
        "sharpe": sharpe(returns),
        "sortino": sortino(returns),
        "calmar": calmar(value, deepest),
        "max_drawdown": deepest,
        "max_drawdown_sessions": (end - peak).astype(np.float64),
        "var_95": value_at_risk(returns),
        "cvar_95": conditional_value_at_risk(returns),
    }
    if market is not None:
        found["alpha"], found["beta"] = alpha_beta(returns, market)
    return found


def withheld(sessions: int) -> dict[str, str]:
    """Why which figures are not told of so few sessions: compounded to a year, or set against a risk that was hardly
    seen, a few days' luck would be the headline."""
    reasons: dict[str, str] = {}
    if sessions < SESSIONS_PER_YEAR:
        why = f"too short to annualise: {sessions} of {SESSIONS_PER_YEAR} sessions"
        reasons |= dict.fromkeys(YEARLY, why)
    if sessions < SESSIONS_FOR_RATIOS:
        why = f"too short to be judged: {sessions} of {SESSIONS_FOR_RATIOS} sessions"
        reasons |= dict.fromkeys(RATIOS, why)
    return reasons


def tellable(values: Mapping[str, Floats], sessions: int) -> dict[str, float | None]:
    """The figures for JSON: None for what does not exist or is `withheld`."""
    left_out = withheld(sessions)
    return {name: None if name in left_out else finite(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Drawdown:
    """The deepest drawdown: how deep (a fraction, not above 0), from peak to recovery (None: not recovered), and its
    sessions from the peak to the recovery or the end. `peak` is None where it began with the money put in."""

    depth: float
    peak: date | None
    trough: date | None
    recovered: date | None
    sessions: int


def deepest_drawdown(series: Daily) -> Drawdown:
    """The deepest drawdown with its dates."""
    drawdown = drawdowns(growth(series.returns))
    peak, trough, end = (int(place) for place in drawdown_span(drawdown))
    if drawdown[trough] >= 0:
        return Drawdown(0.0, None, None, None, 0)
    recovered = series.days[end - 1] if drawdown[end] >= 0 else None
    began = series.days[peak - 1] if peak > 0 else None
    return Drawdown(float(drawdown[trough]), began, series.days[trough - 1], recovered, end - peak)


def monthly_returns(series: Daily) -> dict[tuple[int, int], float]:
    """Return of each calendar month by (year, month): from the last close before it to its own last."""
    found: dict[tuple[int, int], float] = {}
    before = series.start
    for place, day in enumerate(series.days):
        last = place + 1 == len(series.days) or series.days[place + 1].month != day.month
        if last:
            found[day.year, day.month] = float(series.close[place] / before - 1) if before > 0 else 0.0
            before = float(series.close[place])
    return found


def finite(value: float | np.floating | Floats | None) -> float | None:
    """A float for JSON: None for what is not finite."""
    return float(value) if value is not None and np.isfinite(value) else None


def _mean(values: Floats) -> Floats:
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return values.mean(axis=-1)


def _deviation(returns: Floats) -> Floats:
    if returns.shape[-1] < 2:
        return np.full(returns.shape[:-1], np.nan)
    return returns.std(axis=-1, ddof=1)


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below; NaN where `below` is no more than rounding."""
    known = np.abs(below) > _FLAT
    return np.where(known, above / np.where(known, below, 1.0), np.nan)
