"""ml_service's contract on loopback with planted predictions, the same whether a replay or a backtest asks for them.

What it says of a share on a day follows from their names alone: it buys and sells often, with near stops and targets,
so that a few days of real bars hold every kind of trade. It knows nothing; it is there to be traded on.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import uvicorn
from fastapi import FastAPI

from backend.domain.calendar import IST, standard_calendar
from contracts.common import Environment
from contracts.predictions import (
    Action,
    Prediction,
    PredictionHistoryReply,
    PredictionHistoryRequest,
    PredictionsReply,
    PredictionsRequest,
    SessionPredictions,
    TouchProbability,
)

TICK = Decimal("0.05")
VERSION, LOGIC = "planted", "planted_v1"
MODES = ["conservative", "moderate", "aggressive"]


def _draw(symbol: str, day: date, what: str) -> float:
    """Between 0 and 1, the same for the same question."""
    digest = hashlib.blake2b(f"{symbol}|{day}|{what}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def _on_tick(price: Decimal) -> Decimal:
    return price // TICK * TICK


@dataclass
class Planted:
    """`closes`: by symbol, the close of each session in rupees."""

    closes: Mapping[str, Mapping[date, Decimal]]

    def prediction(self, symbol: str, before: date) -> Prediction | None:
        """What is said in the session after `before`; None where the share did not trade on that day."""
        close = self.closes.get(symbol, {}).get(before)
        if close is None:
            return None
        draw = _draw(symbol, before, "action")
        action = Action.BUY if draw < 0.6 else Action.SELL if draw < 0.75 else Action.HOLD
        reach = Decimal(str(round(0.004 + 0.012 * _draw(symbol, before, "reach"), 4)))
        net = round(0.021 + 0.02 * _draw(symbol, before, "net"), 4)
        return Prediction(
            symbol=symbol,
            action=action,
            strategy="planted",
            horizon_sessions=1 + int(3 * _draw(symbol, before, "horizon")),
            confidence=0.6,
            expected_return_gross=net + 0.0035,
            expected_return_net=net,
            expected_return_net_lower=round(0.001 + 0.02 * _draw(symbol, before, "lower"), 4),
            touch=[TouchProbability(net_return=level, probability=0.97) for level in (0.0, 0.01, 0.015, 0.02, 0.06)],
            reference_close=_on_tick(close),
            target=_on_tick(close * (1 + reach)),
            stop=_on_tick(close * (1 - reach)),
            certified_modes=MODES,
            cluster=f"c{int(3 * _draw(symbol, before, 'cluster'))}" if draw < 0.3 else None,
            valid_until=datetime(2100, 1, 1, tzinfo=UTC),
        )

    def reply(self, asked: PredictionsRequest) -> PredictionsReply:
        before = standard_calendar().previous_session_day(asked.as_of.astimezone(IST).date())
        said = {symbol: self.prediction(symbol, before) for symbol in asked.symbols}
        return PredictionsReply(
            environment=Environment.PAPER,
            as_of=asked.as_of,
            model_version=VERSION,
            logic_version=LOGIC,
            trained_through=before - timedelta(days=1),
            features_through=before,
            certified_modes=MODES,
            predictions={symbol: each for symbol, each in said.items() if each is not None},
        )

    def history(self, asked: PredictionHistoryRequest) -> PredictionHistoryReply:
        sessions: list[SessionPredictions] = []
        for day in standard_calendar().sessions_between(asked.from_, asked.through):
            before = standard_calendar().previous_session_day(day)
            said = {symbol: self.prediction(symbol, before) for symbol in asked.symbols}
            acted = {s: each for s, each in said.items() if each is not None and each.action is not Action.HOLD}
            sessions.append(
                SessionPredictions(
                    day=day,
                    features_through=before,
                    model_version=VERSION,
                    logic_version=LOGIC,
                    trained_through=before - timedelta(days=1),
                    predictions=acted,
                    idle={"hold": len(said) - len(acted)},
                )
            )
        return PredictionHistoryReply(
            environment=Environment.PAPER, as_of=asked.as_of, model=asked.model, sessions=sessions
        )


@contextlib.contextmanager
def planted_server(closes: Mapping[str, Mapping[date, Decimal]]) -> Iterator[str]:
    """A server of planted predictions while the block runs; its address."""
    planted, app = Planted(closes), FastAPI()
    app.post("/v1/predictions")(planted.reply)
    app.post("/v1/predictions/history")(planted.history)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
