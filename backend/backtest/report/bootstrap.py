"""How far a figure could have come out otherwise: resampled histories for the curve, resampled days for the trades."""

from dataclasses import dataclass

import numpy as np

from backend.backtest.report.metrics import curve_metrics, finite
from backend.backtest.report.series import Floats, Ints

DRAWS = 1000
_DRAWS_AT_ONCE = 250
"""So many resampled histories are held in memory at a time."""
LEVEL = 0.95
SESSIONS_LEAST = 20
"""With fewer sessions than a month has, a resampled history says nothing: no interval is given."""
CLUSTERS_LEAST = 5
"""With fewer entry days, resampling them only repeats what was seen: no interval is given."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % percentile interval; None where it does not exist."""

    value: float | None
    low: float | None = None
    high: float | None = None


def mean_block_length(returns: Floats) -> float:
    """Sessions per block: the larger of the optimal lengths for the returns and for their squares, as volatility
    remembers longer than returns do.

    Each by Politis and White (2004) as corrected by Patton, Politis and White (2009), for the stationary bootstrap.
    """
    return max(optimal_block(returns), optimal_block((returns - returns.mean()) ** 2))


def optimal_block(values: Floats) -> float:
    """The block length that suits the memory of one series, at least 1."""
    n = len(values)
    centred = values - values.mean()
    if n < 8 or centred.std() < 1e-14:
        return 1.0
    calm = max(5, int(np.ceil(np.log10(n))))
    lags = int(np.ceil(np.sqrt(n))) + calm
    covariance = np.array([(centred[: n - k] * centred[k:]).sum() / n for k in range(min(lags, n - 1) + 1)])
    small = np.abs(covariance[1:] / covariance[0]) < 2 * np.sqrt(np.log10(n) / n)
    runs = [k for k in range(len(small) - calm + 1) if small[k : k + calm].all()]
    # The lag from which `calm` autocorrelations in a row are negligible, or else the last that is not.
    reach = runs[0] + 1 if runs else int(np.max(np.flatnonzero(~small), initial=0)) + 1
    window = min(2 * reach, len(covariance) - 1)
    k = np.arange(1, window + 1)
    taper = np.minimum(1.0, 2 * (1 - k / window))
    spectral = covariance[0] + 2 * (taper * covariance[1 : window + 1]).sum()
    slope = 2 * (taper * k * covariance[1 : window + 1]).sum()
    optimal = (2 * slope**2 / max(2 * spectral**2, 1e-300)) ** (1 / 3) * n ** (1 / 3)
    return float(np.clip(optimal, 1.0, np.ceil(min(3 * np.sqrt(n), n / 3))))


def stationary_indices(draws: int, sessions: int, block: float, rng: np.random.Generator) -> Ints:
    """Resampled session numbers, shape (draws, sessions): blocks of geometric length (mean `block`) from anywhere,
    wrapped round the end (Politis and Romano 1994)."""
    opens = rng.random((draws, sessions)) < 1 / block
    opens[:, 0] = True
    place = np.arange(sessions)
    latest = np.maximum.accumulate(np.where(opens, place, 0), axis=1)
    begins = rng.integers(0, sessions, (draws, sessions))
    return (np.take_along_axis(begins, latest, axis=1) + place - latest) % sessions


def curve_estimates(
    returns: Floats, market: Floats | None, *, seed: int, draws: int = DRAWS
) -> tuple[dict[str, Estimate], float | None]:
    """Every figure of the curve with its interval, and the mean block length (None: too few sessions for either).

    The market's returns are drawn with the account's, session by session, so that alpha and beta keep their pairs.
    """
    values = curve_metrics(returns, market)
    if len(returns) < SESSIONS_LEAST:
        return {name: Estimate(finite(value)) for name, value in values.items()}, None
    rng = np.random.default_rng(seed)
    block = mean_block_length(returns)
    found: dict[str, list[Floats]] = {name: [] for name in values}
    for begun in range(0, draws, _DRAWS_AT_ONCE):
        chosen = stationary_indices(min(_DRAWS_AT_ONCE, draws - begun), len(returns), block, rng)
        resampled = curve_metrics(returns[chosen], None if market is None else market[chosen])
        for name, drawn in resampled.items():
            found[name].append(drawn)
    return {name: estimate(value, np.concatenate(found[name])) for name, value in values.items()}, block


def estimate(value: float | np.floating | Floats, drawn: Floats) -> Estimate:
    """`value` between the 2.5 % and 97.5 % percentiles of its draws; no interval where a twentieth of them do not
    exist (the others would be a chosen few)."""
    known = drawn[np.isfinite(drawn)]
    if finite(value) is None or len(known) < LEVEL * len(drawn):
        return Estimate(finite(value))
    low, high = np.percentile(known, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return Estimate(finite(value), float(low), float(high))


def cluster_counts(clusters: int, *, seed: int, draws: int = DRAWS) -> Ints:
    """How often each cluster is in each resample of as many clusters, shape (draws, clusters)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
