"""A user's trades: filtered, in pages, valued at the last quote; and what they add up to, computed by hand."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.calendar import IST
from backend.domain.decide import ExitReason, TradeStatus
from backend.domain.market import Side
from backend.domain.modes import Mode
from backend.services.analytics import ClosedTrade, analyse
from tests.api.conftest import MONDAY_10, Gateway, Someone
from tests.api.rows import add_cycle, closed, filled_order, trade

BASE = "/v1/auto-trading"
DAY = timedelta(days=1)


async def _ids(gateway: Gateway, user: Someone, query: str) -> list[int]:
    reply = await gateway.client.get(f"{BASE}/trades{query}", headers=user.headers)
    assert reply.status_code == 200
    return [row["id"] for row in reply.json()["trades"]]


async def test_each_filter_takes_what_it_says(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("basic", account=True)
    cycle = await add_cycle(own_gateway.sessions)
    late = datetime(2024, 3, 18, 23, 59, tzinfo=IST)
    rows = [
        closed(user, cycle, MONDAY_10, "5", decided_at=late),
        closed(user, cycle, MONDAY_10, "5", symbol="INFY", decided_at=MONDAY_10 + DAY),
        trade(user, cycle, symbol="M&M", mode=Mode.AGGRESSIVE, decided_at=MONDAY_10 + 2 * DAY),
        closed(user, cycle, MONDAY_10, "5", side=Side.SELL, decided_at=MONDAY_10 - DAY),
    ]
    async with own_gateway.sessions.begin() as session:
        for row in rows:
            session.add(row)
            await session.flush()
    first, second, third, fourth = (row.id for row in rows)
    for query, expected in {
        "": [fourth, third, second, first],
        "?symbol=INFY": [second],
        "?symbol=M%26M": [third],
        "?status=open": [third],
        "?status=closed&symbol=TCS": [fourth, first],
        "?side=sell": [fourth],
        "?mode=aggressive": [third],
        "?from=2024-03-19": [third, second],
        "?to=2024-03-18": [fourth, first],
        "?from=2024-03-18&to=2024-03-18": [first],
        "?status=cancelled": [],
    }.items():
        assert await _ids(own_gateway, user, query) == expected, query


async def test_pages_hold_every_trade_once_though_new_ones_come(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("basic", account=True)
    cycle = await add_cycle(own_gateway.sessions)
    async with own_gateway.sessions.begin() as session:
        session.add_all([closed(user, cycle, MONDAY_10, "1") for _ in range(7)])
    everything = await _ids(own_gateway, user, "?limit=200")
    seen: list[int] = []
    query = "?limit=3&status=closed"
    for _ in range(5):
        if not query:
            break
        page = (await own_gateway.client.get(f"{BASE}/trades{query}", headers=user.headers)).json()
        seen += [row["id"] for row in page["trades"]]
        query = f"?limit=3&status=closed&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        async with own_gateway.sessions.begin() as session:
            session.add(closed(user, cycle, MONDAY_10, "1"))
    assert seen == everything
    assert len(seen) == 7


async def test_an_open_trade_is_valued_net_of_the_entry_charges_of_what_is_left(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("basic", account=True)
    cycle = await add_cycle(own_gateway.sessions)
    async with own_gateway.sessions.begin() as session:
        held = trade(user, cycle, symbol="TCS", exit_quantity=4, status=TradeStatus.EXITING)
        entering = trade(user, cycle, symbol="INFY", status=TradeStatus.ENTERING, entry_quantity=0, entry_price=None)
        gone = trade(user, cycle, symbol="DELISTED")
        session.add_all([held, entering, gone])
        await session.flush()
        for owner, side, quantity, price, charges, tag in (
            (held, Side.BUY, 10, "1400", "20", "A" * 20),
            (held, Side.SELL, 4, "1450", "8", "B" * 20),
            (gone, Side.BUY, 10, "100", "2", "C" * 20),
        ):
            order, fill = filled_order(owner, side, quantity, price, charges, tag)
            session.add(order)
            await session.flush()
            fill.order_id = order.id
            session.add(fill)
    reply = (await own_gateway.client.get(f"{BASE}/trades", headers=user.headers)).json()
    found = {row["symbol"]: (row["last_price"], row["unrealized_pnl"]) for row in reply["trades"]}
    # Six shares are left: (1500 - 1400) × 6, less six tenths of the entry's 20 rupees.
    assert found == {"TCS": ("1500.00", "588.00"), "INFY": (None, None), "DELISTED": (None, None)}
    status = (await own_gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert (status["pnl"]["unrealized"], status["pnl"]["unpriced"]) == ("588.00", ["DELISTED"])

    own_gateway.market.quotes_down = True
    reply = await own_gateway.client.get(f"{BASE}/trades?symbol=TCS", headers=user.headers)
    assert [row["unrealized_pnl"] for row in reply.json()["trades"]] == [None]


async def test_analytics_against_a_sum_done_by_hand(own_gateway: Gateway) -> None:
    user = await own_gateway.someone("basic", account=True)
    cycle = await add_cycle(own_gateway.sessions)
    stop, bold = {"exit_reason": ExitReason.STOP}, {"mode": Mode.AGGRESSIVE, "confidence_kind": "touch_net_0.01"}
    late_evening = datetime(2024, 3, 18, 23, 30, tzinfo=IST)
    rows = [
        closed(user, cycle, MONDAY_10, "30.10", "2.50", confidence=0.8, dividends=Decimal("12.50")),
        closed(user, cycle, late_evening, "-20.05", "2.50", symbol="INFY", confidence=0.7, **stop),
        closed(user, cycle, MONDAY_10 + DAY, "14.99", "1.25", confidence=0.9),
        closed(user, cycle, MONDAY_10 + 2 * DAY, "-10.00", "1.00", symbol="INFY", confidence=0.6, **stop, **bold),
        closed(user, cycle, MONDAY_10 + 3 * DAY, "0", "1.00", confidence=0.5, strategy="other"),
        closed(user, cycle, MONDAY_10 + 40 * DAY, "1000", "1.00"),
        trade(user, cycle, realized_pnl=Decimal(7)),
        trade(user, cycle, symbol="INFY", status=TradeStatus.CANCELLED, entry_quantity=0),
    ]
    async with own_gateway.sessions.begin() as session:
        session.add_all(rows)
    query = "?from=2024-03-18&to=2024-03-21"
    found = (await own_gateway.client.get(f"{BASE}/analytics{query}", headers=user.headers)).json()
    assert found["total"] == {
        "trades": 5,
        "wins": 2,
        "win_rate": 0.4,
        "profit_factor": pytest.approx(45.09 / 30.05),
        "average_win": "22.545",
        "average_loss": "-15.025",
        "realized_pnl": "15.04",
        "charges": "8.25",
        "dividends": "12.50",
        "mean_confidence": pytest.approx(0.7),
        # 1.5 % of 1,000 rupees are 15.00: only the first trade reached it, 14.99 did not.
        "hit_rate": 0.2,
    }
    assert (found["environment"], found["insufficient_evidence"], found["open_trades"]) == ("simulated", True, 1)
    assert found["max_drawdown_rupees"] == "10.00"
    assert found["daily"] == [
        {"day": "2024-03-18", "trades": 2, "realized_pnl": "10.05", "cumulative_pnl": "10.05"},
        {"day": "2024-03-19", "trades": 1, "realized_pnl": "14.99", "cumulative_pnl": "25.04"},
        {"day": "2024-03-20", "trades": 1, "realized_pnl": "-10.00", "cumulative_pnl": "15.04"},
        {"day": "2024-03-21", "trades": 1, "realized_pnl": "0.00", "cumulative_pnl": "15.04"},
    ]
    by = {
        d: {k: (f["trades"], f["realized_pnl"]) for k, f in found[f"by_{d}"].items()}
        for d in ("symbol", "mode", "strategy", "exit_reason")
    }
    assert by == {
        "symbol": {"INFY": (2, "-30.05"), "TCS": (3, "45.09")},
        "mode": {"aggressive": (1, "-10.00"), "moderate": (4, "25.04")},
        "strategy": {"other": (1, "0.00"), "pooled": (4, "15.04")},
        "exit_reason": {"stop": (2, "-30.05"), "target": (3, "45.09")},
    }
    everything = (await own_gateway.client.get(f"{BASE}/analytics", headers=user.headers)).json()
    assert everything["total"]["realized_pnl"] == "1015.04"
    status = (await own_gateway.client.get(f"{BASE}/status", headers=user.headers)).json()
    assert (status["pnl"]["realized_today"], status["pnl"]["realized_total"]) == ("10.05", "1022.04")


async def test_analytics_of_nobody_have_no_rates(gateway: Gateway) -> None:
    user = await gateway.someone()
    found = (await gateway.client.get(f"{BASE}/analytics", headers=user.headers)).json()
    rates = ("win_rate", "profit_factor", "average_win", "average_loss", "mean_confidence", "hit_rate")
    assert {found["total"][name] for name in rates} == {None}
    assert (found["daily"], found["max_drawdown_rupees"], found["insufficient_evidence"]) == ([], "0.00", True)


def one_closed(**changes: Any) -> ClosedTrade:
    values: dict[str, Any] = {
        "symbol": "TCS",
        "mode": "moderate",
        "strategy": "s",
        "exit_reason": "target",
        "confidence": 0.7,
        "confidence_kind": "touch_net_0.02",
        "entry_value": Decimal(1000),
        "realized_pnl": Decimal(20),
        "charges": Decimal(1),
        "closed_on": date(2024, 3, 18),
    }
    return ClosedTrade(**(values | changes))


def test_twenty_trades_are_the_least_evidence() -> None:
    assert analyse([one_closed()] * 19).insufficient_evidence
    assert not analyse([one_closed()] * 20).insufficient_evidence


def test_a_hit_is_what_the_confidence_speaks_of() -> None:
    assert one_closed(realized_pnl=Decimal(20)).hit
    assert not one_closed(realized_pnl=Decimal("19.99")).hit
    assert one_closed(realized_pnl=Decimal("0.01"), confidence_kind="net_profit").hit
    assert not one_closed(realized_pnl=Decimal(0), confidence_kind="net_profit").hit


def test_the_drawdown_is_the_deepest_fall_from_a_high() -> None:
    results = [10, -4, 5, -8, 1, -2, 30]
    days = [one_closed(realized_pnl=Decimal(r), closed_on=date(2024, 3, 1 + i)) for i, r in enumerate(results)]
    assert analyse(days).max_drawdown == 9
    assert analyse([one_closed(realized_pnl=Decimal(-3))]).max_drawdown == 3


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(-500, 500), st.integers(1, 28)), max_size=40))
def test_every_cut_adds_up_to_the_total(rows: list[tuple[str, int, int]]) -> None:
    trades = [one_closed(symbol=s, realized_pnl=Decimal(pnl), closed_on=date(2024, 3, day)) for s, pnl, day in rows]
    found = analyse(trades)
    for groups in found.by.values():
        assert sum((f.realized_pnl for f in groups.values()), Decimal(0)) == found.total.realized_pnl
        assert sum(f.trades for f in groups.values()) == found.total.trades == len(rows)
    assert sum((d.realized_pnl for d in found.daily), Decimal(0)) == found.total.realized_pnl
    assert not found.daily or found.daily[-1].cumulative_pnl == found.total.realized_pnl
