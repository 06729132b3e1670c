"""Corporate actions in figures: value, P&L and rupees go on unbroken through any ratio, order of fills, late trade."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.domain import ledger
from backend.domain.calendar import IST
from backend.domain.corporate_actions import (
    ActionKind,
    CorporateAction,
    Entitlement,
    Levels,
    bears_out,
    entitlement,
    levels_after,
    merged,
    price_told,
)
from backend.domain.decide import TradeStatus
from backend.domain.ledger import LedgerAccount
from backend.domain.market import Side
from backend.domain.orders import Intent, OrderState
from backend.domain.positions import Execution, position_of
from backend.domain.trades import TradeFill, executed, summarize, timeline

D = Decimal
EX = date(2024, 3, 19)
BEFORE = datetime(2024, 3, 18, 10, 0, tzinfo=IST)
AFTER = datetime(2024, 3, 19, 10, 0, tzinfo=IST)
PAISA = D("0.01")
FILLED = [(Intent.ENTRY, OrderState.FILLED)]

prices = st.decimals(D("1"), D("90000"), places=2)
shares = st.integers(1, 100_000)
ratios = st.tuples(st.integers(1, 10), st.integers(1, 10))


def split(before: int, after: int, close: Decimal = D(1500), kind: ActionKind = ActionKind.SPLIT) -> CorporateAction:
    return CorporateAction("INFY", EX, kind, before, after, close_before=close)


def dividend(amount: Decimal, close: Decimal | None = D(1500)) -> CorporateAction:
    return CorporateAction("INFY", EX, ActionKind.DIVIDEND, amount=amount, close_before=close)


def bought(quantity: int, price: Decimal, at: datetime = BEFORE, charges: Decimal = D(0)) -> TradeFill:
    return TradeFill(Intent.ENTRY, Execution(Side.BUY, quantity, price, charges), at)


def sold(quantity: int, price: Decimal, at: datetime = AFTER, charges: Decimal = D(0)) -> TradeFill:
    return TradeFill(Intent.EXIT, Execution(Side.SELL, quantity, price, charges), at)


def worth(fills: list[TradeFill], actions: list[CorporateAction], price: Decimal) -> Decimal:
    """Realized and unrealized together, in rupees, at `price`."""
    position = position_of(executed(timeline(fills, actions)))
    return position.realized + position.unrealized(price)


@st.composite
def entered_and_partly_left(draw) -> list[TradeFill]:
    """Several buys with charges, and sales of fewer shares than were bought, all before the ex-date."""
    buys = draw(st.lists(st.tuples(shares, prices, prices), min_size=1, max_size=4))
    fills = [bought(q, p, BEFORE + timedelta(minutes=i), c) for i, (q, p, c) in enumerate(buys)]
    left = sum(q for q, _, _ in buys)
    for i in range(draw(st.integers(0, 3))):
        quantity = draw(st.integers(0, left - 1))
        if quantity:
            left -= quantity
            fills.append(sold(quantity, draw(prices), BEFORE + timedelta(hours=2, minutes=i), draw(prices)))
    return fills


@given(fills=entered_and_partly_left(), ratio=ratios, close=prices)
def test_profit_goes_on_unbroken_through_a_split(
    fills: list[TradeFill], ratio: tuple[int, int], close: Decimal
) -> None:
    action = split(*ratio, close)
    before = worth(fills, [], close)
    after = worth(fills, [action], action.price_after(close))
    assert abs(after - before) < PAISA


@given(fills=entered_and_partly_left(), first=ratios, second=ratios, close=prices)
def test_profit_goes_on_unbroken_through_several_actions(
    fills: list[TradeFill], first: tuple[int, int], second: tuple[int, int], close: Decimal
) -> None:
    """A split and a bonus of one day, as large companies do, and the fractions of both."""
    one = split(*first, close)
    two = split(*second, one.price_after(close), ActionKind.BONUS)
    after = worth(fills, [two, one], two.price_after(one.price_after(close)))
    assert abs(after - worth(fills, [], close)) < PAISA


@given(fills=entered_and_partly_left(), ratio=ratios, close=prices, later=prices, charges=prices)
def test_what_is_sold_after_a_split_earns_what_it_would_have_earned_before_it(
    fills: list[TradeFill], ratio: tuple[int, int], close: Decimal, later: Decimal, charges: Decimal
) -> None:
    """The same sale in old shares: equal where nothing was paid out, else apart by the payout's price alone."""
    action = split(*ratio, close)
    held = summarize(FILLED, fills)
    now = summarize(FILLED, fills, [action])
    old, new = held.entry_quantity - held.exit_quantity, now.entry_quantity - now.exit_quantity
    assume(new > 0)
    in_old = worth([*fills, sold(old, later, AFTER, charges)], [], later)
    in_new = worth([*fills, sold(new, action.price_after(later), AFTER, charges)], [action], later)
    fraction = Fraction(old * action.shares_after, action.shares_before) - new
    paid_apart = action.price_after(close - later) * fraction.numerator / fraction.denominator
    assert abs(in_new - in_old - paid_apart) < PAISA


