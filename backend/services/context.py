"""What every use case of trading is given: its collaborators, wired once in main.py."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from backend.brokers.base import Broker
from backend.db import Sessions
from backend.domain.risk import RiskLimits
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.common import Environment


@dataclass(frozen=True, slots=True)
class TradingRules:
    """The deployment's choices: market seconds, sessions, shares of users, real seconds."""

    environment: Environment
    trader: str
    cycle_interval_s: int
    shards: int
    horizon_sessions: int
    order_rest_s_max: int
    decisions_kept_days: int
    limits: RiskLimits
    lease_s: float = 60.0
    send_timeout_s: float = 2.0
    entry_send_s_max: float = 10.0
    sends_at_once_max: int = 8
    shards_at_once: int = 2


@dataclass(frozen=True, slots=True)
class Trading:
    """The trader's world. `clock` is the market's present, `announce` the line for the person watching."""

    sessions: Sessions
    brokers: Mapping[str, Broker]
    market_data: MarketDataClient
    ml_service: MlServiceClient
    calendar: MarketCalendar
    rules: TradingRules
    clock: Callable[[], Awaitable[datetime]]
    announce: Callable[[str], None]
