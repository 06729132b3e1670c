"""Whatever the market, the funds and the plan: no order beyond a limit, and every candidate answered for."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import event, given, settings
from hypothesis import strategies as st

from backend.domain.decide import UserDecision, UserState, decide
from backend.domain.market import Product, Side
from backend.domain.modes import MODE_RULES, Mode
from backend.domain.orders import Intent
from backend.domain.ranking import MarketView, Signal, rank
from backend.domain.reasons import Reason
from backend.domain.risk import QuoteView
from tests.support.decision_views import LIMITS, make_market, make_quote, make_signal, make_trade, make_user

D = Decimal
SYMBOLS = ["A", "B", "C", "D", "E", "F", "G", "H"]
WITH_CHARGES = D("1.0015")

prices = st.one_of(st.integers(20, 2_000), st.integers(2_000, 60_000)).map(lambda ticks: ticks * D("0.05"))
stocks = st.tuples(
    prices,
    st.sampled_from([1, 1, 1, 25]),  # lot
    st.one_of(st.just(100_000), st.integers(1, 500)),  # freeze quantity
    st.sampled_from([D(1), D(1), D("1.01")]),  # reference price over last price
    st.sampled_from([0.2, 0.05, 0.03, 0.015, 0.005]),  # expected net return
    st.sampled_from([0.02, 0.01, 0.001, -0.01]),  # its lower bound
)


@st.composite
def markets(draw: st.DrawFn) -> MarketView:
    """Four to eight shares, most of them to be bought by some mode."""
    quotes: dict[str, QuoteView] = {}
    signals: dict[str, Signal] = {}
    for symbol, stock in zip(SYMBOLS, draw(st.lists(stocks, min_size=4, max_size=len(SYMBOLS))), strict=False):
        price, lot, freeze, reference, expected, lower = stock
        quotes[symbol] = make_quote(symbol, price, lot=lot, freeze_quantity=freeze)
        signals[symbol] = make_signal(
            symbol, price * reference, expected_return_net=expected, expected_return_net_lower=lower
        )
    return make_market(quotes, signals)


def around(rupees: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(rupees * D("0.5"), rupees * 2, places=2)


@st.composite
def users(draw: st.DrawFn) -> UserState:
    """A user with any funds, quota and settings; some symbols blocked, one trade that may have to be left."""
    total = draw(st.sampled_from([10_000, 100_000, 500_000, 1_000_000, 30_000_000]).flatmap(around))
    percents = st.sampled_from([0, 0, 0, 10, 50, 70, 79, 80, 81])
    blocked = draw(st.frozensets(st.sampled_from(SYMBOLS), max_size=2))
    return make_user(
        mode=draw(st.sampled_from(Mode)),
        product=draw(st.sampled_from(Product)),
        symbols=frozenset(SYMBOLS) - draw(st.frozensets(st.sampled_from(SYMBOLS), max_size=2)),
        cash_free=total * draw(st.sampled_from([100, 100, 100, 50, 10, 1, 0, -1])) / 100,
        funds_total=total,
        funds_in_use=total * draw(percents) / 100,
        plan_entries_left=draw(st.sampled_from([8, 8, 5, 3, 1, 0])),
        own_entries_left=draw(st.sampled_from([None, None, 8, 3, 1, 0])),
        holdings={"A": draw(st.integers(0, 20))},
        open_trades=(make_trade(symbol="A", target=draw(prices), stop=draw(prices)),),
        blocked=dict.fromkeys(blocked | {"A"}, Reason.ALREADY_HELD),
    )


def decided(market: MarketView, user: UserState) -> UserDecision:
    return decide(market, rank(market, user.mode, LIMITS), user, LIMITS)


@settings(max_examples=300)
@given(markets(), users())
def test_no_entry_breaks_a_limit(market: MarketView, user: UserState) -> None:
    entries = decided(market, user).entries
    event(f"{len(entries)} entries")
    orders = [entry.approved.order for entry in entries]
    symbols = [order.symbol for order in orders]
    assert len(set(symbols)) == len(symbols)
    assert set(symbols) <= user.symbols - set(user.blocked)
    left = [user.plan_entries_left, *([] if user.own_entries_left is None else [user.own_entries_left])]
    assert len(entries) <= min(left)
    values = [order.limit_price * order.quantity for order in orders]
    share = MODE_RULES[user.mode].funds_fraction
    assert all(value * WITH_CHARGES <= user.funds_total * share for value in values)
    assert all(value * WITH_CHARGES <= LIMITS.order_value_rupees_max for value in values)
    assert not entries or sum(values) * WITH_CHARGES <= user.cash_free
    assert not entries or user.funds_in_use + sum(values) <= user.funds_total * D("0.8")


@given(markets(), users())
def test_every_order_is_whole_priced_on_the_tick_and_within_reach(market: MarketView, user: UserState) -> None:
    decision = decided(market, user)
    for order in (planned.approved.order for planned in [*decision.entries, *decision.exits]):
        quote = market.quotes[order.symbol]
        assert order.side is (Side.BUY if order.intent is Intent.ENTRY else Side.SELL)
        assert 0 < order.quantity <= quote.freeze_quantity
        assert order.quantity % quote.lot == 0
        assert order.limit_price % quote.tick == 0
        assert quote.lower_band <= order.limit_price <= quote.upper_band
        if order.intent is Intent.ENTRY:
            assert order.limit_price <= quote.last * D("1.003")
            assert order.product is user.product
        else:
            assert order.limit_price >= quote.last * D("0.99")
            assert order.quantity <= user.holdings[order.symbol]


@given(markets(), users())
def test_every_candidate_is_answered_for_once_in_the_rankings_order(market: MarketView, user: UserState) -> None:
    ranking = rank(market, user.mode, LIMITS)
    decision = decide(market, ranking, user, LIMITS)
    assert {c.signal.symbol for c in ranking.candidates} | set(ranking.rejected) == set(market.continuous)
    answered = [o for o in decision.outcomes if o.intent is Intent.ENTRY]
    chosen = [c.signal.symbol for c in ranking.candidates if c.signal.symbol in user.symbols]
    assert [o.symbol for o in answered] == chosen
    taken = [
        (e.approved.order.symbol, e.approved.order.quantity, e.approved.order.limit_price) for e in decision.entries
    ]
    assert [(o.symbol, o.quantity, o.limit_price) for o in answered if o.reason is None] == taken
    intents = [o.intent for o in decision.outcomes]
    assert intents == sorted(intents, key=[Intent.EXIT, Intent.ENTRY].index)


@given(markets(), users())
def test_the_same_inputs_in_any_order_give_the_same_decision(market: MarketView, user: UserState) -> None:
    shuffled = replace(
        market,
        continuous=dict(sorted(market.continuous.items(), reverse=True)),
        quotes=dict(sorted(market.quotes.items(), reverse=True)),
        signals=dict(sorted(market.signals.items(), reverse=True)),
    )
    assert decided(shuffled, user) == decided(market, user)


@given(markets(), users())
def test_exits_need_no_prediction_and_no_plan(market: MarketView, user: UserState) -> None:
    bare = replace(market, signals={})
    poor = replace(user, enabled=False, plan_entries_left=0, own_entries_left=0, cash_free=D(0), funds_total=D(0))
    assert decided(bare, poor).exits == decided(market, user).exits


def test_funds_last_until_a_limit_is_reached_and_then_the_reason_is_said() -> None:
    """An aggressive user takes 10 % eight times, what the 80 % then leave once, and nothing after that."""
    symbols = [f"S{i}" for i in range(10)]
    quotes = {symbol: make_quote(symbol, 100) for symbol in symbols}
    market = make_market(quotes, {symbol: make_signal(symbol, 100) for symbol in symbols})
    user = make_user(mode=Mode.AGGRESSIVE, symbols=frozenset(symbols), plan_entries_left=100)
    decision = decided(market, user)
    assert [e.approved.order.quantity for e in decision.entries] == [497] * 8 + [6]
    assert sum(e.approved.order.limit_price * e.approved.order.quantity for e in decision.entries) <= 400_000
    assert [o.reason for o in decision.outcomes] == [None] * 9 + [Reason.FUNDS_IN_USE_LIMIT]
    assert decided(market, replace(user, plan_entries_left=3)).outcomes[3].reason is Reason.PLAN_LIMIT
    assert decided(market, replace(user, own_entries_left=2)).outcomes[2].reason is Reason.OWN_DAY_LIMIT


def test_a_large_account_is_held_to_the_platforms_order_value() -> None:
    rich = make_user(funds_total=D(10**9), cash_free=D(10**9))
    (entry,) = decided(make_market(), rich).entries
    assert entry.approved.order.quantity == 995  # 10,00,000 / (1003 × 1.0015)


def test_an_entry_leaves_room_for_the_charges_of_those_before_it() -> None:
    """5 % of ten lakh buys 497 shares at 100.30; of ₹60,000 in cash, ₹10,076.13 remain: 100 shares, and not 101."""
    quotes = {symbol: make_quote(symbol, 100) for symbol in "AB"}
    market = make_market(quotes, {symbol: make_signal(symbol, 100) for symbol in "AB"})
    user = make_user(mode=Mode.CONSERVATIVE, symbols=frozenset("AB"), funds_total=D(1_000_000), cash_free=D(60_000))
    assert [e.approved.order.quantity for e in decided(market, user).entries] == [497, 100]
