"""What is held and what it earned: first in, first out, net of charges."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from backend.domain.market import Side


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


def position_of(executions: Iterable[Execution]) -> Position:
    """Fold fills, oldest first, into a position: FIFO, as Indian tax and contract notes match lots per demat account.

    A fill that goes through zero closes the old lots first and opens the rest on the other side; its charges are split
    by shares.
    """
    lots: list[tuple[int, Decimal, Decimal]] = []  # signed shares, price, charges of the lot
    realized = Decimal(0)
    for fill in executions:
        left = fill.quantity if fill.side is Side.BUY else -fill.quantity
        charges = fill.charges
        while left and lots and (lots[0][0] > 0) != (left > 0):
            held, price, lot_charges = lots[0]
            closed = min(abs(held), abs(left))
            direction = 1 if held > 0 else -1
            entry_charges = _portion(lot_charges, closed, abs(held))
            exit_charges = _portion(charges, closed, abs(left))
            realized += (fill.price - price) * closed * direction - entry_charges - exit_charges
            charges -= exit_charges
            left += closed * direction
            rest = held - closed * direction
            if rest:
                lots[0] = (rest, price, lot_charges - entry_charges)
            else:
                lots.pop(0)
        if left:
            lots.append((left, fill.price, charges))
    quantity = sum(lot[0] for lot in lots)
    value = sum((lot[0] * lot[1] for lot in lots), Decimal(0))
    return Position(
        quantity=quantity,
        average_price=value / quantity if quantity else Decimal(0),
        realized=realized,
        open_charges=sum((lot[2] for lot in lots), Decimal(0)),
    )


def _portion(charges: Decimal, shares: int, of_shares: int) -> Decimal:
    """The part of `charges` that falls on `shares`; all of them exactly, where a quotient would have been rounded."""
    return charges if shares == of_shares else charges * shares / of_shares
