"""Each promise judged on a world where it holds, and on one where it is broken: a check that cannot fail is none."""

from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.crash.checks import Facts, breaches
from tests.crash.children import spread
from tests.crash.points import Points, awaiting
from tests.crash.schedulers import stale


def order(number: int, tag: str, **changes: Any) -> dict[str, Any]:
    """A filled entry of ten shares of TCS by account 1, as our table has it."""
    row = {
        "id": number,
        "tag": tag,
        "origin": "engine",
        "account_id": 1,
        "user_id": 1,
        "symbol": "TCS",
        "side": "buy",
        "intent": "entry",
        "state": "filled",
        "quantity": 10,
        "filled_quantity": 10,
        "broker_order_id": f"B{number}",
        "submitted": True,
        "auto_trade_id": 1,
        "cycle_id": number,
        "shard": 0,
    }
    return row | changes


def theirs(number: int, tag: str, **changes: Any) -> dict[str, Any]:
    """The same as the broker has it."""
    row = {
        "order_id": f"B{number}",
        "tag": tag,
        "account": 1,
        "symbol": "TCS",
        "side": "buy",
        "quantity": 10,
        "filled": 10,
        "status": "COMPLETE",
        "trades": [{"trade_id": f"T{number}", "quantity": 10, "price": "100"}],
    }
    return row | changes


def arrival(tag: str, at_s: float = 100.0) -> dict[str, Any]:
    return {"tag": tag, "at_s": at_s}


@pytest.fixture
def facts() -> Facts:
    """One entry, sent, accepted and filled."""
    return Facts(
        orders=[order(1, "A")],
        fills=[{"order_id": 1, "trade_id": "T1", "quantity": 10, "price": "100.0000"}],
        trades=[
            {"id": 1, "symbol": "TCS", "account_id": 1, "status": "open", "entry_quantity": 10, "exit_quantity": 0}
        ],
        events=[{"order_id": 1, "kind": "accepted", "at": 100.0}],
        outbox=[],
        ledger=[
            {"account_id": 1, "ledger_account": "cash", "symbol": "", "balance": "9000", "quantity": 0},
            {"account_id": 1, "ledger_account": "positions", "symbol": "TCS", "balance": "1000", "quantity": 10},
        ],
        truth={
            "orders": [theirs(1, "A")],
            "arrivals": [arrival("A")],
            "accepted_per_tag": {"A": 1},
            "cash": {"1": "9000.00"},
            "holdings": {"1": {"TCS": 10}},
        },
    )


def changed(facts: Facts, **truth: Any) -> Facts:
    return replace(facts, truth=dict(facts.truth) | truth)


def kinds(facts: Facts) -> set[str]:
    return {breach.partition(":")[0] for breach in breaches(facts)}


def test_nothing_is_found_where_all_is_well(facts: Facts):
    assert breaches(facts) == []


def test_a_tag_sent_or_accepted_twice_is_doubled(facts: Facts):
    assert kinds(changed(facts, arrivals=[arrival("A"), arrival("A")])) == {"doubled"}
    assert kinds(changed(facts, accepted_per_tag={"A": 2})) == {"doubled"}


def test_two_entries_of_one_symbol_are_doubled_under_any_name(facts: Facts):
    both = changed(
        facts,
        orders=[theirs(1, "A"), theirs(2, "B", trades=[], filled=0, status="CANCELLED")],
        arrivals=[arrival("A"), arrival("B")],
    )
    both = replace(both, orders=[order(1, "A"), order(2, "B", state="cancelled", filled_quantity=0)])
    assert kinds(both) == {"doubled"}


def test_two_orders_of_one_decision_are_doubled(facts: Facts):
    twin = order(2, "B", cycle_id=1, state="expired", submitted=False, filled_quantity=0)
    assert kinds(replace(facts, orders=[order(1, "A"), twin])) == {"doubled"}


@pytest.mark.parametrize(
    "change",
    [
        {"orders": []},
        {"orders": [order(1, "A", state="accepted")]},
        {"orders": [order(1, "A", broker_order_id=None)]},
        {"fills": []},
        {"trades": [{"id": 1, "entry_quantity": 0, "exit_quantity": 0}]},
    ],
)
def test_what_the_broker_did_and_we_do_not_have_is_lost(facts: Facts, change: dict[str, Any]):
    assert "lost" in kinds(replace(facts, **change))


def test_an_order_by_hand_that_was_never_seen_is_lost(facts: Facts):
    by_hand = theirs(2, "", symbol="INFY", filled=0, trades=[], status="OPEN")
    both = changed(facts, orders=[theirs(1, "A"), by_hand])
    assert kinds(both) == {"lost"}
    adopted = order(2, "X1", origin="external", symbol="INFY", state="accepted", filled_quantity=0, auto_trade_id=None)
    assert kinds(replace(both, orders=[order(1, "A"), adopted])) == set()


def test_books_that_differ_from_the_brokers_are_unbalanced(facts: Facts):
    assert kinds(changed(facts, cash={"1": "9000.01"})) == {"unbalanced"}
    assert kinds(changed(facts, holdings={"1": {"TCS": 11}})) == {"unbalanced"}


