"""A real order needs the deployment's, the plan's and compliance's, and the user's switch; else none goes out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text

from backend.domain.orders import Intent, OrderState
from backend.domain.reasons import Reason
from backend.models import ComplianceKind, ComplianceRecord, LivePermission
from backend.services.auto_trading_service import run_cycle
from contracts.common import Environment
from tests.support.broker_book import Mode
from tests.support.http_broker import HttpBroker
from tests.support.send_desk import SendDesk, open_send_desk


@pytest.fixture
async def desk(trading, market):
    async with open_send_desk(trading, market) as desk:
        desk.trading.brokers["http"].real_money = True
        await desk.behave(Mode.REST)
        yield desk


@dataclass(frozen=True)
class Switches:
    """What makes up the plan's and compliance's switch, and the user's."""

    planned: bool
    approved: bool
    confirmed: bool


def deployed(desk: SendDesk, environment: Environment, live_trading: bool) -> None:
    rules = replace(desk.trading.rules, environment=environment, live_trading=live_trading)
    desk.market.predicted_for = environment
    desk.trading = replace(desk.trading, rules=rules)


def record_for(user_id: int, today: date, **changes: Any) -> ComplianceRecord:
    """A compliance record that holds today and not a day longer."""
    values = {
        "user_id": user_id,
        "kind": ComplianceKind.SELF_HOSTED_FAMILY,
        "broker": HttpBroker.name,
        "algo_id": "ALGO1",
        "egress_ip": "192.0.2.7",
        "approval": "KYC 7",
        "approved_on": today,
        "valid_from": today,
        "valid_until": today,
        "recorded_by": user_id,
    }
    return ComplianceRecord(**(values | changes))


async def everyone(desk: SendDesk, make_user, owner, sessions) -> Mapping[int, Switches]:
    """One user for each setting of the switches, by account; pro sells live orders here, basic does not."""
    async with owner.begin() as connection:
        await connection.execute(
            text("UPDATE plans SET features = array_remove(features, 'live') WHERE code = 'basic'")
        )
    users: dict[int, Switches] = {}
    for n, switches in enumerate(Switches(*on) for on in product([False, True], repeat=3)):
        user_id = await make_user(f"user{n}", plan="pro" if switches.planned else "basic", symbols=("INFY",))
        users[await desk.account(user_id)] = switches
        async with desk.trading.sessions.begin() as session:
            session.add(LivePermission(user_id=user_id, confirmed_at=desk.market.now if switches.confirmed else None))
        if switches.approved:
            async with sessions.begin() as session:
                session.add(record_for(user_id, desk.market.now.date()))
    return users


@pytest.mark.parametrize(
    ("environment", "live_trading"),
    [(Environment.LIVE, False), (Environment.PAPER, True), (Environment.SIMULATED, True)],
)
async def test_without_the_deployments_switch_nobody_trades_real_money(
    desk, make_user, owner, sessions, environment, live_trading
) -> None:
    await everyone(desk, make_user, owner, sessions)
    deployed(desk, environment, live_trading)
    await run_cycle(desk.trading, desk.market.now)
    assert await desk.arrivals() == 0
    assert {order.denied_reason for order in await desk.orders()} == {Reason.LIVE_SWITCH_OFF}


async def test_only_who_has_every_switch_on_trades_real_money(desk, make_user, owner, sessions) -> None:
    users = await everyone(desk, make_user, owner, sessions)
    no_permission = await desk.account(await make_user("without", symbols=("INFY",)))
    deployed(desk, Environment.LIVE, True)
    await run_cycle(desk.trading, desk.market.now)
    orders = {order.account_id: order for order in await desk.orders()}
    assert orders.keys() == users.keys() | {no_permission}
    (allowed,) = [account_id for account_id, switches in users.items() if switches == Switches(True, True, True)]
    assert [arrival["account"] for arrival in (await desk.truth())["arrivals"]] == [allowed]
    assert orders.pop(allowed).state is OrderState.ACCEPTED
    assert {order.denied_reason for order in orders.values()} == {Reason.LIVE_SWITCH_OFF}
    assert {order.environment for order in orders.values()} == {"live"}


