"""What is traded on answers the question that was asked: of this market, this instant and the last finished session."""

from datetime import date, datetime, timedelta
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import select

from backend.domain.calendar import IST, standard_calendar
from backend.domain.decide import ExitReason
from backend.domain.reasons import Reason
from backend.errors import UpstreamError
from backend.models import AutoTrade
from backend.services import market_data_client
from backend.services.auto_trading_service import run_cycle
from backend.services.gather_service import gather_market
from backend.services.market_calendar import MarketCalendar
from backend.services.ml_service_client import MlServiceClient, SignalBatch
from contracts.common import Environment
from contracts.predictions import Action
from tests.support.market_server import Market
from tests.support.upstream_server import Reply, UpstreamServer, as_json

# The test's market is on Monday, 18 March 2024.
FRIDAY = date(2024, 3, 15)


@pytest.mark.parametrize("through", [FRIDAY - timedelta(days=1), FRIDAY + timedelta(days=3), date(2023, 3, 15)])
async def test_what_does_not_know_the_last_session_is_not_traded_on(trading, market, make_user, through):
    market.stocks["INFY"].proposals = {"breakout": {}}
    await make_user()
    market.features_through = through
    report = await run_cycle(trading, market.now)
    assert (report.entries, report.rejected["model_abstained"]) == (0, 6)
    market.features_through, market.now = FRIDAY, market.now + timedelta(minutes=1)
    assert (await run_cycle(trading, market.now)).entries == 2


async def test_what_does_not_know_the_last_session_leaves_nothing(trading, market, make_user):
    await make_user(symbols=("INFY",))
    assert (await run_cycle(trading, market.now)).entries == 1
    market.stocks["INFY"].action = Action.SELL
    for through, exits in ((FRIDAY - timedelta(days=1), 0), (FRIDAY, 1)):
        market.features_through, market.now = through, market.now + timedelta(minutes=1)
        assert (await run_cycle(trading, market.now)).exits == exits
    async with trading.sessions() as session:
        assert (await session.scalars(select(AutoTrade.exit_reason))).one() is ExitReason.OPPOSITE_SIGNAL


async def test_after_a_session_its_own_bar_must_be_known(trading, market, make_user):
    await make_user()
    market.now = market.now.replace(hour=15, minute=31)
    for through, abstained in ((FRIDAY, ("stale_bars",)), (market.now.date(), ())):
        market.features_through = through
        assert (await gather_market(trading, market.now)).view.signals["INFY"].abstained == abstained


def test_the_last_finished_session_is_the_calendars(market) -> None:
    calendar = MarketCalendar(standard_calendar())
    for now, finished in (
        (market.now, FRIDAY),
        (market.now.replace(hour=15, minute=29, second=59), FRIDAY),
        (market.now.replace(hour=15, minute=30), market.now.date()),
        (market.now - timedelta(days=1), FRIDAY),
        # Monday 25 and Friday 29 March were holidays.
        (market.now.replace(day=26), date(2024, 3, 22)),
        (market.now.replace(month=4, day=1), date(2024, 3, 28)),
        # Nothing is known of the sessions before the first recorded year.
        (market.now.replace(year=2019, month=1, day=1, hour=9), None),
    ):
        assert calendar.last_finished(now.astimezone(IST)) == finished


async def test_another_markets_prediction_is_a_problem_and_no_signal(trading, market, make_user):
    await make_user()
    market.predicted_for = Environment.PAPER
    report = await run_cycle(trading, market.now)
    assert (report.entries, report.rejected) == (0, {Reason.NO_PREDICTION: 6})
    assert "paper" in report.problems["predictions"]


class Each(dict[str, Reply]):
    """A new reply at every question, whatever its path."""

    def __init__(self, replies: list[dict[str, Any]]) -> None:
        super().__init__()
        self._waiting = iter(replies)

    def get(self, key: str, default: Any = None) -> Any:
        return as_json(next(self._waiting))


async def asked(replies: list[dict[str, Any]], now: datetime, monkeypatch: pytest.MonkeyPatch) -> SignalBatch:
    """What the client makes of one reply per part, one symbol to a part."""
    monkeypatch.setattr(market_data_client, "SYMBOLS_PER_REQUEST_MAX", 1)
    async with UpstreamServer() as server, httpx.AsyncClient(transport=AiohttpTransport()) as http:
        server.replies = Each(replies)
        symbols = [f"S{i}" for i in range(len(replies))]
        return await MlServiceClient(http, server.url, 5).predictions(symbols, now, 10, Environment.SIMULATED)


def reply_of(market: Market, **changes: object) -> dict[str, Any]:
    told = {"environment": "simulated", "as_of": market.now.isoformat(), "model_version": "a", "logic_version": "1"}
    return told | {"trained_through": "2024-01-31", "features_through": "2024-03-15", "predictions": {}} | changes


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"environment": "live"}, "live market"),
        ({"as_of": "2019-01-01T10:00:00+05:30"}, "as of 2019"),
        ({"model_version": "b"}, "changed"),
        ({"features_through": "2024-03-14"}, "changed"),
    ],
)
async def test_parts_that_do_not_belong_together_are_no_answer(market, monkeypatch, changes, why):
    same = reply_of(market)
    assert await asked([same, same], market.now, monkeypatch)
    with pytest.raises(UpstreamError, match=why):
        await asked([same, same | changes], market.now, monkeypatch)


async def test_a_trade_names_the_model_that_proposed_it(trading, market, make_user):
    market.stocks["INFY"].proposals = {
        "breakout": {"expected_return_net_lower": 0.02, "model_version": "other", "logic_version": "other_v1"}
    }
    await make_user()
    await run_cycle(trading, market.now)
    async with trading.sessions() as session:
        trades = (await session.scalars(select(AutoTrade).order_by(AutoTrade.symbol))).all()
    assert [(t.symbol, t.model_version, t.logic_version) for t in trades] == [
        ("INFY", "other", "other_v1"),
        ("TCS", "test", "test_v1"),
    ]
