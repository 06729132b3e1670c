"""A broker's failed report is no report: nothing may be concluded from it about any order."""

from dataclasses import replace

from sqlalchemy import select, text

from backend.brokers.base import BrokerUnavailableError
from backend.domain.orders import OrderState
from backend.models import Order
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.reconcile_service import reconcile


class Silent:
    """The real paper broker, whose sends get no answer and whose book cannot be read."""

    name = "paper"
    absence_is_proof_after_s = 10.0

    def __init__(self, real) -> None:
        self._real = real

    async def place(self, account_id, order):
        await self._real.place(account_id, order)
        raise TimeoutError

    async def books(self, account_ids, since, tags=None):
        return {account_id: BrokerUnavailableError("no answer") for account_id in account_ids}

    def __getattr__(self, name):
        return getattr(self._real, name)


async def order_states(trading: Trading) -> set[OrderState]:
    async with trading.sessions() as session:
        return set(await session.scalars(select(Order.state)))


async def test_a_failed_report_leaves_orders_as_they_are_however_old(trading, market, make_user):
    await make_user()
    silent = replace(trading, brokers={"paper": Silent(trading.brokers["paper"])})
    await run_cycle(silent, market.now)
    async with trading.sessions.begin() as session:
        await session.execute(text("UPDATE orders SET submitted_at = submitted_at - interval '1 day'"))
    report = await reconcile(silent)
    assert (report.orders, report.changed, len(report.failed_accounts)) == (2, 0, 1)
    assert await order_states(trading) == {OrderState.SUBMITTED}

    await reconcile(trading)
    assert await order_states(trading) == {OrderState.FILLED}