@given(fills=entered_and_partly_left(), ratio=ratios, close=prices)
def test_a_trade_holds_the_whole_shares_and_its_sums_stay_those_of_its_fills(
    fills: list[TradeFill], ratio: tuple[int, int], close: Decimal
) -> None:
    action = split(*ratio, close)
    old, new = summarize(FILLED, fills), summarize(FILLED, fills, [action])
    held = old.entry_quantity - old.exit_quantity
    assert new.entry_quantity - new.exit_quantity == held * ratio[1] // ratio[0]
    assert position_of(executed(timeline(fills, [action]))).quantity == held * ratio[1] // ratio[0]
    assert (new.charges, new.opened_at) == (old.charges, old.opened_at)
    if new.status is TradeStatus.OPEN:
        assert old.entry_price is not None
        assert new.entry_price is not None
        assert abs(new.entry_price * ratio[1] - old.entry_price * ratio[0]) < D("1e-18")
    else:
        assert (new.status, new.closed_at) == (TradeStatus.CLOSED, datetime(2024, 3, 19, tzinfo=IST))


def test_a_trade_by_hand() -> None:
    """11 at 1500 less 4 at 1540, then 3 for 2 at a close of 1530: 7 become 10, half a share is paid out at 1020."""
    fills = [bought(11, D(1500)), sold(4, D(1540), BEFORE + timedelta(hours=1))]
    now = summarize(FILLED, fills, [split(2, 3, D(1530))])
    assert (now.entry_quantity, now.exit_quantity) == (16, 6)
    assert (now.entry_price, now.realized_pnl) == (D(1000), 4 * D(40) + D("0.5") * 20)
    done = summarize(FILLED, [*fills, sold(10, D(1010))], [split(2, 3, D(1530))])
    assert (done.status, done.realized_pnl) == (TradeStatus.CLOSED, D(170) + 10 * D(10))


def test_less_than_one_share_is_an_exit_at_the_close_before() -> None:
    fills = [bought(7, D(10), charges=D(1))]
    summary = summarize(FILLED, fills, [split(10, 1, D(12))])
    assert (summary.status, summary.entry_quantity, summary.exit_quantity) == (TradeStatus.CLOSED, 7, 7)
    assert (summary.exit_price, summary.realized_pnl) == (D(12), D(13))


def test_a_late_fill_of_before_the_ex_date_is_on_the_old_scale_and_one_of_the_day_on_the_new() -> None:
    action = split(1, 5)
    known = summarize(FILLED, [bought(4, D(1500)), bought(10, D(300), AFTER)], [action])
    late = summarize(FILLED, [bought(4, D(1500)), bought(6, D(1500)), bought(10, D(300), AFTER)], [action])
    assert (known.entry_quantity, late.entry_quantity) == (30, 60)
    assert known.entry_price == late.entry_price == D(300)
    sold_late = summarize(FILLED, [bought(4, D(1500)), sold(4, D(1600), BEFORE)], [action])
    assert (sold_late.status, sold_late.realized_pnl, sold_late.exit_quantity) == (TradeStatus.CLOSED, D(400), 4)
    assert sold_late.closed_at == BEFORE  # over before the ex-date: nothing was left to be rescaled


