"""What must hold after every crash, judged from our tables and the broker's own count alone."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

Row = Mapping[str, Any]

_STATES = {
    "OPEN": {"accepted", "partially_filled", "cancel_pending"},
    "COMPLETE": {"filled"},
    "CANCELLED": {"cancelled"},
    "REJECTED": {"rejected"},
}
_UNSETTLED = {"pending", "submitted"}
_ENDED = {"COMPLETE", "CANCELLED", "REJECTED"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Our rows, and the broker's truth as its control route tells it."""

    orders: Sequence[Row]
    fills: Sequence[Row]
    trades: Sequence[Row]
    events: Sequence[Row]
    outbox: Sequence[Row]
    ledger: Sequence[Row]
    truth: Mapping[str, Any]


_QUERIES = {
    "orders": "SELECT id, client_order_id AS tag, origin, account_id, user_id, symbol, side, intent, state, quantity,"
    " filled_quantity, broker_order_id, submitted_at IS NOT NULL AS submitted, auto_trade_id, cycle_id, shard"
    " FROM orders ORDER BY id",
    "fills": "SELECT order_id, trade_id, quantity, price::text FROM fills ORDER BY id",
    "trades": "SELECT id, symbol, account_id, status, entry_quantity, exit_quantity FROM auto_trades ORDER BY id",
    "events": "SELECT order_id, kind, extract(epoch FROM created_at)::float AS at FROM order_events ORDER BY id",
    "outbox": "SELECT topic, user_id, payload FROM outbox ORDER BY id",
    "ledger": "SELECT account_id, ledger_account, symbol, balance::text, quantity FROM ledger_balances",
}


async def gather(sessions: async_sessionmaker[Any], truth: Mapping[str, Any]) -> Facts:
    """Read our side; `truth` is the broker's."""
    async with sessions() as session:
        ours = {
            name: [dict(row) for row in (await session.execute(text(query))).mappings()]
            for name, query in _QUERIES.items()
        }
    return Facts(**ours, truth=truth)


def breaches(facts: Facts, *, oversell_allowed: bool = False) -> list[str]:
    """Every promise that the facts break, in words; empty where all hold.

    Args:
        oversell_allowed: the broker fills what it has confirmed as cancelled: nobody can keep that from happening.
    """
    parts = (doubled, lost, unbalanced, hidden, unblocked, unsettled)
    found = [breach for part in parts for breach in part(facts)]
    return found if oversell_allowed else [*found, *oversold(facts)]


def doubled(facts: Facts) -> Iterator[str]:
    """No tag reaches the broker twice, and no decision has two orders."""
    for tag, times in Counter(arrival["tag"] for arrival in facts.truth["arrivals"]).items():
        if times > 1:
            yield f"doubled: {tag} was sent {times} times"
    for tag, times in facts.truth["accepted_per_tag"].items():
        if times > 1:
            yield f"doubled: {tag} was accepted {times} times"
    decided = Counter(
        (o["cycle_id"], o["account_id"], o["symbol"], o["intent"]) for o in facts.orders if o["origin"] == "engine"
    )
    for decision, orders in decided.items():
        if orders > 1:
            yield f"doubled: {orders} orders for the decision {decision}"
    entries = Counter((o["account"], o["symbol"]) for o in facts.truth["orders"] if o["side"] == "buy" and o["tag"])
    for key, orders in entries.items():
        if orders > 1:
            yield f"doubled: {orders} entries of {key} at the broker"


def lost(facts: Facts) -> Iterator[str]:
    """Whatever the broker accepted stands in our tables, with its state, its fills and its trade."""
    by_tag = {order["tag"]: order for order in facts.orders}
    by_id = {(order["account_id"], order["broker_order_id"]): order for order in facts.orders}
    fills: dict[int, list[tuple[str, int, str]]] = defaultdict(list)
    for fill in facts.fills:
        fills[fill["order_id"]].append((fill["trade_id"], fill["quantity"], _rupees(fill["price"])))
    for theirs in facts.truth["orders"]:
        ours = by_tag.get(theirs["tag"]) if theirs["tag"] else by_id.get((theirs["account"], theirs["order_id"]))
        if ours is None:
            yield f"lost: {theirs['order_id']} ({theirs['tag'] or 'by hand'}) is not in our tables"
            continue
        if ours["state"] not in _STATES[theirs["status"]]:
            yield f"lost: {theirs['tag']} is {ours['state']}, at the broker {theirs['status']}"
        if ours["broker_order_id"] != theirs["order_id"]:
            yield f"lost: {theirs['tag']} is {ours['broker_order_id']}, at the broker {theirs['order_id']}"
        executed = [(t["trade_id"], t["quantity"], _rupees(t["price"])) for t in theirs["trades"]]
        if sorted(fills[ours["id"]]) != sorted(executed):
            yield f"lost: fills of {theirs['tag']} are {fills[ours['id']]}, at the broker {executed}"
    yield from _trades_off(facts)


