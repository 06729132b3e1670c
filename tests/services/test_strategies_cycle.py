"""Several strategies in real cycles: what is recorded and held, and that the stored inputs decide the same again."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, text, update

from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Product
from backend.domain.ranking import TYPICAL_ROUND_TRIP_FRACTION
from backend.domain.reasons import Reason
from backend.models import AutoTrade, AutoTradeSettings, Cycle, Decision
from backend.services.auto_trading_service import decide_all, rank_modes, run_cycle
from backend.services.corporate_action_service import settle_actions
from backend.services.cycle_service import claim_shard, open_cycle
from backend.services.decision_query_service import stored_view
from backend.services.gather_service import gather_market, gather_users
from backend.services.ml_service_client import signal_batch
from backend.services.record_service import record
from contracts.predictions import Action, PredictionsReply
from tests.support.market_server import Stock

NAMES = ("AXISBANK", "HDFCBANK", "ICICIBANK", "KOTAKBANK")


async def trades_of(trading) -> list[AutoTrade]:
    async with trading.sessions() as session:
        return list((await session.scalars(select(AutoTrade).order_by(AutoTrade.symbol, AutoTrade.id))).all())


async def reasons_of(trading) -> dict[str, str | None]:
    async with trading.sessions() as session:
        decision = (await session.scalars(select(Decision).order_by(Decision.cycle_id.desc()).limit(1))).one()
    return {outcome["symbol"]: outcome["reason"] for outcome in decision.outcomes}


def bank(trading, market) -> None:
    """Four shares that move together, the first the best."""
    for i, symbol in enumerate(NAMES):
        market.stocks[symbol] = Stock(Decimal(100), cluster="BANKS", expected=0.05 - i / 200)


async def test_the_best_strategys_proposal_is_what_is_traded_and_recorded(trading, market, make_user):
    infy = market.stocks["INFY"]
    infy.proposals = {
        "breakout": {"expected_return_net_lower": 0.02, "target": Decimal("1560.00")},
        "squeeze": {"expected_return_net_lower": 0.03, "certified_modes": ["aggressive"]},
    }
    infy.cluster = "IT"
    await make_user(symbols=("INFY",))
    await run_cycle(trading, market.now)
    (trade,) = await trades_of(trading)
    assert (trade.strategy, trade.target_price) == ("breakout", Decimal(1560))
    assert (trade.model_version, trade.logic_version, trade.cluster) == ("test", "test_v1", "IT")
    async with trading.sessions() as session:
        (decision,) = (await session.scalars(select(Decision))).all()
    assert [(o["symbol"], o["strategy"], o["reason"]) for o in decision.outcomes] == [("INFY", "breakout", None)]


async def test_a_strategy_the_user_did_not_enable_is_passed_over(trading, market, make_user, sessions):
    market.stocks["INFY"].proposals = {"breakout": {"expected_return_net_lower": 0.02}}
    user = await make_user(symbols=("INFY", "TCS"))
    async with sessions.begin() as session:
        await session.execute(
            update(AutoTradeSettings).where(AutoTradeSettings.user_id == user).values(strategies=["breakout"])
        )
    await run_cycle(trading, market.now)
    assert [(t.symbol, t.strategy) for t in await trades_of(trading)] == [("INFY", "breakout")]
    assert await reasons_of(trading) == {"INFY": None, "TCS": "strategy_not_enabled"}


async def test_no_more_than_three_trades_are_staked_on_one_movement(trading, market, make_user, sessions):
    bank(trading, market)
    await make_user(plan="enterprise", symbols=NAMES)
    trading.calendar.know(await trading.market_data.load_instruments())
    await run_cycle(trading, market.now)
    assert [t.symbol for t in await trades_of(trading)] == list(NAMES[:3])
    assert (await reasons_of(trading))[NAMES[3]] == "cluster_full"
    # What is open keeps the cluster it was entered with, whatever it moves with today.
    for symbol in NAMES[:3]:
        market.stocks[symbol].cluster = None
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert (await reasons_of(trading))[NAMES[3]] == "cluster_full"
    # A trade of before clusters were kept counts in the present one of its symbol.
    async with sessions.begin() as session:
        await session.execute(update(AutoTrade).where(AutoTrade.symbol == NAMES[0]).values(cluster=None))
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert [t.symbol for t in await trades_of(trading)] == list(NAMES)


async def test_a_full_cluster_delays_no_exit(trading, market, make_user):
    bank(trading, market)
    await make_user(plan="enterprise", symbols=NAMES)
    trading.calendar.know(await trading.market_data.load_instruments())
    await run_cycle(trading, market.now)
    market.stocks[NAMES[0]].last = Decimal(90)
    market.now += timedelta(minutes=1)
    report = await run_cycle(trading, market.now)
    assert report.exits == 1
    left = (await trades_of(trading))[0]
    assert (left.status, left.exit_reason) == (TradeStatus.CLOSED, ExitReason.STOP)
    market.now += timedelta(minutes=1)
    await run_cycle(trading, market.now)
    assert [t.symbol for t in await trades_of(trading)] == list(NAMES)


async def test_two_cycles_that_overlap_do_not_fill_a_cluster_twice(trading, market, make_user):
    """The second decides before the first has recorded; it must still see what that one took."""
    bank(trading, market)
    await make_user(plan="enterprise", symbols=NAMES)
    trading.calendar.know(await trading.market_data.load_instruments())
    await settle_actions(trading, market.now)

    async def decided(at):
        view = (await gather_market(trading, market.now)).view
        cycle = await open_cycle(trading, at)
        claims = [claim for _ in range(2) if (claim := await claim_shard(trading, cycle.id))]
        users = [await gather_users(trading, claim.shard, claim.shards, view) for claim in claims]
        rankings = rank_modes(view, trading.rules.limits)
        decisions = [decide_all(view, rankings, some, trading.rules.limits) for some in users]
        async with trading.sessions.begin() as session:
            await session.execute(text("UPDATE cycle_shards SET claimed_until = clock_timestamp() - interval '1 s'"))
        return at, view.today, list(zip(claims, decisions, strict=True))

    first = await decided(market.now)
    for symbol in NAMES[:3]:
        market.stocks[symbol].action = Action.HOLD
    second = await decided(market.now.replace(minute=1))
    recorded = []
    for at, today, work in (first, second):
        for claim, decisions in work:
            recorded += [r.approved.order.symbol for r in await record(trading, claim, at, at, today, decisions)]
    assert recorded == list(NAMES[:3])
    outcomes = [outcome for _, decisions in second[2] for d in decisions for outcome in d.outcomes]
    assert [(o.symbol, o.strategy, o.reason) for o in outcomes] == [(NAMES[3], "test_v1", Reason.CLUSTER_FULL)]


async def test_an_intraday_proposal_is_for_intraday_users_and_ends_today(trading, market, make_user):
    for stock in market.stocks.values():
        stock.action = Action.HOLD
        stock.proposals = {"opening": {"action": Action.BUY, "intraday": True, "horizon_sessions": 1}}
    await make_user("asha", product=Product.MIS, symbols=("INFY",))
    await make_user("ravi", product=Product.CNC, symbols=("TCS",))
    await run_cycle(trading, market.now)
    (trade,) = await trades_of(trading)
    assert (trade.symbol, trade.product, trade.horizon_ends_on) == ("INFY", Product.MIS, date(2024, 3, 18))
    async with trading.sessions() as session:
        told = [o for decision in (await session.scalars(select(Decision))).all() for o in decision.outcomes]
    assert {o["symbol"]: o["reason"] for o in told} == {"INFY": None, "TCS": "intraday_only"}


@pytest.mark.parametrize("what", ["expired", "held", "uncertified", "reply"])
async def test_what_may_not_be_traded_on_is_not(trading, market, make_user, what):
    for stock in market.stocks.values():
        stock.valid_until = market.now if what == "expired" else stock.valid_until
        stock.certified = () if what == "uncertified" else stock.certified
    market.held_modes = {"moderate": "drifted"} if what == "held" else {}
    market.reply_modes = ("aggressive",) if what == "reply" else market.reply_modes
    await make_user()
    report = await run_cycle(trading, market.now)
    assert (report.entries, report.candidates.get("moderate")) == (0, None)
    assert report.rejected["prediction_expired" if what == "expired" else "mode_not_certified"] >= 2


async def test_the_stored_inputs_decide_the_same_again(trading, market, make_user):
    """The ranking of every mode out of the cycle's row is, pair by pair and number by number, the one that was used."""
    market.stocks["INFY"].proposals = {
        "breakout": {"expected_return_net_lower": 0.02, "cluster": "IT"},
        "squeeze": {"certified_modes": ["aggressive"], "intraday": True, "valid_until": market.now},
    }
    market.stocks["TCS"].certified = ("aggressive",)
    market.held_modes = {"conservative": "drifted"}
    await make_user()
    inputs = await gather_market(trading, market.now)
    await run_cycle(trading, market.now)
    query = """SELECT inputs ->> 'now' AS market_now, inputs -> 'quotes' -> 'quotes' AS quotes,
                      inputs -> 'predictions' -> 'predictions' AS predictions,
                      inputs -> 'predictions' -> 'candidates' AS candidates,
                      (inputs -> 'predictions') - 'predictions' - 'candidates' AS reply FROM cycles"""
    async with trading.sessions() as session:
        row = (await session.execute(text(query))).one()
    view = stored_view(trading, row, sorted(market.stocks))
    live, again = rank_modes(inputs.view, trading.rules.limits), rank_modes(view, trading.rules.limits)
    assert again == live
    assert {mode.value: len(ranking.candidates) for mode, ranking in live.items()} == {
        "conservative": 1,
        "moderate": 2,
        "aggressive": 3,
    }