def test_a_dividend_is_income_beside_the_profit() -> None:
    fills = [bought(10, D(1500)), sold(4, D(1510), BEFORE + timedelta(hours=1)), sold(6, D(1490))]
    plain, paid = summarize(FILLED, fills), summarize(FILLED, fills, [dividend(D("12.50"))])
    assert (plain.dividends, paid.dividends) == (D(0), 6 * D("12.50"))
    assert paid.realized_pnl == plain.realized_pnl


def test_a_dividend_of_the_day_of_a_split_is_paid_on_the_old_shares() -> None:
    summary = summarize(FILLED, [bought(10, D(1500))], [split(1, 5), dividend(D(4))])
    assert (summary.dividends, summary.entry_quantity) == (D(40), 50)


@given(quantity=shares, ratio=ratios, close=prices)
def test_an_entitlement_is_worth_what_was_held(quantity: int, ratio: tuple[int, int], close: Decimal) -> None:
    action = split(*ratio, close)
    due = entitlement(action, quantity)
    assert due.shares == quantity * ratio[1] // ratio[0]
    assert 0 <= due.fraction < 1
    assert abs(due.shares * action.price_after(close) + due.cash - quantity * close) <= PAISA
    assert due.cash == due.cash.quantize(PAISA)


def test_a_fraction_is_not_paid_out_at_a_price_nobody_knows() -> None:
    action = CorporateAction("INFY", EX, ActionKind.BONUS, 2, 3)
    assert entitlement(action, 4) == Entitlement(6, Fraction(0), D(0))
    with pytest.raises(ValueError, match="the price before"):
        entitlement(action, 5)


@pytest.mark.parametrize(
    ("amount", "lowered"), [(D("29.99"), D(0)), (D(30), D(30)), (D(200), D(200))], ids=["below", "two_percent", "large"]
)
def test_levels_follow_a_dividend_from_two_per_cent_of_the_price(amount: Decimal, lowered: Decimal) -> None:
    plan = Levels(10, D(1500), D(1545), D(1410))
    after = levels_after(dividend(amount), plan)
    assert after == Levels(10, D(1500) - lowered, D(1545) - lowered, D(1410) - lowered)


def test_levels_wait_for_a_price_before_a_dividend_and_follow_a_split() -> None:
    plan = Levels(10, D(1500), D(1545), D(1410))
    with pytest.raises(ValueError, match="the price before"):
        levels_after(dividend(D(30), None), plan)
    assert levels_after(split(2, 3), plan) == Levels(15, D(1000), D(1030), D(940))
    rename = CorporateAction("INFY", EX, ActionKind.RENAME, new_symbol="INFOSYS")
    assert levels_after(rename, plan) == plan


def told(**by_source: list[CorporateAction]) -> list[CorporateAction]:
    return merged((source, action) for source, actions in by_source.items() for action in actions)


def test_what_is_told_twice_is_one_action_and_contradictions_are_for_a_person() -> None:
    one, other = split(1, 5), split(1, 2)
    assert told(nse=[one, one]) == told(nse=[one], file=[one]) == [one]
    for contradicted in (told(nse=[one, other]), told(nse=[one], file=[other])):
        assert [a.flagged for a in contradicted] == [True]
    assert not one.flagged
    assert [a.kind for a in told(nse=[one, dividend(D(4))])] == [ActionKind.DIVIDEND, ActionKind.SPLIT]


def test_one_sources_dividends_of_a_day_are_paid_together_and_anothers_are_the_same_ones() -> None:
    both = [dividend(D(4)), dividend(D(9))]
    assert [a.amount for a in told(nse=both)] == [D(13)]
    assert [a.amount for a in told(nse=both, file=[dividend(D(13))])] == [D(13)]
    assert [a.flagged for a in told(nse=both, file=[dividend(D(12))])] == [True]


