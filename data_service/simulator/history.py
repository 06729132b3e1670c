"""The simulated market's whole history: daily bars and the state before every session, generated once and cached."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import structlog

from data_service.bars import Ints
from data_service.files import write_atomically
from data_service.sessions import Session, Sessions
from data_service.simulator import model
from data_service.simulator.model import Floats, Noise, State, closing_rows, daily_rows, simulate_session
from data_service.simulator.universe import Universe

log = structlog.get_logger(__name__)

NoiseSource = Callable[[int, Session, int], Noise]
"""(seed, session, number of shares) to the session's shocks."""

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class History:
    """Daily bars and the states sessions began with, as (sessions, shares) arrays; `market` is (sessions,)."""

    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    market: Floats
    fundamental: Floats
    deviation: Floats
    previous_close: Ints

    def state_before(self, index: int) -> State:
        """The state in which session number `index` began."""
        return State(
            float(self.market[index]), self.fundamental[index], self.deviation[index], self.previous_close[index]
        )


COLUMNS = tuple(field.name for field in fields(History))


def generate(universe: Universe, sessions: Sessions, seed: int, edge: float, noise: NoiseSource) -> History:
    """Every session in order, forward in time."""
    columns: dict[str, list[Ints | Floats | float]] = {name: [] for name in COLUMNS}
    state = model.initial_state(universe)
    for session in sessions.all:
        shocks = noise(seed, session, len(universe))
        minutes, after = simulate_session(universe, edge, session, state, shocks)
        before = {
            "market": state.market,
            "fundamental": state.fundamental,
            "deviation": state.deviation,
            "previous_close": state.close,
        }
        for name, row in {**before, **daily_rows(minutes, closing_rows(universe, session))}.items():
            columns[name].append(row)
        state = after
    return History(**{name: np.array(rows) for name, rows in columns.items()})


def cache_key(universe: Universe, sessions: Sessions, seed: int, edge: float) -> str:
    """Names everything the history depends on."""
    parts = repr((model.GENERATOR_VERSION, seed, edge, universe, sessions.all))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _encoded(history: History) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(history, name) for name in COLUMNS})
    payload = buffer.getvalue()
    return hashlib.sha256(payload).digest() + payload


def _decoded(content: bytes) -> History | None:
    digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        return History(**{name: arrays[name] for name in COLUMNS})


def load_or_generate(
    folder: Path, universe: Universe, sessions: Sessions, seed: int, edge: float, noise: NoiseSource
) -> History:
    """The cached history of this market, or a newly generated one; a damaged cache is rebuilt. Raises OSError."""
    path = folder / f"history-{cache_key(universe, sessions, seed, edge)}.npz"
    if path.exists():
        history = _decoded(path.read_bytes())
        if history:
            return history
        log.warning("simulated_history_damaged", path=str(path), action="generating it again")
    history = generate(universe, sessions, seed, edge, noise)
    write_atomically(path, _encoded(history))
    return history
