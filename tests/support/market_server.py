"""A real HTTP server on loopback that speaks data_service's and ml_service's contracts, with a market the test sets."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Response

from backend.domain.calendar import IST, standard_calendar
from contracts.common import Environment
from contracts.market import (
    ActionsReply,
    BarColumns,
    BarsReply,
    BarsRequest,
    ClockReply,
    CorporateAction,
    Instrument,
    InstrumentsReply,
    Interval,
    Quote,
    QuotesReply,
    QuotesRequest,
)
from contracts.predictions import Action, Prediction, PredictionsReply, PredictionsRequest, TouchProbability
from tests.support import model_server
from tests.support.model_server import MODES, Models

TICK = Decimal("0.05")
LEVELS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.035)


@dataclass
class Stock:
    """One stock as the test sets it: last price, shares of the last minute, what the model says; bars of a minute,
    the closes of days gone by, and when it last traded (None: just now)."""

    last: Decimal
    bar_volume: int = 100_000
    action: Action = Action.BUY
    touch: float = 0.85
    expected: float = 0.03
    reference: Decimal | None = None
    reasons: tuple[str, ...] = ()
    bars: list[tuple[datetime, Decimal, Decimal, Decimal, Decimal, int]] = field(default_factory=list)
    closes: dict[date, Decimal] = field(default_factory=dict)
    as_of: datetime | None = None
    certified: tuple[str, ...] = MODES
    cluster: str | None = None
    valid_until: datetime | None = None
    proposals: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What other strategies propose: each one's changes to the prediction above."""


@dataclass
class Market:
    """The market behind the server; tests change it between ticks."""

    now: datetime
    stocks: dict[str, Stock]
    quotes_down: bool = False
    predictions_down: bool = False
    predicted_for: Environment = Environment.SIMULATED
    features_through: date | None = None
    """The last session the predictions know; None: that before the day of the question."""
    held_modes: dict[str, str] = field(default_factory=dict)
    reply_modes: tuple[str, ...] = MODES
    models: Models = field(default_factory=Models)
    actions: list[CorporateAction] = field(default_factory=list)
    actions_down: bool = False
    target_fraction: Decimal = Decimal("0.03")
    stop_fraction: Decimal = Decimal("0.06")
    data_through: date | None = None


def quote_of(symbol: str, stock: Stock, as_of: datetime) -> Quote:
    minute = as_of.replace(second=0, microsecond=0)
    close = stock.last
    return Quote(
        symbol=symbol,
        as_of=stock.as_of or as_of,
        age_s=0.0 if stock.as_of is None else (as_of - stock.as_of).total_seconds(),
        source="test",
        last=close,
        bid=close - TICK,
        ask=close + TICK,
        open=close,
        high=close,
        low=close,
        previous_close=close,
        volume=stock.bar_volume,
        lower_band=close * Decimal("0.9"),
        upper_band=close * Decimal("1.1"),
        bar_start=minute - timedelta(minutes=1),
        bar_end=minute,
        bar_open=close,
        bar_high=close,
        bar_low=close,
        bar_close=close,
        bar_volume=stock.bar_volume,
    )


def daily_bars(stock: Stock, asked: BarsRequest) -> BarColumns:
    """The closes of days that are over, as bars that never moved."""
    days = sorted(d for d in stock.closes if asked.from_ <= d <= asked.through)
    over = [d for d in days if datetime.combine(d, time(15, 30), tzinfo=IST) <= asked.as_of]
    closes = [stock.closes[d] for d in over]
    starts = [datetime.combine(d, time(9, 15), tzinfo=IST).astimezone(UTC) for d in over]
    return BarColumns(start=starts, open=closes, high=closes, low=closes, close=closes, volume=[1] * len(over))