async def test_a_switch_that_goes_off_stops_the_next_order(desk, make_user, owner, sessions) -> None:
    users = await everyone(desk, make_user, owner, sessions)
    deployed(desk, Environment.LIVE, True)
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE live_permissions SET confirmed_at = NULL"))
    await run_cycle(desk.trading, desk.market.now)
    assert await desk.arrivals() == 0
    desk.market.now += timedelta(minutes=1)
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE live_permissions SET confirmed_at = now()"))
    await run_cycle(desk.trading, desk.market.now)
    allowed = {account_id for account_id, switches in users.items() if switches.planned and switches.approved}
    assert {arrival["account"] for arrival in (await desk.truth())["arrivals"]} == allowed


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("changed", "sent"),
    [
        ({}, True),
        ({"valid_from": -1, "valid_until": 1}, True),
        ({"valid_from": 1, "valid_until": 2}, False),
        ({"valid_from": -2, "valid_until": -1}, False),
        ({"revoked": True}, False),
        ({"broker": "zerodha"}, False),
    ],
)
async def test_a_record_counts_on_its_days_for_its_broker_until_it_is_revoked(
    desk, make_user, sessions, changed, sent
) -> None:
    user_id = await make_user("asha", symbols=("INFY",))
    await desk.account(user_id)
    today = desk.market.now.date()
    values = {name: today + value * DAY for name, value in changed.items() if name.startswith("valid")}
    values |= {"broker": changed["broker"]} if "broker" in changed else {}
    if "revoked" in changed:
        values |= {"revoked_at": desk.market.now, "revoked_by": user_id, "revoke_reason": "withdrawn"}
    async with sessions.begin() as session:
        session.add(LivePermission(user_id=user_id, confirmed_at=desk.market.now))
        session.add(record_for(user_id, today, **values))
    deployed(desk, Environment.LIVE, True)
    await run_cycle(desk.trading, desk.market.now)
    assert await desk.arrivals() == int(sent)


@pytest.mark.parametrize(
    ("change", "sold"),
    [
        ("UPDATE plans SET features = array_remove(features, 'live')", True),
        ("UPDATE compliance_records SET valid_from = valid_from - 9, valid_until = valid_until - 9", True),
        ("UPDATE live_permissions SET confirmed_at = NULL", True),
        ("UPDATE compliance_records SET revoked_at = now(), revoked_by = user_id", False),
    ],
    ids=["plan", "lapsed", "withdrawn", "revoked"],
)
async def test_what_went_off_bars_no_exit_but_for_a_record_that_was_revoked(
    desk, make_user, owner, sessions, change, sold
) -> None:
    """Stops protect what was bought while all was on; after a revocation the order itself is no longer lawful."""
    await desk.behave(Mode.ACCEPT)
    user_id = await make_user("asha", symbols=("INFY",))
    await desk.account(user_id)
    async with sessions.begin() as session:
        session.add(LivePermission(user_id=user_id, confirmed_at=desk.market.now))
        session.add(record_for(user_id, desk.market.now.date()))
    deployed(desk, Environment.LIVE, True)
    await run_cycle(desk.trading, desk.market.now)
    (bought,) = await desk.orders()
    assert bought.state is OrderState.FILLED
    async with owner.begin() as connection:
        await connection.execute(text(change))
    desk.market.stocks["INFY"].last *= Decimal("1.04")
    desk.market.now += timedelta(minutes=1)
    await run_cycle(desk.trading, desk.market.now)
    orders = await desk.orders()
    state = OrderState.FILLED if sold else OrderState.DENIED
    assert [(order.intent, order.state) for order in orders][1:] == [(Intent.EXIT, state)]
