"""The simulated market's price model: one session forward in time, minute by minute, from that session's noise.

    log price = level + market + fundamental + deviation

`market` (common) and `fundamental` (per share) are random walks. `deviation` is what is planted: the crowd's
exaggeration, pulled back towards its mean at the rate edge × REVERSION_PER_SESSION. The size of its shocks does not
depend on the edge, so at edge 0 it is one more random walk and the price a martingale: nothing can be found in it.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from data_service.bars import Ints
from data_service.sessions import Session
from data_service.simulator.universe import Universe
from data_service.ticks import BAND_DYNAMIC_PCT, bands_paise, tick_paise

Floats = NDArray[np.float64]

GENERATOR_VERSION = 1
"""Changes whenever the same seed would give other prices; part of the noise's key and of the cache's name."""

MINUTES_USUAL = 375
MARKET_VOL = 0.005
FUNDAMENTAL_VOL = 0.006
DEVIATION_VOL = 0.016
OVERNIGHT_VOL = 0.0025
RANGE_VOL = 0.00025
REVERSION_PER_SESSION = 0.2
"""Volatilities are standard deviations of log price per usual session (RANGE_VOL: per minute)."""


@dataclass(frozen=True, slots=True)
class Noise:
    """One session's standard normal shocks: market (minutes,), the others (minutes, shares) or (shares,)."""

    market: Floats
    fundamental: Floats
    deviation: Floats
    overnight: Floats


@dataclass(frozen=True, slots=True)
class State:
    """What one session hands to the next; log units, and the last price in paise."""

    market: float
    fundamental: Floats
    deviation: Floats
    close: Ints


@dataclass(frozen=True, slots=True)
class Minutes:
    """A session's minute bars as (minutes, shares); paise and shares."""

    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints


def session_noise(seed: int, session: Session, shares: int) -> Noise:
    """The session's own random stream, so that no other day can change it."""
    stream = np.random.Generator(np.random.SFC64([GENERATOR_VERSION, seed, session.day.toordinal()]))
    minutes = session_minutes(session)
    return Noise(
        overnight=stream.standard_normal(shares),
        market=stream.standard_normal(minutes),
        fundamental=stream.standard_normal((minutes, shares)),
        deviation=stream.standard_normal((minutes, shares)),
    )


def session_minutes(session: Session) -> int:
    return (session.close_other_s - session.open_s) // 60


def u_shape(minutes: int) -> Floats:
    """Trading activity over a session, mean 1: busiest at the open, quiet at noon, busy at the close."""
    place = np.linspace(-1, 1, minutes)
    shape = 0.6 + 1.4 * place**4 + 0.8 * np.exp(-(place + 1) * 12)
    return shape / shape.mean()


def initial_state(universe: Universe) -> State:
    """The market before its first session, every price at its level."""
    zeros = np.zeros(len(universe))
    return State(0.0, zeros, zeros, universe.price_paise)


def _deviation_path(start: Floats, shocks: Floats, decay: float) -> Floats:
    """x[k] = decay × x[k-1] + shock[k] along the first axis, in closed form."""
    powers = decay ** np.arange(1, len(shocks) + 1)[:, None]
    return powers * (start + np.cumsum(shocks / powers, axis=0))


def _prices(log_price: Floats, state: State, day: date) -> tuple[Ints, Ints, Ints, Ints]:
    """Log prices in rupees to paise: (price on the tick within the bands, tick, lower band, upper band)."""
    tick = tick_paise(state.close, day)
    low, high = bands_paise(state.close, tick, BAND_DYNAMIC_PCT)
    price = np.rint(np.exp(log_price) * (100 / tick)).astype(np.int64) * tick
    return np.clip(price, low, high), tick, low, high


def simulate_session(
    universe: Universe, edge: float, session: Session, state: State, noise: Noise
) -> tuple[Minutes, State]:
    """The session's minute bars and the state after it. Pure: minute k depends on noise up to minute k only."""
    minutes = len(noise.market)
    shape = np.sqrt(u_shape(minutes))[:, None]
    per_minute = 1 / np.sqrt(MINUTES_USUAL)
    walk_drift = -0.5 * (MARKET_VOL**2 + FUNDAMENTAL_VOL**2) / MINUTES_USUAL
    deviation_drift = -0.5 * (1 - edge) * DEVIATION_VOL**2 / MINUTES_USUAL
    overnight = OVERNIGHT_VOL * noise.overnight - 0.5 * OVERNIGHT_VOL**2

    market = state.market + np.cumsum(MARKET_VOL * per_minute * shape[:, 0] * noise.market)
    fundamental = (state.fundamental + overnight) + np.cumsum(
        FUNDAMENTAL_VOL * per_minute * shape * noise.fundamental + walk_drift, axis=0
    )
    deviation_shocks = DEVIATION_VOL * per_minute * shape * noise.deviation + deviation_drift
    decay = np.exp(-edge * REVERSION_PER_SESSION / MINUTES_USUAL)
    deviation = _deviation_path(state.deviation, deviation_shocks, float(decay))

    level = np.log(universe.price_paise / 100)
    opening = level + state.market + state.fundamental + overnight + state.deviation
    path = level + market[:, None] + fundamental + deviation
    close, tick, low_band, high_band = _prices(np.vstack([opening, path]), state, session.day)
    previous, close = close[:-1], close[1:]

    reach = np.rint(RANGE_VOL * np.abs(noise.fundamental) * close / tick).astype(np.int64) * tick
    up = noise.fundamental * noise.deviation > 0
    high = np.minimum(np.maximum(previous, close) + reach * up, high_band)
    low = np.maximum(np.minimum(previous, close) - reach * ~up, low_band)
    surprise = 0.4 + 0.4 * noise.deviation**2 + 0.2 * (noise.market**2)[:, None]
    volume = np.rint(np.array(universe.volume) / MINUTES_USUAL * shape**2 * surprise).astype(np.int64)
    last = closing_rows(universe, session) - 1
    after = State(
        float(market[-1]), fundamental[-1], deviation[-1], close[last, np.arange(len(universe))].astype(np.int64)
    )
    return Minutes(previous, high, low, close, volume), after


def closing_rows(universe: Universe, session: Session) -> Ints:
    """How many minutes of continuous trading each share has in the session."""
    closes = np.where(universe.derivatives_mask, session.close_cas_s, session.close_other_s)
    return (closes - session.open_s) // 60


def daily_rows(minutes: Minutes, rows: Ints) -> dict[str, Ints]:
    """The session's daily bar per share, aggregated from its `rows` first minutes; columns (shares,)."""
    inside = np.arange(len(minutes.close))[:, None] < rows
    return {
        "open": minutes.open[0],
        "high": np.where(inside, minutes.high, 0).max(axis=0),
        "low": np.where(inside, minutes.low, np.iinfo(np.int64).max).min(axis=0),
        "close": minutes.close[rows - 1, np.arange(minutes.close.shape[1])],
        "volume": np.where(inside, minutes.volume, 0).sum(axis=0),
    }
