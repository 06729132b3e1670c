"""What is held and what it earned: first in, first out, net of charges."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from backend.domain.corporate_actions import RESCALING, CorporateAction
from backend.domain.market import Side

Lot = tuple[int | Fraction, Decimal, Decimal]
"""Signed shares, rupees per share, and the charges of the lot. After a split a lot may hold a fraction of a share."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One fill: shares, rupees per share, and all charges on it in rupees."""

    side: Side
    quantity: int
    price: Decimal
    charges: Decimal


@dataclass(frozen=True, slots=True)
class Position:
    """Shares still held (negative when short), their average entry price, and the result so far in rupees.

    `realized` is net of the charges of every fill whose shares were closed; `open_charges` are the entry charges of the
    shares still held. Together: realized + unrealized(price) = everything that happened to the money.
    """

    quantity: int
    average_price: Decimal
    realized: Decimal
    open_charges: Decimal

    def unrealized(self, price: Decimal) -> Decimal:
        """Rupees gained or lost on the open shares at `price`, after their entry charges."""
        return (price - self.average_price) * self.quantity - self.open_charges


def position_of(events: Iterable[Execution | CorporateAction]) -> Position:
    """Fold fills and corporate actions, oldest first, into a position: FIFO, as Indian tax and contract notes match
    lots per demat account.

    A fill that goes through zero closes the old lots first and opens the rest on the other side; its charges are split
    by shares. A split or bonus puts every lot on the new scale at its old cost, and sells the fraction of a share that
    is left over at the price it is paid out at; other actions change no position.
    """
    lots: list[Lot] = []
    realized = Decimal(0)
    for event in events:
        if isinstance(event, CorporateAction):
            lots, gained = _rescaled(lots, event)
            realized += gained
            continue
        left = event.quantity if event.side is Side.BUY else -event.quantity
        lots, left, charges, gained = _closed(lots, left, event.price, event.charges)
        realized += gained
        if left:
            lots.append((left, event.price, charges))
    quantity = sum(lot[0] for lot in lots)
    value = sum((_value(lot[1], lot[0]) for lot in lots), Decimal(0))
    return Position(
        quantity=int(quantity),
        average_price=value / int(quantity) if quantity else Decimal(0),
        realized=realized,
        open_charges=sum((lot[2] for lot in lots), Decimal(0)),
    )


def _closed(
    lots: list[Lot], left: int | Fraction, price: Decimal, charges: Decimal
) -> tuple[list[Lot], int | Fraction, Decimal, Decimal]:
    """The lots after `left` signed shares traded against them; what of the shares and charges is left; the result."""
    lots, realized = list(lots), Decimal(0)
    while left and lots and (lots[0][0] > 0) != (left > 0):
        held, lot_price, lot_charges = lots[0]
        closed = min(abs(held), abs(left))
        direction = 1 if held > 0 else -1
        entry_charges = _portion(lot_charges, closed, abs(held))
        exit_charges = _portion(charges, closed, abs(left))
        realized += _value(price - lot_price, closed * direction) - entry_charges - exit_charges
        charges -= exit_charges
        left += closed * direction
        rest = held - closed * direction
        if rest:
            lots[0] = (rest, lot_price, lot_charges - entry_charges)
        else:
            lots.pop(0)
    return lots, left, charges, realized


def _rescaled(lots: list[Lot], action: CorporateAction) -> tuple[list[Lot], Decimal]:
    if action.kind not in RESCALING or not lots:
        return lots, Decimal(0)
    ratio = Fraction(action.shares_after, action.shares_before)
    scaled: list[Lot] = [(held * ratio, action.price_after(price), charges) for held, price, charges in lots]
    total = sum(lot[0] for lot in scaled)
    fraction = total - int(total)
    if not fraction:
        return scaled, Decimal(0)
    rest, _, _, realized = _closed(scaled, -fraction, action.fraction_price, Decimal(0))
    return rest, realized


def _value(price: Decimal, shares: int | Fraction) -> Decimal:
    """Rupees for shares, whole or not."""
    return price * shares.numerator / shares.denominator


def _portion(charges: Decimal, shares: int | Fraction, of_shares: int | Fraction) -> Decimal:
    """The part of `charges` that falls on `shares`; all of them exactly, where a quotient would have been rounded."""
    return charges if shares == of_shares else _value(charges, Fraction(shares) / of_shares)
