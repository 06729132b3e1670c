"""Views of a quiet market and a funded user, from which each test of the decision changes only what it is about."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from backend.domain.calendar import IST
from backend.domain.charges import round_trip_fraction
from backend.domain.decide import OpenTrade, UserState
from backend.domain.market import Exchange, OrderType, Product, Side, fixed_band
from backend.domain.modes import Mode
from backend.domain.orders import Intent
from backend.domain.ranking import MarketView, Signal, SignalAction
from backend.domain.risk import OrderIntent, QuoteView, RiskLimits

NOW = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
TODAY = NOW.date()
LIMITS = RiskLimits()
SQUARE_OFF = NOW.replace(hour=15, minute=5)
HORIZON_END = date(2024, 4, 2)


def make_quote(symbol: str = "INFY", last: Decimal | str | int = 1000, **changes: Any) -> QuoteView:
    """A quote of one second ago: a tick of 0.05 each side, bands of ±10 %."""
    price = Decimal(last)
    band = fixed_band(price, Decimal(10), Decimal("0.05"))
    quote = QuoteView(
        symbol=symbol,
        as_of=NOW - timedelta(seconds=1),
        last=price,
        bid=price - Decimal("0.05"),
        ask=price + Decimal("0.05"),
        lower_band=band.lower,
        upper_band=band.upper,
        tick=Decimal("0.05"),
        lot=1,
        freeze_quantity=100_000,
        source="test",
    )
    return replace(quote, **changes)


def make_order(**changes: Any) -> OrderIntent:
    """A buy of ten shares at 1000."""
    order = OrderIntent("INFY", "nse", Side.BUY, Product.CNC, OrderType.LIMIT, 10, Decimal(1000), Intent.ENTRY)
    return replace(order, **changes)


def make_signal(symbol: str = "INFY", reference_close: Decimal | str | int = 1000, **changes: Any) -> Signal:
    """A buy that every mode takes."""
    price = Decimal(reference_close)
    signal = Signal(
        symbol=symbol,
        action=SignalAction.BUY,
        strategy="momentum",
        model_version="v1",
        horizon_sessions=10,
        touch=dict.fromkeys((0.01, 0.015, 0.02, 0.025, 0.03, 0.035), 0.9),
        expected_return_net=0.05,
        expected_return_net_lower=0.02,
        reference_close=price,
        target=price * Decimal("1.06"),
        stop=price * Decimal("0.96"),
        certified_modes=frozenset(Mode),
        valid_until=NOW.replace(hour=23),
    )
    return replace(signal, **changes)


def make_market(
    quotes: Mapping[str, QuoteView] | None = None, signals: Mapping[str, Signal] | None = None, **changes: Any
) -> MarketView:
    """A continuous market of the symbols quoted or predicted, with the real charges of its day."""
    quotes = {"INFY": make_quote()} if quotes is None else quotes
    signals = {"INFY": make_signal()} if signals is None else signals
    symbols = sorted({*quotes, *signals})
    market = MarketView(
        now=NOW,
        today=TODAY,
        continuous=dict.fromkeys(symbols, True),
        square_off_at=dict.fromkeys(symbols, SQUARE_OFF),
        signals=signals,
        quotes=quotes,
        exchange=Exchange.NSE.value,
        horizon_end=lambda _sessions: HORIZON_END,
        round_trip_charges=lambda price, shares, product: round_trip_fraction(
            price, shares, product, Exchange.NSE, on=TODAY
        ),
    )
    return replace(market, **changes)


def make_user(**changes: Any) -> UserState:
    """A moderate user with ₹5,00,000 in cash who has chosen INFY."""
    user = UserState(
        user_id=1,
        account_id=1,
        mode=Mode.MODERATE,
        product=Product.CNC,
        symbols=frozenset({"INFY"}),
        enabled=True,
        cash_free=Decimal(500_000),
        funds_total=Decimal(500_000),
        funds_in_use=Decimal(0),
        plan_entries_left=5,
        own_entries_left=None,
        entries_cap=5,
        holdings={},
        open_trades=(),
        blocked={},
    )
    return replace(user, **changes)


def make_trade(**changes: Any) -> OpenTrade:
    """Ten shares held at around 1000, with target 1060, stop 960 and days to go."""
    trade = OpenTrade(7, "INFY", Product.CNC, "momentum", 10, Decimal(1060), Decimal(960), horizon_ends_on=HORIZON_END)
    return replace(trade, **changes)
