"""The life of an order: one (state, event) → state table, the only source of an order's status."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Intent(StrEnum):
    """Why an order exists. Exits are never counted against a plan and never blocked by it."""

    ENTRY = "entry"
    EXIT = "exit"


class OrderState(StrEnum):
    """Where an order stands; TRANSITIONS is the only way from one to another."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    REJECTED = "rejected"
    CANCEL_PENDING = "cancel_pending"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    DENIED = "denied"


class OrderEventKind(StrEnum):
    """What can happen to an order. LOST: the outcome of a send stayed unknown, or an order that stood in the broker's
    book is gone from it. ABANDONED: proven never sent. DENIED: the gate before the socket refused it.
    """

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    REJECTED = "rejected"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"
    ABANDONED = "abandoned"
    DENIED = "denied"


S, E = OrderState, OrderEventKind

LIVE_STATES = frozenset({S.PENDING, S.SUBMITTED, S.ACCEPTED, S.PARTIALLY_FILLED, S.CANCEL_PENDING, S.UNKNOWN})
"""States in which an order may still fill. UNKNOWN is among them: it blocks its account and symbol."""

_AT_BROKER = {
    E.ACCEPTED: S.ACCEPTED,
    E.PARTIALLY_FILLED: S.PARTIALLY_FILLED,
    E.FILLED: S.FILLED,
    E.REJECTED: S.REJECTED,
    E.CANCELLED: S.CANCELLED,
    E.EXPIRED: S.EXPIRED,
}

TRANSITIONS: dict[tuple[OrderState, OrderEventKind], OrderState] = {
    (S.PENDING, E.SUBMITTED): S.SUBMITTED,
    (S.PENDING, E.DENIED): S.DENIED,
    # A recorded order whose tick has passed unsent is dropped: nothing had left the process.
    (S.PENDING, E.ABANDONED): S.EXPIRED,
    **{(S.SUBMITTED, event): state for event, state in _AT_BROKER.items()},
    (S.SUBMITTED, E.LOST): S.UNKNOWN,
    # Only for a broker whose book proves absence: the send never arrived.
    (S.SUBMITTED, E.ABANDONED): S.EXPIRED,
    **{(S.ACCEPTED, event): state for event, state in _AT_BROKER.items() if event is not E.ACCEPTED},
    (S.ACCEPTED, E.CANCEL_REQUESTED): S.CANCEL_PENDING,
    (S.PARTIALLY_FILLED, E.PARTIALLY_FILLED): S.PARTIALLY_FILLED,
    (S.PARTIALLY_FILLED, E.FILLED): S.FILLED,
    (S.PARTIALLY_FILLED, E.CANCEL_REQUESTED): S.CANCEL_PENDING,
    (S.PARTIALLY_FILLED, E.CANCELLED): S.CANCELLED,
    (S.PARTIALLY_FILLED, E.EXPIRED): S.EXPIRED,
    # An order that stood in the broker's book and is gone from it: a book of one day only, or a defect there.
    (S.ACCEPTED, E.LOST): S.UNKNOWN,
    (S.PARTIALLY_FILLED, E.LOST): S.UNKNOWN,
    (S.CANCEL_PENDING, E.LOST): S.UNKNOWN,
    # A cancel races with fills at the exchange: the fill wins, a partial one leaves the cancel under way.
    (S.CANCEL_PENDING, E.PARTIALLY_FILLED): S.CANCEL_PENDING,
    (S.CANCEL_PENDING, E.FILLED): S.FILLED,
    (S.CANCEL_PENDING, E.CANCELLED): S.CANCELLED,
    (S.CANCEL_PENDING, E.EXPIRED): S.EXPIRED,
    (S.CANCEL_PENDING, E.REJECTED): S.REJECTED,
    # A fill reported after the end is real: the exchange traded before the cancel or expiry took effect.
    (S.CANCELLED, E.PARTIALLY_FILLED): S.CANCELLED,
    (S.CANCELLED, E.FILLED): S.FILLED,
    (S.EXPIRED, E.PARTIALLY_FILLED): S.EXPIRED,
    (S.EXPIRED, E.FILLED): S.FILLED,
    # A refusal that came after trades, whose executions are listed late: the shares are real and belong to their trade.
    # The plan's entry was given back on the broker's own word and need not be claimed again: a claim that failed now
    # could not undo them.
    (S.REJECTED, E.PARTIALLY_FILLED): S.REJECTED,
    (S.REJECTED, E.FILLED): S.FILLED,
    # Evidence from the broker's book, or a person, settles what was unknown.
    **{(S.UNKNOWN, event): state for event, state in _AT_BROKER.items()},
    (S.UNKNOWN, E.ABANDONED): S.EXPIRED,
}


class IllegalTransitionError(ValueError):
    """An event that cannot happen to an order in this state; nothing may be written."""


def transition(state: OrderState, event: OrderEventKind) -> OrderState:
    """The state after `event`.

    Raises:
        IllegalTransitionError: the pair is not in the table.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"an order that is {state} cannot be {event}") from None


def state_table_markdown() -> str:
    """`TRANSITIONS` as the block of docs/orders.md, markers included: one row per state, one move per legal event."""
    lines = ["<!-- state table: generated from TRANSITIONS -->", "| state | event → next state |", "|---|---|"]
    for state in OrderState:
        moves = [f"{event} → **{after}**" for (before, event), after in TRANSITIONS.items() if before is state]
        lines.append(f"| {state} | {', '.join(moves) or 'none'} |")
    return "\n".join([*lines, "<!-- end of state table -->"])


def client_order_id(cycle_at: datetime, user_id: int, strategy: str, symbol: str, intent: Intent) -> str:
    """The order's name at the broker: 20 upper-case letters and digits, the same for the same decision.

    20 alphanumerics is the longest tag every supported broker echoes in its book; 80 bits of BLAKE2b make a clash
    between two decisions practically impossible, and the database's unique key makes it harmless.
    """
    decision = f"{int(cycle_at.timestamp())}|{user_id}|{strategy}|{symbol}|{intent}"
    return hashlib.blake2b(decision.encode(), digest_size=10).hexdigest().upper()


def manual_order_id(user_id: int, key: str) -> str:
    """The name of an order made by hand: the same for the same user and key."""
    return hashlib.blake2b(f"manual|{user_id}|{key}".encode(), digest_size=10).hexdigest().upper()


def guard_order_id(trade_id: int, number: int) -> str:
    """The name of a trade's guard: the same for the same trade and count of guards before it."""
    return hashlib.blake2b(f"guard|{trade_id}|{number}".encode(), digest_size=10).hexdigest().upper()


def external_order_id(account_id: int, broker_order_id: str) -> str:
    """Our name for an order made in the broker's own app; never sent anywhere, and no name of ours looks like it."""
    return "X" + hashlib.blake2b(f"{account_id}|{broker_order_id}".encode(), digest_size=9).hexdigest().upper()


def is_own_name(tag: str) -> bool:
    """Whether a tag in a broker's book looks like one that was made here, for an order of any origin."""
    return len(tag) == 20 and set(tag) <= set("0123456789ABCDEF")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an order got: shares filled of shares ordered."""

    filled: int
    quantity: int

    def fill_event(self) -> OrderEventKind:
        """The event that a fill taking the order to `filled` shares is."""
        return E.FILLED if self.filled >= self.quantity else E.PARTIALLY_FILLED
