"""Fixtures of data_service: the short simulated market is generated once."""

import pytest
from data_market import short_calendar

from data_service.providers.simulated import SimulatedMarket
from data_service.sessions import Sessions
from data_service.simulator.universe import Universe, load_universe


@pytest.fixture(scope="session")
def calendar() -> Sessions:
    return short_calendar()


@pytest.fixture(scope="session")
def universe() -> Universe:
    return load_universe()


@pytest.fixture(scope="session")
def simulated(calendar, universe, tmp_path_factory) -> SimulatedMarket:
    folder = tmp_path_factory.mktemp("simulated")
    return SimulatedMarket(universe, calendar, seed=7, edge=1.0, folder=folder)
