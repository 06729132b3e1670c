"""The misbehaving broker again, on Kite's wire: what is lost, late, cut or doubled between Zerodha and us doubles
nothing, loses nothing and hides nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from backend.brokers.base import OrderRequest
from backend.domain.orders import OrderState
from backend.domain.reconcile import LookupRules
from backend.models import BrokerAccount, DailyUsage, Order
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.position_service import watch_positions
from backend.services.reconcile_service import reconcile
from tests.crash.checks import breaches, gather
from tests.support.broker_book import Mode
from tests.support.broker_server import serving
from tests.support.fault_proxy import PASS, FaultProxy, Faults
from tests.support.kite_routes import ZerodhaDesk, as_kite_tells, create_app
from tests.support.market_server import Market

HUNG_S, SILENT_S, PATIENT_S = 0.3, 1.5, 10.0
LOOKS_MAX = 8
SOON = LookupRules(from_s=1.0, every_s=1.0, count_max=2)


class AtPlace(ZerodhaDesk):
    """Lets something happen right before an order is written: after all that was read for it."""

    happens: Callable[[int], Awaitable[None]] | None = None

    async def place(self, account_id: int, order: OrderRequest) -> str:
        if self.happens is not None:
            await self.happens(account_id)
        return await super().place(account_id, order)


@dataclass
class Desk:
    trading: Trading
    market: Market
    http: httpx.AsyncClient
    url: str
    proxy: FaultProxy
    broker: AtPlace
    make_user: Callable[..., Awaitable[int]]

    async def open_account(self, name: str) -> int:
        """A user who trades INFY at Zerodha; returns the account's number."""
        user_id = await self.make_user(name, symbols=("INFY",))
        async with self.trading.sessions.begin() as session:
            account = (await session.scalars(select(BrokerAccount).where(BrokerAccount.user_id == user_id))).one()
            account.broker = self.broker.name
            return account.id

    def wait_at_most(self, timeout_s: float) -> None:
        self.broker._adapter.timeout_s = timeout_s  # type: ignore[attr-defined]

    async def behave(self, account_id: int, mode: Mode) -> None:
        body = {"account": account_id, "modes": [mode], "late_s": 0.2}
        (await self.http.put(f"{self.url}/control/behaviour", json=body)).raise_for_status()

    async def truth(self) -> dict[str, Any]:
        return as_kite_tells((await self.http.get(f"{self.url}/control/truth")).raise_for_status().json())

    async def orders(self) -> dict[int, Order]:
        """The one order of each account that has one."""
        async with self.trading.sessions() as session:
            orders = (await session.scalars(select(Order))).all()
        by_account = {order.account_id: order for order in orders}
        assert len(orders) == len(by_account)
        return by_account

    async def entries_used(self) -> int:
        async with self.trading.sessions() as session:
            return sum((await session.scalars(select(DailyUsage.entries_used))).all())

    async def recover(self, allowed: Collection[Mode] = ()) -> list[str]:
        """The minutes that follow, with the broker as it is; the promises that are broken at the end."""
        found: list[str] = []
        for _ in range(LOOKS_MAX):
            self.market.now += timedelta(minutes=1)
            async with self.trading.sessions.begin() as session:
                age = "UPDATE orders SET submitted_at = submitted_at - make_interval(secs => 3)"
                await session.execute(text(age))
            await reconcile(self.trading)
            await watch_positions(self.trading)
            facts = await gather(self.trading.sessions, await self.truth())
            found = breaches(facts, oversell_allowed=Mode.FILL_LATE in allowed)
            if not found:
                break
        return found


@pytest.fixture
async def desk(trading: Trading, market: Market, make_user: Callable[..., Awaitable[int]]) -> AsyncIterator[Desk]:
    """Zerodha behind a proxy that can break the network."""
    with serving(create_app(lambda: market.now)) as url:
        async with FaultProxy(("127.0.0.1", httpx.URL(url).port or 0)) as proxy, httpx.AsyncClient() as http:
            assert isinstance(proxy.address, tuple)
            broker = AtPlace(http, f"http://127.0.0.1:{proxy.address[1]}/desk", lambda: market.now, PATIENT_S)
            rules = replace(trading.rules, lookup=SOON)
            there = replace(trading, brokers={broker.name: broker}, rules=rules)
            yield Desk(there, market, http, f"{url}/desk", proxy, broker, make_user)


