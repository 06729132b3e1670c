"""Double-entry journals for one broker account, pure: whatever happens to money or shares, the lines add up to zero.

Debits are positive. CASH is what may be spent, RESERVED what open buy orders hold back, POSITIONS the shares held at
their average cost, CHARGES what was paid for trading, PNL what selling gained (a credit, so negative) before charges,
DIVIDENDS what companies paid (a credit), EXTERNAL the world outside: deposits come from it.
"""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum

from backend.domain.corporate_actions import Entitlement

PAISA = Decimal("0.01")


class LedgerAccount(StrEnum):
    """Where rupees stand, as the module says."""

    CASH = "cash"
    RESERVED = "reserved"
    POSITIONS = "positions"
    CHARGES = "charges"
    PNL = "pnl"
    EXTERNAL = "external"
    DIVIDENDS = "dividends"


class JournalKind(StrEnum):
    """Why a journal was written. ADJUST: the broker's own figure differs from ours while nothing of ours is open."""

    FUND = "fund"
    ADJUST = "adjust"
    RESERVE = "reserve"
    RELEASE = "release"
    BUY = "buy"
    SELL = "sell"
    CORPORATE_ACTION = "corporate_action"
    DIVIDEND = "dividend"


@dataclass(frozen=True, slots=True)
class Line:
    """Rupees to or from one ledger account; `quantity` are shares of `symbol`, in POSITIONS only."""

    account: LedgerAccount
    amount: Decimal
    symbol: str = ""
    quantity: int = 0


@dataclass(frozen=True, slots=True)
class Journal:
    """Lines that are written together or not at all.

    Raises:
        ValueError: they do not add up to zero.
    """

    kind: JournalKind
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        if sum(line.amount for line in self.lines) != 0:
            raise ValueError(f"the lines of a journal must add up to zero: {self.lines}")


A, K = LedgerAccount, JournalKind


def fund(rupees: Decimal, kind: JournalKind = K.FUND) -> Journal:
    """Money that came from outside, or left (negative)."""
    return Journal(kind, (Line(A.CASH, rupees), Line(A.EXTERNAL, -rupees)))


def reserve(rupees: Decimal) -> Journal:
    """Set money aside for a buy order that is about to be sent."""
    return Journal(K.RESERVE, (Line(A.RESERVED, rupees), Line(A.CASH, -rupees)))


def release(rupees: Decimal) -> Journal:
    """Give back what an order that has ended did not need."""
    return Journal(K.RELEASE, (Line(A.CASH, rupees), Line(A.RESERVED, -rupees)))


def used_of_reserve(reserved: Decimal, quantity: int, open_quantity: int) -> Decimal:
    """What a fill of `quantity` of the order's `open_quantity` shares takes out of its reserve: its share, in paise."""
    if quantity >= open_quantity:
        return reserved
    return (reserved * quantity / open_quantity).quantize(PAISA, ROUND_DOWN)


def buy(
    symbol: str,
    quantity: int,
    price: Decimal,
    charges: Decimal,
    reserve_used: Decimal,
    *,
    held: int = 0,
    value: Decimal | None = None,
) -> Journal:
    """Shares bought: paid from the order's reserve, and from cash where that does not suffice (or to it, what is over).

    Args:
        held: shares before; where that is negative, what covers it is a result and no position.
        value: rupees paid for all, where that is not `price` times `quantity`: a late trade from before a split.

    Raises:
        ValueError: `quantity` is not positive.
    """
    if quantity <= 0:
        raise ValueError("a fill has at least one share")
    value = price * quantity if value is None else value
    covered = min(quantity, max(0, -held))
    result = price * covered if covered < quantity else value
    lines = (
        Line(A.POSITIONS, value - result, symbol, quantity),
        Line(A.PNL, result),
        Line(A.CHARGES, charges),
        Line(A.RESERVED, -reserve_used),
        Line(A.CASH, reserve_used - value - charges),
    )
    return Journal(K.BUY, tuple(line for line in lines if line.account is not A.PNL or covered))


def sell(
    symbol: str,
    quantity: int,
    price: Decimal,
    charges: Decimal,
    *,
    held: int,
    held_cost: Decimal,
    value: Decimal | None = None,
) -> Journal:
    """Shares sold out of `held` shares that cost `held_cost` rupees: they leave at their average cost.

    Selling more than is held leaves a negative position at no cost: the books say so rather than refuse what happened.

    Args:
        value: rupees received for all, as in `buy`.

    Raises:
        ValueError: `quantity` is not positive.
    """
    if quantity <= 0:
        raise ValueError("a fill has at least one share")
    value = price * quantity if value is None else value
    cost = held_cost if quantity >= held else (held_cost * quantity / held).quantize(PAISA, ROUND_DOWN)
    lines = (
        Line(A.CASH, value - charges),
        Line(A.CHARGES, charges),
        Line(A.POSITIONS, -cost, symbol, -quantity),
        Line(A.PNL, cost - value),
    )
    return Journal(K.SELL, lines)


def settle_without_shares(kind: JournalKind, value: Decimal, charges: Decimal, reserve_used: Decimal) -> Journal:
    """A trade from before a consolidation that is less than one share after it: only its rupees are booked.

    Args:
        value: rupees paid for the shares, negative where they were sold.
    """
    lines = (
        Line(A.PNL, value),
        Line(A.CHARGES, charges),
        Line(A.RESERVED, -reserve_used),
        Line(A.CASH, reserve_used - value - charges),
    )
    return Journal(kind, lines)


def rescale(symbol: str, shares: int, cost: Decimal, after: Entitlement, symbol_after: str) -> Journal:
    """A corporate action by reversal and re-entry: the shares leave at their cost, and what became of them comes in at
    the same cost; the fraction that is paid out takes its part of the cost along.

    Args:
        shares: held before, at a cost of `cost` rupees.
    """
    gone = Decimal(0)
    if after.fraction:
        entitled = after.fraction + after.shares
        part = after.fraction / entitled
        exact = cost * part.numerator / part.denominator
        gone = exact.quantize(PAISA, ROUND_DOWN) if after.shares else cost
    lines = (
        Line(A.POSITIONS, -cost, symbol, -shares),
        Line(A.POSITIONS, cost - gone, symbol_after, after.shares),
        Line(A.CASH, after.cash),
        Line(A.PNL, gone - after.cash),
    )
    return Journal(K.CORPORATE_ACTION, lines if after.fraction else lines[:2])


def dividend(symbol: str, rupees: Decimal) -> Journal:
    """A dividend on what was held, gross of tax; negative takes one back that a late sale had no right to."""
    return Journal(K.DIVIDEND, (Line(A.CASH, rupees), Line(A.DIVIDENDS, -rupees, symbol)))


def payout_change(rupees: Decimal) -> Journal:
    """Rupees that a fraction of a share is worth more, or less, after a late trade from before the action."""
    return Journal(K.CORPORATE_ACTION, (Line(A.CASH, rupees), Line(A.PNL, -rupees)))


def adopt(symbol: str, quantity: int, *, held: int = 0, held_cost: Decimal = Decimal(0)) -> Journal:
    """Shares that came from outside, at no known cost, or left (negative): these take their average cost with them.

    Args:
        held: shares before, which cost `held_cost` rupees.
    """
    gone = -quantity if quantity < 0 else 0
    cost = held_cost if gone >= held else (held_cost * gone / held).quantize(PAISA, ROUND_DOWN)
    left = cost if gone else Decimal(0)
    return Journal(K.ADJUST, (Line(A.POSITIONS, -left, symbol, quantity), Line(A.EXTERNAL, left)))
