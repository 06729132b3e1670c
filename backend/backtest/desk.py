"""From a recorded order to its fill: the gate on our own books, then the paper broker's rules on its own."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from backend.backtest.account import Account, SimOrder
from backend.backtest.market import Day, Look, Market
from backend.backtest.spec import Spec
from backend.brokers.base import OrderRequest
from backend.brokers.paper import refusal_by_market
from backend.domain.calendar import Phase
from backend.domain.gate import AccountFacts, Refused, admit, needed_rupees
from backend.domain.market import Side
from backend.domain.matching import BarView, match_on_arrival, offered
from backend.domain.orders import OrderEventKind
from backend.domain.reasons import Reason
from backend.domain.risk import OrderIntent, QuoteView
from backend.domain.trading_states import Standings

USER, BROKER = 1, "paper"


class Desk:
    """Sends one account's orders."""

    def __init__(self, spec: Spec, market: Market, account: Account) -> None:
        self._spec, self._market, self._account = spec, market, account

    def send(
        self,
        day: Day,
        look: Look,
        quotes: Mapping[str, QuoteView],
        orders: Sequence[SimOrder],
        standings: Standings,
    ) -> list[tuple[SimOrder, Refused]]:
        """Each order through the gate to the paper market; what the gate refused.

        The gate sees our own books, which learn of this look's fills after all its orders have been sent.
        """
        account, today = self._account, day.date
        cash_free, open_value = account.books_free(today), account.open_value()
        free = {order.intent.symbol: account.shares_free(order.intent.symbol) for order in orders}
        refusals: list[tuple[SimOrder, Refused]] = []
        for order in orders:
            intent, quote = order.intent, quotes.get(order.intent.symbol)
            facts = AccountFacts(
                standing=standings.effective(USER, order.strategy, BROKER),
                cash_free=cash_free,
                funds_total=order.funds_total,
                open_value=open_value,
                shares_free=free[intent.symbol],
                opposite_open=account.opposite_open(intent),
                # Limits in real seconds: a backtest passes years in one.
                sent_last_second=0,
                sent_last_minute=0,
                sent_today=0,
                symbol_sent=0,
                rejections_running=account.rejections_running,
                live_switches=None,
            )
            age_s = (look.at - quote.as_of).total_seconds() if quote is not None else 0.0
            verdict = admit(intent, quote, age_s, facts, self._spec.gate, self._spec.limits)
            if isinstance(verdict, Refused) or quote is None:
                refused = verdict if isinstance(verdict, Refused) else Refused(Reason.NO_QUOTE)
                order.denied = refused.reason
                account.refuse(order, OrderEventKind.DENIED, refused.reason.value, look.at)
                refusals.append((order, refused))
                continue
            order.event(OrderEventKind.SUBMITTED)
            order.sent, order.reserve = True, needed_rupees(intent)
            if self._place(day, look, order, quote) and intent.side is Side.BUY:
                cash_free -= needed_rupees(intent)
                open_value += intent.limit_price * intent.quantity
        return refusals

    def _place(self, day: Day, look: Look, order: SimOrder, quote: QuoteView) -> bool:
        """The paper broker's part; whether it took the order."""
        account, intent = self._account, order.intent
        phase = Phase.CONTINUOUS if day.continuous(intent.symbol, look) else Phase.CLOSED
        refusal = refusal_by_market(_request(intent), phase, quote) or self._refusal_by_account(order, day.date)
        if refusal is not None:
            account.rejections_running += 1
            account.refuse(order, OrderEventKind.REJECTED, refusal, look.at)
            return False
        account.rejections_running = 0
        account.rest(order)
        if self._spec.latency_bars:
            late = timedelta(seconds=(self._spec.latency_bars - 1) * (self._market.interval_s or 0))
            order.arrived = order.matched_through = look.at + late
            order.late = True
            return True
        volume, resting = day.offered(intent.symbol, look, intent.side), account.as_resting(order)
        match = match_on_arrival(resting, quote.bid, quote.ask, volume, quote.tick, self._spec.fills)
        account.book(order, match, look.at)
        return True

    def meet_bars(self, day: Day, look: Look) -> None:
        """Let resting orders meet the bars that have finished since: one that comes late arrives at a bar's open, with
        its spread and slippage, as it would have at a quote."""
        for order in list(self._account.resting):
            since = order.matched_through or order.at
            for bar in day.bars_between(order.intent.symbol, since, look):
                if order.late:
                    self._arrive(day, order, bar)
                else:
                    self._account.advance(order, bar)
                if not order.open_quantity:
                    break

    def _arrive(self, day: Day, order: SimOrder, bar: BarView) -> None:
        intent, quote = order.intent, day.quote_at(order.intent.symbol, bar)
        volume = offered(intent.side, bar.low, bar.high, bar.volume, quote.lower_band, quote.upper_band)
        resting = self._account.as_resting(order)
        match = match_on_arrival(resting, quote.bid, quote.ask, volume, quote.tick, self._spec.fills)
        order.late, order.matched_through = False, bar.end
        self._account.book(order, match, bar.end)

    def _refusal_by_account(self, order: SimOrder, today: date) -> str | None:
        """The broker's words where the account cannot pay for or deliver the order."""
        account, intent = self._account, order.intent
        if intent.side is Side.BUY:
            needed, free = account.cost_of(order), account.broker_free(today)
            return f"Insufficient funds: needs {needed:.2f}, free {free:.2f}." if needed > free else None
        shares = account.shares_free(intent.symbol)
        short = intent.quantity > shares
        return f"Insufficient holdings: sells {intent.quantity}, holds {shares}." if short else None


def _request(intent: OrderIntent) -> OrderRequest:
    return OrderRequest(
        intent.symbol,
        intent.exchange,
        intent.side,
        intent.product,
        intent.order_type,
        intent.quantity,
        intent.limit_price,
        "",
    )
