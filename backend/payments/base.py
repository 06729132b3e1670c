"""What billing asks of whoever collects the money, and what it hears back. Amounts are whole paise."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backend.errors import SaudaError


class PaymentError(SaudaError):
    """The provider refused: nothing happened, and asking the same again changes nothing."""

    status, code, title = 502, "payment_provider_refused", "Payment provider refused"


class PaymentUnknownError(PaymentError):
    """No (readable) answer: it may or may not have happened. Look it up before doing it again."""

    status, code, title = 503, "payment_provider_unavailable", "Payment provider unavailable"


@dataclass(frozen=True, slots=True)
class Ask:
    """Money asked of a user: `receipt` is our own name of it, unique; `reference` the provider's, once there is one."""

    receipt: str
    paise: int
    description: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """How the user pays: by the provider's order `reference` under its public `key`, or as `note` says."""

    reference: str | None
    key: str | None
    note: str


class Outcome(StrEnum):
    PAID = "paid"
    WAITING = "waiting"
    FAILED = "failed"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider says of one payment: its own names of order and payment, and the money as it stands there."""

    outcome: Outcome
    reference: str
    payment: str
    paise: int
    currency: str


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A message whose signature was right. `told` is None where it is of a kind that billing has no use for."""

    event_id: str
    kind: str
    facts: dict[str, str | int]
    told: Told | None


class PaymentProvider(Protocol):
    """One way of collecting."""

    @property
    def name(self) -> str: ...

    async def checkout(self, ask: Ask) -> Checkout:
        """Let the user pay. The same receipt never makes a second order, as far as the provider can be asked.

        Raises:
            PaymentError: it refused.
            PaymentUnknownError: it did not answer.
        """
        ...

    async def look_up(self, reference: str, payment: str, signature: str) -> Told:
        """What became of a payment that the user's browser says it made.

        Raises:
            PaymentError: the signature is wrong, or there is no such payment.
            PaymentUnknownError: the provider did not answer.
        """
        ...

    def event(self, body: bytes, signature: str, event_id: str) -> ProviderEvent:
        """The provider's own message, checked.

        Raises:
            PaymentError: the signature is wrong or the body is unreadable.
        """
        ...