async def test_a_prediction_of_before_they_named_their_modes_has_its_replys(trading, market, make_user):
    await make_user()
    inputs = await gather_market(trading, market.now)
    told = inputs.stored()["predictions"]
    for prediction in told["predictions"].values():
        del prediction["certified_modes"]
    signals = signal_batch(PredictionsReply.model_validate(told)).signals
    assert {mode.value for mode in signals["INFY"].certified_modes} == {"conservative", "moderate", "aggressive"}
    # What was not told is stored as not told, and reads the same again.
    stored = replace(inputs, predictions=PredictionsReply.model_validate(told)).stored()["predictions"]
    assert "certified_modes" not in stored["predictions"]["INFY"]


@pytest.mark.parametrize(
    ("changes", "contained"),
    [
        ({}, Decimal("0.0025")),
        ({"expected_return_gross": None}, TYPICAL_ROUND_TRIP_FRACTION),
        ({"expected_return_gross": 0.02}, Decimal(0)),
    ],
)
async def test_the_charges_in_a_net_return_are_what_its_gross_one_has_more(
    trading, market, make_user, changes, contained
):
    market.stocks["INFY"].proposals = {"breakout": changes}
    await make_user(symbols=("INFY",))
    (signal,) = (await gather_market(trading, market.now)).view.proposals["INFY"]
    assert signal.cost_fraction == contained


async def test_a_strategy_that_cannot_be_recorded_trades_nothing_and_stops_nobody(trading, market, make_user):
    market.stocks["INFY"].proposals = {"x" * 41: {"expected_return_net_lower": 0.029}}
    await make_user()
    report = await run_cycle(trading, market.now)
    assert report.entries == 2
    assert {t.strategy for t in await trades_of(trading)} == {"test_v1"}


async def test_users_are_gathered_with_their_strategies_and_their_trades_clusters(trading, market, make_user, sessions):
    market.stocks["INFY"].cluster = "IT"
    user = await make_user(symbols=("INFY",))
    async with sessions.begin() as session:
        await session.execute(
            update(AutoTradeSettings).where(AutoTradeSettings.user_id == user).values(strategies=["test_v1", "b"])
        )
    await run_cycle(trading, market.now)
    (gathered,) = await gather_users(trading, 0, 1, (await gather_market(trading, market.now)).view)
    assert gathered.strategies == frozenset({"test_v1", "b"})
    assert [trade.cluster for trade in gathered.open_trades] == ["IT"]
    async with sessions() as session:
        cycle = (await session.scalars(select(Cycle))).one()
    assert cycle.inputs["predictions"]["predictions"]["INFY"]["cluster"] == "IT"
