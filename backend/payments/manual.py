"""Collecting by hand: the user pays as the operator says, and an administrator records it."""

from backend.payments.base import Ask, Checkout, PaymentError, ProviderEvent, Told

NOTE = "Pay as the operator of this deployment says, and name {receipt}; an administrator records it."


class ManualProvider:
    """Knows of no order and sends no message."""

    name = "manual"

    async def checkout(self, ask: Ask) -> Checkout:
        return Checkout(None, None, NOTE.format(receipt=ask.receipt))

    async def look_up(self, reference: str, payment: str, signature: str) -> Told:  # noqa: ARG002
        raise self._none()

    def event(self, body: bytes, signature: str, event_id: str) -> ProviderEvent:  # noqa: ARG002
        raise self._none()

    @staticmethod
    def _none() -> PaymentError:
        error = PaymentError(
            "Payments are recorded by an administrator here: there is nothing to verify.", code="provider_is_manual"
        )
        error.status = 409
        return error
