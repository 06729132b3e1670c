"""A replay through the whole stack and a backtest in one process do the same, order by order, to the paisa."""

from collections.abc import Iterator
from datetime import date

import pytest

from contracts.market import Interval
from data_service.providers.simulated import SimulatedMarket
from data_service.sessions import Sessions, load_sessions
from data_service.simulator.universe import load_universe
from sauda.embedded import EmbeddedPostgres
from tests.e2e.conftest import folder_for_postgres
from tests.support.parity import Both, trade_both
from tests.support.recorded_market import first_shares, import_here, write_csv

FIRST, LAST = date(2024, 3, 21), date(2024, 3, 22)
SHARES = 6
SESSIONS_BEFORE = 20


@pytest.fixture(scope="module")
def both(postgres: EmbeddedPostgres) -> Iterator[Both]:
    """Two days of the simulated market, imported like recorded ones."""
    calendar = load_sessions()
    start = next(i for i, session in enumerate(calendar.all) if session.day >= FIRST)
    end = next(i for i, session in enumerate(calendar.all) if session.day > LAST)
    days = calendar.all[start - SESSIONS_BEFORE : end]
    universe = first_shares(load_universe(), SHARES)
    with folder_for_postgres() as folder:
        market = SimulatedMarket(universe, Sessions(days), seed=7, edge=1.0, folder=folder)
        daily = write_csv(folder / "daily.csv", market, universe.symbols, Interval.DAY_1, days)
        minutes = write_csv(folder / "minutes.csv", market, universe.symbols, Interval.MIN_5, calendar.all[start:end])
        import_here(folder / "data", days[-1].close_other_s + 86_400, daily, minutes)
        yield trade_both(postgres, folder / "data", folder / "own", universe.symbols, FIRST, LAST)


def test_the_same_orders_fills_and_charges(both: Both) -> None:
    assert len(both.replayed) > 20
    assert {order.side for order in both.replayed} == {"buy", "sell"}
    assert both.backtested == both.replayed


def test_the_same_money(both: Both) -> None:
    assert both.ticks == 2 * 74
    assert both.backtested_cash == both.replayed_cash
    assert len(set(both.replayed_cash.values())) == 3
