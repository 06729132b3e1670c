"""Several strategies and one user: which proposal is taken, at what costs, and how much may move together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.decide import UserDecision, UserState, decide
from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.ranking import MarketView, Ranking, Signal, SignalAction, rank
from backend.domain.reasons import Reason
from backend.domain.trading_states import Cause, Scope, Standing, Standings, TradingState
from tests.support.decision_views import (
    HORIZON_END,
    LIMITS,
    NOW,
    TODAY,
    make_market,
    make_quote,
    make_signal,
    make_trade,
    make_user,
)

D = Decimal
LEARNED = "ensemble"


def market_of(proposals: Mapping[str, Sequence[Signal]], **changes: Any) -> MarketView:
    """INFY and TCS, of which the machine-learned strategy thinks nothing, and what others propose."""
    symbols = sorted({"INFY", "TCS", *proposals})
    quotes = {symbol: make_quote(symbol) for symbol in symbols}
    learned = {symbol: make_signal(symbol, strategy=LEARNED, action=SignalAction.HOLD) for symbol in symbols}
    return make_market(quotes, learned, proposals=proposals, **changes)


def pairs(ranking: Ranking) -> list[tuple[str, str]]:
    return [(c.signal.symbol, c.signal.strategy) for c in ranking.candidates]


def decided(market: MarketView, user: UserState, **limits: Any) -> UserDecision:
    return decide(market, rank(market, user.mode, LIMITS), user, replace(LIMITS, **limits))


def told(decision: UserDecision) -> dict[str, tuple[str | None, Reason | None]]:
    assert len({o.symbol for o in decision.outcomes}) == len(decision.outcomes)
    taken = {(e.approved.order.symbol, e.candidate.signal.strategy) for e in decision.entries}
    assert taken == {(o.symbol, o.strategy) for o in decision.outcomes if o.reason is None}
    return {o.symbol: (o.strategy, o.reason) for o in decision.outcomes}


BREAKOUT = make_signal(strategy="breakout", expected_return_net_lower=0.01)
MOMENTUM = make_signal(strategy="momentum", expected_return_net_lower=0.02)
SQUEEZE = make_signal("TCS", strategy="squeeze", expected_return_net_lower=0.015)
THREE = {"INFY": [BREAKOUT, MOMENTUM], "TCS": [SQUEEZE]}


@given(st.permutations([BREAKOUT, MOMENTUM]), st.permutations(["INFY", "TCS"]))
def test_every_pair_of_a_symbol_and_a_strategy_has_its_own_rank(order: list[Signal], symbols: list[str]) -> None:
    proposals: dict[str, Sequence[Signal]] = {"INFY": order, "TCS": [SQUEEZE]}
    market = market_of({symbol: proposals[symbol] for symbol in symbols})
    market = replace(market, continuous=dict.fromkeys(symbols, True))
    ranking = rank(market, Mode.MODERATE, LIMITS)
    assert pairs(ranking) == [("INFY", "momentum"), ("TCS", "squeeze"), ("INFY", "breakout")]
    assert ranking.rejected == {}


def test_pairs_alike_are_ranked_by_name() -> None:
    same = [replace(MOMENTUM, strategy=name) for name in ("squeeze", "breakout")]
    market = market_of({"TCS": [SQUEEZE, replace(SQUEEZE, strategy="a")], "INFY": same})
    assert pairs(rank(market, Mode.MODERATE, LIMITS)) == [
        ("INFY", "breakout"),
        ("INFY", "squeeze"),
        ("TCS", "a"),
        ("TCS", "squeeze"),
    ]


def test_the_rank_is_that_at_the_present_price() -> None:
    """A lower bound of 2 % is less than one of 1.5 % once the entry has become 1 % dearer."""
    market = market_of(THREE)
    market = replace(market, quotes={**market.quotes, "INFY": make_quote(last=1010)})
    assert pairs(rank(market, Mode.MODERATE, LIMITS))[0] == ("TCS", "squeeze")


def test_a_strategy_trades_in_the_modes_it_is_certified_for_and_no_others() -> None:
    only = replace(MOMENTUM, certified_modes=frozenset({Mode.AGGRESSIVE}))
    market = market_of({"INFY": [only]})
    assert pairs(rank(market, Mode.AGGRESSIVE, LIMITS)) == [("INFY", "momentum")]
    assert pairs(rank(market, Mode.MODERATE, LIMITS)) == []


@pytest.mark.parametrize(
    ("proposals", "reason", "strategy"),
    [
        ([], Reason.NOT_A_BUY, LEARNED),
        ([{"certified_modes": frozenset()}], Reason.NOT_A_BUY, LEARNED),
        ([{"action": SignalAction.HOLD}], Reason.NOT_A_BUY, LEARNED),
        ([{"valid_until": NOW}], Reason.PREDICTION_EXPIRED, "rule0"),
        ([{"touch": {0.015: 0.5}}, {"expected_return_net": 0.01}], Reason.RETURN_BELOW_MODE, "rule1"),
        ([{"expected_return_net_lower": 0.0}, {"touch": {0.015: 0.5}}], Reason.LOWER_BOUND_NOT_POSITIVE, "rule0"),
        ([{"touch": {0.015: 0.5}}, {"touch": {0.015: 0.6}}], Reason.CONFIDENCE_BELOW_MODE, "rule0"),
    ],
)
def test_a_symbol_that_is_not_taken_shows_the_nearest_miss(
    proposals: list[dict[str, Any]], reason: Reason, strategy: str
) -> None:
    offered = [make_signal(strategy=f"rule{i}", **changes) for i, changes in enumerate(proposals)]
    missed = rank(market_of({"INFY": offered}), Mode.MODERATE, LIMITS).rejected["INFY"]
    assert (missed.reason, missed.strategy) == (reason, strategy)


def test_a_symbol_nobody_speaks_of_has_no_prediction() -> None:
    market = make_market({"INFY": make_quote()}, {})
    missed = rank(market, Mode.MODERATE, LIMITS).rejected["INFY"]
    assert (missed.reason, missed.strategy) == (Reason.NO_PREDICTION, None)


BOTH = make_user(symbols=frozenset({"INFY", "TCS"}))


@pytest.mark.parametrize(
    ("strategies", "answer"),
    [
        (set(), {"INFY": ("momentum", None), "TCS": ("squeeze", None)}),
        ({"momentum", "squeeze"}, {"INFY": ("momentum", None), "TCS": ("squeeze", None)}),
        ({"breakout"}, {"INFY": ("breakout", None), "TCS": ("squeeze", Reason.STRATEGY_NOT_ENABLED)}),
        (
            {LEARNED},
            {"INFY": ("momentum", Reason.STRATEGY_NOT_ENABLED), "TCS": ("squeeze", Reason.STRATEGY_NOT_ENABLED)},
        ),
    ],
)
def test_only_what_the_user_enabled_is_entered_and_only_once(
    strategies: set[str], answer: dict[str, tuple[str, Reason | None]]
) -> None:
    assert told(decided(market_of(THREE), replace(BOTH, strategies=frozenset(strategies)))) == answer


def test_a_strategy_that_is_not_enabled_is_named_only_where_no_other_proposes() -> None:
    poor = replace(BOTH, strategies=frozenset({"breakout"}), funds_total=D(0), cash_free=D(0))
    assert told(decided(market_of(THREE), poor)) == {
        "INFY": ("breakout", Reason.BUDGET_BELOW_ONE_SHARE),
        "TCS": ("squeeze", Reason.STRATEGY_NOT_ENABLED),
    }


def test_a_halted_strategy_leaves_the_symbol_to_another() -> None:
    halt = Standing(Scope.STRATEGY, "momentum", TradingState.HALTED, False, Cause.ADMIN, "x", NOW, 1)
    user = replace(BOTH, standings=Standings((halt,)))
    assert told(decided(market_of(THREE), user))["INFY"] == ("breakout", None)


INTRADAY = make_signal(strategy="opening", intraday=True)
ONE_SESSION = make_signal(strategy="one_day", horizon_sessions=1)
TEN_SESSIONS = make_signal(strategy="ten_days")


@pytest.mark.parametrize(
    ("signals", "product", "taken", "reason"),
    [
        ([INTRADAY], Product.MIS, "opening", None),
        ([INTRADAY], Product.CNC, "opening", Reason.INTRADAY_ONLY),
        ([ONE_SESSION], Product.MIS, "one_day", None),
        ([ONE_SESSION], Product.CNC, "one_day", None),
        ([TEN_SESSIONS], Product.MIS, "ten_days", Reason.NO_INTRADAY_MODEL),
        ([INTRADAY, TEN_SESSIONS], Product.CNC, "ten_days", None),
        ([INTRADAY, TEN_SESSIONS], Product.MIS, "opening", None),
    ],
)
def test_a_prediction_serves_the_product_it_is_of(
    signals: list[Signal], product: Product, taken: str, reason: Reason | None
) -> None:
    decision = decided(market_of({"INFY": signals}), make_user(product=product))
    assert told(decision) == {"INFY": (taken, reason)}
    ends: list[date] = [entry.horizon_ends_on for entry in decision.entries]
    assert ends == ([] if reason else [TODAY if product is Product.MIS else HORIZON_END])


@pytest.mark.parametrize(("contained", "reason"), [("0.0035", None), ("0.0010", Reason.EDGE_BELOW_CHARGES)])
def test_charges_beyond_those_the_prediction_contains_are_taken_off(contained: str, reason: Reason | None) -> None:
    """A delivery round trip of ₹37,500 costs about 0.27 %: 1.6 % net of 0.10 % is less than 1.5 % net of all of it."""
    signal = make_signal(expected_return_net=0.016, cost_fraction=D(contained))
    (outcome,) = decided(make_market(signals={"INFY": signal}), make_user()).outcomes
    assert outcome.reason is reason


CLUSTERED = [f"S{i}" for i in range(6)]


def banks(cluster: str | None = "BANKS", **changes: Any) -> MarketView:
    """Six shares of one cluster, S0 the best."""
    proposals = {
        symbol: [make_signal(symbol, cluster=cluster, expected_return_net_lower=0.03 - i / 1000)]
        for i, symbol in enumerate(CLUSTERED)
    }
    return market_of(proposals, **changes)


HOLDER = make_user(mode=Mode.CONSERVATIVE, symbols=frozenset(CLUSTERED), plan_entries_left=9)


def entered(decision: UserDecision) -> list[str]:
    denied = {o.reason for o in decision.outcomes if o.symbol in CLUSTERED} - {None}
    assert denied <= {Reason.CLUSTER_FULL}
    return [entry.approved.order.symbol for entry in decision.entries]


def held(*symbols: str, **changes: Any) -> UserState:
    trades = tuple(make_trade(trade_id=i, symbol=symbol, **changes) for i, symbol in enumerate(symbols))
    return replace(HOLDER, open_trades=trades)


def test_a_cluster_is_entered_up_to_its_limit_the_best_first() -> None:
    assert entered(decided(banks(), HOLDER)) == CLUSTERED[:3]
    assert entered(decided(banks(), HOLDER, cluster_positions_max=5)) == CLUSTERED[:5]
    assert entered(decided(banks(None), HOLDER)) == CLUSTERED


@pytest.mark.parametrize("entering", [True, False])
def test_open_and_entering_trades_fill_their_cluster(entering: bool) -> None:
    assert entered(decided(banks(), held("A", "B", cluster="BANKS", entering=entering))) == CLUSTERED[:1]
    assert entered(decided(banks(), held("A", "B", cluster="METALS", entering=entering))) == CLUSTERED[:3]


def test_a_trade_counts_in_the_cluster_it_was_entered_with_and_in_the_present_one_of_its_symbol() -> None:
    market = banks()
    metals = {"TCS": make_signal("TCS", strategy=LEARNED, action=SignalAction.HOLD, cluster="BANKS")}
    market = replace(market, signals={**market.signals, **metals})
    assert entered(decided(market, held("TCS", "TCS"))) == CLUSTERED[:1]
    # A cluster's name may change while its members do not.
    assert entered(decided(market, held("TCS", "TCS", cluster="METALS"))) == CLUSTERED[:1]
    # Once, where both are one; and in the one it was entered with while its symbol's present one is not known.
    assert entered(decided(market, held("TCS", "TCS", cluster="BANKS"))) == CLUSTERED[:1]
    assert entered(decided(banks(), held("TCS", "TCS", cluster="BANKS"))) == CLUSTERED[:1]


def test_a_full_cluster_bars_no_exit() -> None:
    market = banks()
    market = replace(market, quotes={**market.quotes, "INFY": make_quote(last=950)})
    holder = held(*["INFY"], cluster="BANKS")
    holder = replace(holder, holdings={"INFY": 10})
    decision = decided(market, holder, cluster_positions_max=1)
    assert [e.trade.symbol for e in decision.exits] == ["INFY"]
    assert entered(decision) == []


def test_an_expired_sell_is_no_exit_and_a_proposal_to_sell_is_none_either() -> None:
    selling = make_signal(strategy="momentum", action=SignalAction.SELL)
    learned = replace(selling, strategy=LEARNED)
    holder = make_user(open_trades=(make_trade(),), holdings={"INFY": 10}, blocked={"INFY": Reason.ALREADY_HELD})
    assert len(decided(make_market(signals={"INFY": learned}), holder).exits) == 1
    assert decided(market_of({"INFY": [selling]}), holder).exits == []
    expired = replace(learned, valid_until=NOW)
    assert decided(make_market(signals={"INFY": expired}), holder).exits == []
    later = replace(learned, valid_until=NOW + timedelta(seconds=1))
    assert len(decided(make_market(signals={"INFY": later}), holder).exits) == 1


names = st.sampled_from(["a", "b", "c"])
offers = st.lists(
    st.builds(
        lambda symbol, strategy, lower, cluster, intraday: make_signal(
            symbol, strategy=strategy, expected_return_net_lower=lower, cluster=cluster, intraday=intraday
        ),
        st.sampled_from(CLUSTERED),
        names,
        st.sampled_from([0.01, 0.02, 0.03]),
        st.sampled_from([None, "X", "Y"]),
        st.booleans(),
    ),
    unique_by=lambda s: (s.symbol, s.strategy),
)


@given(offers, st.frozensets(names), st.integers(1, 4), st.lists(st.sampled_from([None, "X", "Y"]), max_size=4))
def test_no_strategy_and_no_cluster_takes_more_than_it_may(
    offered: list[Signal], enabled: frozenset[str], positions_max: int, clusters: list[str | None]
) -> None:
    proposals: dict[str, list[Signal]] = {symbol: [] for symbol in CLUSTERED}
    for signal in offered:
        proposals[signal.symbol].append(signal)
    trades = tuple(make_trade(trade_id=i, symbol=f"H{i}", cluster=cluster) for i, cluster in enumerate(clusters))
    user = replace(HOLDER, strategies=enabled, open_trades=trades)
    decision = decided(market_of(proposals), user, cluster_positions_max=positions_max)
    signals = [entry.candidate.signal for entry in decision.entries]
    assert all(not enabled or signal.strategy in enabled for signal in signals)
    assert not any(signal.intraday for signal in signals)
    assert len({signal.symbol for signal in signals}) == len(signals)
    for cluster in ("X", "Y"):
        new = sum(signal.cluster == cluster for signal in signals)
        assert new == 0 or new + clusters.count(cluster) <= positions_max
    assert {o.symbol for o in decision.outcomes} == {signal.symbol for signal in offered}