def prediction_of(symbol: str, stock: Stock, horizon: int, market: Market) -> Prediction:
    reference = stock.reference or stock.last
    return Prediction(
        symbol=symbol,
        action=stock.action,
        strategy="test_v1",
        horizon_sessions=horizon,
        confidence=stock.touch,
        expected_return_gross=stock.expected + 0.0025,
        expected_return_net=stock.expected,
        expected_return_net_lower=stock.expected / 2,
        touch=[TouchProbability(net_return=level, probability=stock.touch) for level in LEVELS],
        reference_close=reference,
        target=(reference * (1 + market.target_fraction)).quantize(TICK),
        stop=(reference * (1 - market.stop_fraction)).quantize(TICK),
        reasons=list(stock.reasons),
        certified_modes=list(stock.certified),
        cluster=stock.cluster,
        valid_until=stock.valid_until or (market.now + timedelta(days=1)).replace(hour=0, minute=0),
    )


def create_app(market: Market) -> FastAPI:
    app = FastAPI()
    model_server.install(app, market.models)

    @app.get("/v1/clock")
    def clock() -> ClockReply:
        return ClockReply(
            environment=Environment.SIMULATED, now=market.now, speed=1.0, data_through=market.data_through
        )

    @app.get("/v1/instruments")
    def instruments() -> InstrumentsReply:
        known = [
            Instrument(symbol=symbol, name=symbol, tick_size_rupees=TICK, has_derivatives=True)
            for symbol in market.stocks
        ]
        return InstrumentsReply(environment=Environment.SIMULATED, as_of=market.now, instruments=known)

    @app.post("/v1/quotes", response_model=None)
    def quotes(body: QuotesRequest) -> QuotesReply | Response:
        if market.quotes_down:
            return Response("garbage", 503)
        as_of = body.as_of or market.now
        found = {s: quote_of(s, market.stocks[s], as_of) for s in body.symbols if s in market.stocks}
        return QuotesReply(environment=Environment.SIMULATED, as_of=as_of, quotes=found)

    @app.get("/v1/actions", response_model=None)
    def actions(from_: Annotated[date, Query(alias="from")], through: date, as_of: datetime) -> ActionsReply | Response:
        if market.actions_down:
            return Response("garbage", 503)
        known = [
            a for a in market.actions if from_ <= a.ex_date <= through and a.known_on <= as_of.astimezone(IST).date()
        ]
        return ActionsReply(environment=Environment.SIMULATED, as_of=as_of, actions=known)

    @app.post("/v1/bars")
    def bars(body: BarsRequest) -> BarsReply:
        series = {}
        for symbol in body.symbols:
            if body.interval is Interval.DAY_1:
                series[symbol] = daily_bars(market.stocks[symbol], body)
                continue
            ended = [b for b in market.stocks[symbol].bars if b[0] + timedelta(minutes=1) <= body.as_of]
            start, opened, high, low, close, volume = (list(c) for c in zip(*ended, strict=True)) if ended else [[]] * 6
            series[symbol] = BarColumns(start=start, open=opened, high=high, low=low, close=close, volume=volume)
        return BarsReply(
            environment=Environment.SIMULATED,
            as_of=body.as_of,
            provider="test",
            interval=body.interval,
            adjusted=body.adjusted,
            series=series,
        )

    @app.post("/v1/predictions", response_model=None)
    def predictions(body: PredictionsRequest) -> PredictionsReply | Response:
        if market.predictions_down:
            return Response("garbage", 503)
        found = {
            s: prediction_of(s, market.stocks[s], body.horizon_sessions, market)
            for s in body.symbols
            if s in market.stocks
        }
        return PredictionsReply(
            environment=market.predicted_for,
            as_of=body.as_of,
            model_version="test",
            logic_version="test_v1",
            trained_through=None,
            features_through=market.features_through
            or standard_calendar().previous_session_day(body.as_of.astimezone(IST).date()),
            certified_modes=list(market.reply_modes),
            held_modes=market.held_modes,
            predictions=found,
            candidates={
                symbol: [
                    found[symbol].model_copy(update={"strategy": name} | changes) for name, changes in other.items()
                ]
                for symbol in found
                if (other := market.stocks[symbol].proposals)
            },
        )

    return app


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an app on a free loopback port in a thread of its own; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        # The socket listens already: a request that comes before the server is up waits in its backlog.
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