def _trades_off(facts: Facts) -> Iterator[str]:
    """A trade's quantities are the sums of its orders' fills."""
    filled: Counter[tuple[int, str]] = Counter()
    for order in facts.orders:
        filled[order["auto_trade_id"], order["intent"]] += order["filled_quantity"]
    for trade in facts.trades:
        ours = (trade["entry_quantity"], trade["exit_quantity"])
        sums = (filled[trade["id"], "entry"], filled[trade["id"], "exit"])
        if ours != sums:
            yield f"lost: trade {trade['id']} says {ours}, its orders filled {sums}"


def unbalanced(facts: Facts) -> Iterator[str]:
    """Our ledger says of every account what the broker says: rupees, and shares by symbol."""
    cash: dict[int, Decimal] = defaultdict(Decimal)
    shares: dict[int, dict[str, int]] = defaultdict(dict)
    for row in facts.ledger:
        if row["ledger_account"] in {"cash", "reserved"}:
            cash[row["account_id"]] += Decimal(row["balance"])
        elif row["ledger_account"] == "positions" and row["quantity"]:
            shares[row["account_id"]][row["symbol"]] = row["quantity"]
    tolerance = Decimal(facts.truth.get("cash_tolerance", 0))
    for key, rupees in facts.truth["cash"].items():
        account = int(key)
        if abs(cash[account] - Decimal(rupees)) > tolerance:
            yield f"unbalanced: account {account} has ₹{cash[account]} in our books, ₹{rupees} at the broker"
        if shares[account] != facts.truth["holdings"][key]:
            yield f"unbalanced: account {account} holds {shares[account]}, at the broker {facts.truth['holdings'][key]}"


def hidden(facts: Facts) -> Iterator[str]:
    """What was sent and the broker's book cannot prove is UNKNOWN, with an alert; nothing else is UNKNOWN."""
    in_book = {order["tag"] for order in facts.truth["orders"]}
    arrived = {arrival["tag"] for arrival in facts.truth["arrivals"]}
    refused = {event["order_id"] for event in facts.events if event["kind"] == "rejected"}
    alerted = {str(message["payload"].get("order_id")) for message in facts.outbox if "unknown" in message["topic"]}
    known = {order["tag"] for order in facts.orders}
    for tag in arrived - known:
        yield f"hidden: {tag} was sent and never recorded"
    for order in facts.orders:
        tag, state = order["tag"], order["state"]
        unprovable = order["submitted"] and tag not in in_book and order["id"] not in refused
        if unprovable and tag in arrived and state != "unknown":
            yield f"hidden: {tag} reached the broker, is not in its book, and is {state}"
        if state == "unknown" and not unprovable:
            yield f"hidden: {tag} is UNKNOWN, and the broker's book or word tells what it is"
        if state == "unknown" and str(order["id"]) not in alerted:
            yield f"hidden: {tag} is UNKNOWN and nobody was told"


def unblocked(facts: Facts) -> Iterator[str]:
    """While an order is UNKNOWN, nothing else is sent in its account and symbol."""
    for order in facts.orders:
        if order["state"] != "unknown":
            continue
        same = (order["account_id"], order["symbol"])
        later = [o for o in facts.orders if o["id"] > order["id"] and (o["account_id"], o["symbol"]) == same]
        if any(o["submitted"] for o in later):
            yield f"unblocked: {order['tag']} is UNKNOWN, and {same} was traded after it"


def unsettled(facts: Facts) -> Iterator[str]:
    """Nothing stays in between."""
    for order in facts.orders:
        if order["state"] in _UNSETTLED:
            yield f"unsettled: {order['tag']} is {order['state']}"


def oversold(facts: Facts) -> Iterator[str]:
    """Nobody sells more than is held, what is still open included."""
    free: Counter[tuple[int, str]] = Counter()
    for order in facts.truth["orders"]:
        open_shares = 0 if order["status"] in _ENDED else order["quantity"] - order["filled"]
        key = (order["account"], order["symbol"])
        free[key] += order["filled"] if order["side"] == "buy" else -order["filled"] - open_shares
    for key, shares in free.items():
        if shares < 0:
            yield f"oversold: {key} by {-shares} shares"


def _rupees(price: str) -> str:
    return f"{Decimal(price):.4f}"
