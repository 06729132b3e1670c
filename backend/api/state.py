"""What the API is given when it is built: everything it needs, and nothing it could look up by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from backend.api.perimeter import Perimeter
from backend.db import Sessions
from backend.security import Security
from backend.services.billing_rules import BillingRules
from backend.services.broker_login_service import BrokerLogins
from backend.services.context import Trading
from backend.services.export_service import Exports
from backend.services.quote_board import QuoteBoard
from backend.services.session_service import LoginRules
from backend.services.streams import Streams
from backend.vault import Vault
from contracts.common import Environment


def _no_trouble() -> str:
    return ""


def _no_hint(account_id: int) -> None:  # noqa: ARG001
    return None


@dataclass(frozen=True, slots=True)
class ApiState:
    """The API's collaborators. `trouble` is what /health should say; an empty text means that all is well.

    `sessions` and those of `trading` see what the caller may see; `desk` is the trading engine itself, which alone
    writes orders and the state of trading. Without a `vault` (no master key) no secret can be kept.
    """

    sessions: Sessions
    trading: Trading
    desk: Trading
    security: Security
    quote_board: QuoteBoard
    streams: Streams
    paper_deposit_rupees: Decimal
    cors_origins: tuple[str, ...]
    environment: Environment
    vault: Vault | None = None
    perimeter: Perimeter = field(default_factory=Perimeter)
    logins: LoginRules = field(default_factory=LoginRules)
    billing: BillingRules = field(default_factory=BillingRules)
    exports: Exports = field(default_factory=Exports)
    broker_logins: BrokerLogins | None = None
    """None where accounts at real brokers cannot be opened."""
    hint: Callable[[int], None] = _no_hint
    """Takes an account whose broker says that something happened."""
    trouble: Callable[[], str] = _no_trouble
