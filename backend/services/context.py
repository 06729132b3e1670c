"""What every use case of trading is given: its collaborators, wired once in main.py."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from backend.brokers.base import Broker
from backend.db import Sessions
from backend.domain.gate import GateLimits
from backend.domain.reconcile import LookupRules
from backend.domain.risk import RiskLimits
from backend.services.market_calendar import MarketCalendar
from backend.services.market_data_client import MarketDataClient
from backend.services.ml_service_client import MlServiceClient
from contracts.common import Environment


@dataclass(frozen=True, slots=True)
class TradingRules:
    """The deployment's choices: market seconds, sessions, shares of users, real seconds.

    `lease_s`: how long a claim on a shard outlives its silent holder. `halt_unseen_s_max`: a halt that is committed
    while the gate looks at what stands may be missed by that look; the order leaves within this time of it, or never.
    """

    environment: Environment
    trader: str
    cycle_interval_s: int
    shards: int
    horizon_sessions: int
    order_rest_s_max: int
    decisions_kept_days: int
    limits: RiskLimits
    gate: GateLimits = field(default_factory=GateLimits)
    live_trading: bool = False
    day_loss_fraction_max: Decimal = Decimal("0.02")
    lease_s: float = 5.0
    lookup: LookupRules = field(default_factory=LookupRules)
    send_timeout_s: float = 2.0
    halt_unseen_s_max: float = 0.9
    entry_send_s_max: float = 10.0
    sends_at_once_max: int = 8
    shards_at_once: int = 2
    backtests_kept_days: int = 90
    backtests_kept_per_user: int = 200


class Sends:
    """This process's own count of what may go to a broker: each commit of SUBMITTED is good for one send."""

    def __init__(self) -> None:
        self._committed: set[int] = set()

    def committed(self, order_id: int) -> None:
        self._committed.add(order_id)

    def take(self, order_id: int) -> bool:
        """Use up an order's commit; False where it has none (left): then it must not be sent."""
        if order_id not in self._committed:
            return False
        self._committed.remove(order_id)
        return True


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
    sends: Sends = field(default_factory=Sends)