OUTCOMES = {
    Mode.ACCEPT: OrderState.FILLED,
    Mode.ACCEPT_THEN_HANG: OrderState.FILLED,
    Mode.ACCEPT_THEN_RESET: OrderState.FILLED,
    Mode.ACCEPT_THEN_502: OrderState.FILLED,
    Mode.ACCEPT_THEN_CUT: OrderState.FILLED,
    Mode.ACCEPT_THEN_GARBAGE: OrderState.FILLED,
    Mode.DROP_BEFORE_ACCEPT: OrderState.UNKNOWN,
    Mode.REFUSE: OrderState.REJECTED,
    Mode.REFUSE_IN_BOOK: OrderState.REJECTED,
    Mode.SHOW_LATE: OrderState.FILLED,
    Mode.PARTIAL: OrderState.FILLED,
    Mode.DOUBLE_TRADES: OrderState.FILLED,
    Mode.OUT_OF_ORDER: OrderState.FILLED,
    Mode.BOOK_502: OrderState.FILLED,
    Mode.BOOK_GARBAGE: OrderState.FILLED,
    Mode.TOKEN_EXPIRED: OrderState.EXPIRED,
    Mode.RATE_LIMITED: OrderState.EXPIRED,
}


NOT_ARRIVED = {Mode.TOKEN_EXPIRED, Mode.RATE_LIMITED}
ILL = {Mode.BOOK_502, Mode.BOOK_GARBAGE, Mode.TOKEN_EXPIRED, Mode.RATE_LIMITED}
"""Modes in which nothing is learnt until they are over."""


async def test_a_misbehaving_broker_doubles_loses_and_hides_nothing(desk: Desk):
    """Each misbehaviour begins for one account of a cycle, between what was read for its order and the order."""
    modes = {await desk.open_account(mode.value): mode for mode in OUTCOMES}
    desk.broker.happens = lambda account_id: desk.behave(account_id, modes[account_id])
    desk.wait_at_most(SILENT_S)
    await run_cycle(desk.trading, desk.market.now)
    desk.wait_at_most(PATIENT_S)
    orders = await desk.orders()
    assert {modes[account] for account in orders} == set(OUTCOMES)
    for account in [account for account, mode in modes.items() if mode in ILL]:
        assert orders[account].state is not OrderState.FILLED
        await desk.behave(account, Mode.ACCEPT)
    assert await desk.recover() == []
    assert {modes[account]: order.state for account, order in (await desk.orders()).items()} == OUTCOMES
    truth = await desk.truth()
    assert {modes[arrival["account"]] for arrival in truth["arrivals"]} == OUTCOMES.keys() - NOT_ARRIVED
    assert len(truth["arrivals"]) == len(OUTCOMES) - len(NOT_ARRIVED)
    kept = {OrderState.FILLED, OrderState.UNKNOWN}
    assert await desk.entries_used() == sum(state in kept for state in OUTCOMES.values())


NETWORKS = {
    "half open": Faults(half_open=True),
    "cut on the way up": Faults(cut_up_after_bytes=40),
    "cut in mid-reply": Faults(cut_down_after_bytes=60),
    "late reply": Faults(latency_s=HUNG_S),
}


async def test_a_network_that_breaks_at_an_order_doubles_loses_and_hides_nothing(desk: Desk):
    """One account after the other, each under another break."""
    for number, (name, faults) in enumerate(NETWORKS.items(), 1):
        account_id = await desk.open_account(name.replace(" ", ""))

        async def breaks(_: int, name: str = name, faults: Faults = faults) -> None:
            desk.proxy.reset_existing()
            desk.proxy.switch(faults)
            desk.wait_at_most(PATIENT_S if "cut" in name else HUNG_S)

        desk.broker.happens = breaks
        await run_cycle(desk.trading, desk.market.now)
        desk.proxy.switch(PASS)
        desk.wait_at_most(PATIENT_S)
        assert await desk.recover() == [], name
        truth = await desk.truth()
        arrived = [arrival for arrival in truth["arrivals"] if arrival["account"] == account_id]
        state = (await desk.orders())[account_id].state
        assert state is (OrderState.FILLED if arrived else OrderState.UNKNOWN), name
        assert len(truth["arrivals"]) <= number


async def test_a_fill_after_a_confirmed_cancel_is_booked(desk: Desk):
    account_id = await desk.open_account("asha")
    desk.broker.happens = lambda account_id: desk.behave(account_id, Mode.FILL_LATE)
    await run_cycle(desk.trading, desk.market.now)
    order = (await desk.orders())[account_id]
    assert order.state is OrderState.ACCEPTED
    assert order.broker_order_id is not None
    await desk.broker.cancel(order.account_id, order.broker_order_id)
    await reconcile(desk.trading)
    assert await desk.recover({Mode.FILL_LATE}) == []
    assert (await desk.orders())[account_id].state is OrderState.FILLED


async def test_who_has_no_session_is_not_traded_for(desk: Desk):
    await desk.behave(await desk.open_account("asha"), Mode.TOKEN_EXPIRED)
    await run_cycle(desk.trading, desk.market.now)
    assert await desk.orders() == {}
    assert (await desk.truth())["arrivals"] == []