def unknown(facts: Facts, state: str = "unknown", *, told: bool = True, arrived: bool = True) -> Facts:
    """A second order, for INFY, that the broker's book does not show."""
    row = order(2, "U", symbol="INFY", state=state, filled_quantity=0, broker_order_id=None, auto_trade_id=2)
    outbox = [{"topic": "order.unknown", "user_id": 1, "payload": {"order_id": 2}}] if told else []
    arrivals = [arrival("A"), arrival("U")] if arrived else [arrival("A")]
    return changed(replace(facts, orders=[order(1, "A"), row], outbox=outbox), arrivals=arrivals)


def test_an_unknown_order_with_an_alert_is_as_it_should_be(facts: Facts):
    assert breaches(unknown(facts)) == []
    assert breaches(unknown(facts, arrived=False)) == []


def test_an_order_that_vanished_and_is_not_unknown_is_hidden(facts: Facts):
    assert kinds(unknown(facts, "expired")) == {"hidden"}
    assert kinds(unknown(facts, told=False)) == {"hidden"}
    assert "hidden" in kinds(replace(facts, orders=[order(1, "A", state="unknown")]))
    assert "hidden" in kinds(changed(facts, arrivals=[arrival("A"), arrival("never recorded")]))


def test_trading_on_in_an_unknown_symbol_is_a_breach(facts: Facts):
    world = unknown(facts)
    later = order(3, "L", symbol="INFY", state="cancelled", filled_quantity=0, broker_order_id="B3")
    orders = [*world.truth["orders"], theirs(3, "L", symbol="INFY", filled=0, trades=[], status="CANCELLED")]
    world = changed(world, orders=orders, arrivals=[*world.truth["arrivals"], arrival("L")])
    assert kinds(replace(world, orders=[*world.orders, later])) == {"unblocked"}


def test_an_order_left_in_between_is_unsettled(facts: Facts):
    waiting = order(2, "P", symbol="INFY", state="pending", submitted=False, filled_quantity=0, auto_trade_id=2)
    assert kinds(replace(facts, orders=[order(1, "A"), waiting])) == {"unsettled"}


def test_selling_more_than_is_held_is_oversold_unless_nobody_could_help_it(facts: Facts):
    truth = deepcopy(dict(facts.truth))
    sells = theirs(2, "S", side="sell", status="OPEN", quantity=11, filled=0, trades=[])
    world = changed(facts, orders=[*truth["orders"], sells], arrivals=[arrival("A"), arrival("S")])
    sell = order(2, "S", side="sell", intent="exit", state="accepted", quantity=11, filled_quantity=0)
    world = replace(world, orders=[order(1, "A"), sell])
    assert kinds(world) == {"oversold"}
    assert breaches(world, oversell_allowed=True) == []


TOKENS = [(90.0, 1, 0, 7, False), (91.0, 1, 0, 7, True)]


def test_a_send_after_the_takeover_is_stale(facts: Facts):
    assert list(stale(facts, TOKENS, 0)) == []
    assert list(stale(facts, [*TOKENS, (101.0, 1, 0, 8, True)], 0)) == []
    (late,) = stale(facts, [*TOKENS, (99.0, 1, 0, 8, True)], 0)
    assert "1.00 s after its shard was taken over" in late
    # A claim that was replaced before anything had been recorded takes nothing from anybody.
    assert list(stale(facts, [(90.0, 1, 0, 6, False), *TOKENS], 0)) == []


def test_a_send_after_it_was_given_up_is_stale(facts: Facts):
    given_up = replace(facts, events=[{"order_id": 1, "kind": "lost", "at": 1099.5}])
    assert list(stale(given_up, TOKENS, 1000)) == ["stale: A reached the broker 0.50 s after it was given up"]


def test_facts_travel_as_plain_rows(facts: Facts):
    assert Facts(**asdict(facts)) == facts


def test_points_are_the_lines_that_await():
    source = (
        "async def f(a):\n"
        "    x = 1\n"
        "    y = await g(\n"
        "        x,\n"
        "    )\n"
        "    async with h(y) as z:\n"
        "        z.k()\n"
        "    async for _ in z:\n"
        "        pass\n"
    )
    assert awaiting(source) == {3: range(3, 6), 6: range(6, 7), 8: range(8, 9)}


def test_the_trading_path_has_points_and_one_can_act():
    """Nothing of the services runs here, so nothing is counted; the files are there."""
    points = Points(1, pytest.fail)
    assert {"order_service", "reconcile_service", "record_service"} <= points.modules
    assert points.seen == []


@pytest.mark.parametrize(
    ("points", "samples", "chosen"),
    [(5, 9, [1, 2, 3, 4, 5]), (101, 3, [1, 51, 101]), (10, 1, [5]), (0, 3, [])],
)
def test_samples_are_spread_from_the_first_point_to_the_last(points: int, samples: int, chosen: list[int]):
    assert list(spread(points, samples)) == chosen