def test_a_bonus_that_another_source_calls_a_split_is_applied_once() -> None:
    """A table of factors knows no kinds: 0.25 is a split of 2 for 1 and a bonus of 1 for 1 in the exchange's words."""
    words = [split(1, 2), split(1, 2, kind=ActionKind.BONUS)]
    assert told(nse=words, file=[split(1, 4)]) == told(file=[split(1, 4)], nse=words) == words
    assert all(a.flagged for a in told(nse=words, file=[split(1, 2)]))
    assert told(file=[split(1, 2)], nse=words[1:]) == words[1:]


def test_what_is_told_under_the_name_of_the_very_day_is_the_old_names() -> None:
    rename = CorporateAction("INFY", EX, ActionKind.RENAME, new_symbol="INFOSYS")
    named = told(nse=[rename, replace(split(1, 5), symbol="INFOSYS")])
    assert [(a.symbol, a.kind) for a in named] == [("INFY", ActionKind.SPLIT), ("INFY", ActionKind.RENAME)]


def test_no_true_ex_date_is_disbelieved_and_a_price_that_stayed_is() -> None:
    both = [split(1, 2), split(1, 2, kind=ActionKind.BONUS)]
    expected = price_told(both, D(1500))
    assert expected == D(375)
    assert all(bears_out(price, expected) for price in (D("346.20"), D(375), D("450.05")))
    assert not any(bears_out(price, expected) for price in (D(1500), D(750), D(290)))


@pytest.mark.parametrize("kind", [ActionKind.RIGHTS, ActionKind.DEMERGER, ActionKind.MERGER, ActionKind.RENAME])
def test_what_no_rule_computes_is_flagged(kind: ActionKind) -> None:
    assert CorporateAction("INFY", EX, kind).flagged


@given(quantity=shares, cost=st.decimals(D(0), D(10**7), places=4), ratio=ratios, close=prices)
def test_the_books_reverse_and_enter_again_at_the_same_cost(
    quantity: int, cost: Decimal, ratio: tuple[int, int], close: Decimal
) -> None:
    """A journal checks that it adds up to zero; here: cost goes on, but for what the paid fraction took along."""
    due = entitlement(split(*ratio, close), quantity)
    journal = ledger.rescale("INFY", quantity, cost, due, "INFY")
    positions = [line for line in journal.lines if line.account is LedgerAccount.POSITIONS]
    assert [line.quantity for line in positions] == [-quantity, due.shares]
    cash = sum(line.amount for line in journal.lines if line.account is LedgerAccount.CASH)
    result = sum(line.amount for line in journal.lines if line.account is LedgerAccount.PNL)
    assert cash == due.cash
    assert sum(line.amount for line in positions) + cash + result == 0
    if not due.fraction:
        assert sum(line.amount for line in positions) == 0
    elif not due.shares:
        assert positions[1].amount == 0


def test_the_fraction_takes_its_part_of_the_cost_along() -> None:
    """7 at 1000 become 10.5: half of 10.5 shares that cost 7000 is 333.33, paid out for 340."""
    journal = ledger.rescale("INFY", 7, D(7000), Entitlement(10, Fraction(1, 2), D(340)), "INFY")
    amounts = [(line.account, line.amount) for line in journal.lines]
    positions, cash, pnl = LedgerAccount.POSITIONS, LedgerAccount.CASH, LedgerAccount.PNL
    assert amounts == [(positions, -7000), (positions, D("6666.67")), (cash, 340), (pnl, D("-6.67"))]


def test_what_was_sold_on_the_ex_date_is_counted_on_the_new_scale() -> None:
    fills = [bought(10, D(1500)), sold(4, D(310))]
    summary = summarize(FILLED, fills, [split(1, 5)])
    assert (summary.entry_quantity, summary.exit_quantity, summary.realized_pnl) == (50, 4, D(40))
