"""An auto-trade as the sum of its orders and fills: recomputed from them, never counted up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal

from backend.domain.calendar import IST
from backend.domain.corporate_actions import RESCALING, ActionKind, CorporateAction
from backend.domain.decide import TradeStatus
from backend.domain.orders import LIVE_STATES, Intent, OrderState
from backend.domain.positions import Execution, position_of


@dataclass(frozen=True, slots=True)
class TradeFill:
    """One fill of one of the trade's orders, oldest first where there are many."""

    intent: Intent
    execution: Execution
    at: datetime


@dataclass(frozen=True, slots=True)
class TradeSummary:
    """Shares, average rupees per share, charges and realized P&L in rupees; `realized_pnl` is net of charges and knows
    prices only: `dividends` are income of their own. All of it is on the scale after the last corporate action."""

    status: TradeStatus
    entry_quantity: int
    entry_price: Decimal | None
    exit_quantity: int
    exit_price: Decimal | None
    charges: Decimal
    realized_pnl: Decimal
    opened_at: datetime | None
    closed_at: datetime | None
    dividends: Decimal = Decimal(0)


def summarize(
    states: Sequence[tuple[Intent, OrderState]],
    fills: Sequence[TradeFill],
    actions: Sequence[CorporateAction] = (),
) -> TradeSummary:
    """Where a trade stands, from its orders' states, their fills, and the corporate actions of its share since.

    An exit under way makes it EXITING; an entry under way ENTERING; an ended entry without a fill CANCELLED; otherwise
    it is OPEN while shares are held and CLOSED when none are. A late fill therefore reopens what seemed over.
    """
    events = timeline(fills, actions)
    tally = _Tally()
    for event in events:
        tally.add(event)
    entered, left = tally.entered, tally.left
    status = _status(states, entered.quantity, left.quantity)
    return TradeSummary(
        status=status,
        entry_quantity=entered.quantity,
        entry_price=entered.average,
        exit_quantity=left.quantity,
        exit_price=left.average,
        charges=sum((f.execution.charges for f in fills), Decimal(0)),
        realized_pnl=position_of(executed(events)).realized,
        dividends=tally.dividends,
        opened_at=entered.first_at,
        closed_at=left.last_at if status is TradeStatus.CLOSED else None,
    )


def timeline(fills: Sequence[TradeFill], actions: Sequence[CorporateAction]) -> list[TradeFill | CorporateAction]:
    """Fills, oldest first already, and actions in the order in which they happened: an action comes before the first
    trade of its ex-date, however late a trade of the days before became known."""
    placed = [((f.at.astimezone(IST).date(), 1, number), f) for number, f in enumerate(fills)]
    acted = [((action.ex_date, 0, action.turn), action) for action in actions]
    return [event for _, event in sorted([*placed, *acted], key=lambda pair: pair[0])]


def executed(events: Sequence[TradeFill | CorporateAction]) -> list[Execution | CorporateAction]:
    """A timeline as `position_of` folds it."""
    return [event.execution if isinstance(event, TradeFill) else event for event in events]


@dataclass(slots=True)
class _Sum:
    """Shares one way and their value in rupees."""

    quantity: int = 0
    value: Decimal = Decimal(0)
    first_at: datetime | None = None
    last_at: datetime | None = None

    @property
    def average(self) -> Decimal | None:
        return self.value / self.quantity if self.quantity else None

    def add(self, quantity: int, price: Decimal, at: datetime) -> None:
        self.quantity += quantity
        self.value += price * quantity
        self.first_at, self.last_at = self.first_at or at, at

    def rescale(self, quantity: int, action: CorporateAction) -> None:
        """As many shares as `quantity`, at the same average price on the new scale."""
        if self.quantity:
            self.value = action.price_after(self.value / self.quantity) * quantity
            self.quantity = quantity


@dataclass(slots=True)
class _Tally:
    """What was entered and left so far, on the scale of the last event."""

    entered: _Sum = field(default_factory=_Sum)
    left: _Sum = field(default_factory=_Sum)
    dividends: Decimal = Decimal(0)

    def add(self, event: TradeFill | CorporateAction) -> None:
        if isinstance(event, TradeFill):
            one_way = self.entered if event.intent is Intent.ENTRY else self.left
            one_way.add(event.execution.quantity, event.execution.price, event.at)
            return
        held = self.entered.quantity - self.left.quantity
        if held <= 0:
            return
        if event.kind is ActionKind.DIVIDEND:
            self.dividends += held * event.amount
        elif event.kind in RESCALING:
            self._rescale(held, event)

    def _rescale(self, held: int, action: CorporateAction) -> None:
        kept = held * action.shares_after // action.shares_before
        if not kept:
            # Less than one share came out of it: the payout is the exit, and there is no new scale to be on.
            price = action.fraction_price * action.shares_after / action.shares_before
            self.left.add(held, price, datetime.combine(action.ex_date, time(), tzinfo=IST))
            return
        left = self.left.quantity * action.shares_after // action.shares_before
        self.left.rescale(left, action)
        self.entered.rescale(left + kept, action)


def _status(states: Sequence[tuple[Intent, OrderState]], entry_quantity: int, exit_quantity: int) -> TradeStatus:
    live = {intent for intent, state in states if state in LIVE_STATES}
    if Intent.EXIT in live:
        return TradeStatus.EXITING
    if Intent.ENTRY in live:
        return TradeStatus.ENTERING
    if entry_quantity == 0:
        return TradeStatus.CANCELLED
    return TradeStatus.CLOSED if exit_quantity >= entry_quantity else TradeStatus.OPEN
