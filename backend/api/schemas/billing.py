"""Plans, subscriptions, payments and invoices on the wire."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from backend.api.schemas.common import Body, Flag, Instant, Line, Moment, Money, PageQuery, Reply
from backend.domain.billing import Bill
from backend.models import (
    Billing,
    BillingDetails,
    Feature,
    Invoice,
    Payment,
    PaymentStatus,
    Plan,
    Subscription,
    SubscriptionStatus,
)
from backend.payments.base import Checkout
from backend.services.subscription_service import Change

Rupees = Annotated[Decimal, Field(ge=0, le=100_000_000, max_digits=11, decimal_places=2)]
Count = Annotated[int, Field(strict=True, ge=0, le=100_000)]
PlanCode = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_\-]{0,19}$")]
BrokerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_\-]{0,19}$")]
ProviderId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,80}$")]
Reason = Annotated[Line, Field(min_length=3, max_length=300)]


class PlanView(Reply):
    """`auto_trades_per_day` counts entries; exits are free and never limited. Prices are before GST.

    `backtests_at_once` run together, the others wait; a sweep may have `backtest_combinations_max`. `symbols_max` may
    be traded automatically, accounts opened at `brokers`. A plan that is not `offered` stays with those who have it.
    """

    code: str
    name: str
    description: str
    price_rupees_per_month: Money
    price_rupees_per_year: Money
    trial_days: int
    features: list[Feature]
    brokers: list[str]
    symbols_max: int
    auto_trades_per_day: int
    backtests_per_day: int
    backtests_at_once: int
    backtest_combinations_max: int
    offered: bool
    rank: int

    @classmethod
    def of(cls, plan: Plan) -> "PlanView":
        return cls(**{name: getattr(plan, name) for name in cls.model_fields})


class PlansReply(Reply):
    plans: list[PlanView]


class PlanBody(Body):
    """A plan as an administrator sets it; prices are rupees before GST, zero is free of charge."""

    name: Annotated[Line, Field(min_length=1, max_length=50)]
    description: Annotated[Line, Field(max_length=300)]
    price_rupees_per_month: Rupees
    price_rupees_per_year: Rupees
    trial_days: Annotated[int, Field(strict=True, ge=0, le=365)]
    features: Annotated[list[Feature], Field(max_length=len(Feature))]
    brokers: Annotated[list[BrokerName], Field(max_length=20)]
    symbols_max: Count
    auto_trades_per_day: Count
    backtests_per_day: Count
    backtests_at_once: Count
    backtest_combinations_max: Count
    offered: Flag
    rank: Annotated[int, Field(strict=True, ge=0, le=1000)]

    @model_validator(mode="after")
    def _both_prices(self) -> "PlanBody":
        if (self.price_rupees_per_month == 0) != (self.price_rupees_per_year == 0):
            raise ValueError("a plan costs something by the month and by the year, or nothing by either")
        return self

    def values(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return found | {"features": [f.value for f in dict.fromkeys(self.features)]}


class NewPlanBody(PlanBody):
    code: PlanCode


class SubscribeBody(Body):
    plan: Annotated[Line, Field(min_length=1, max_length=20)]
    billing: Billing = Billing.MONTHLY
    trial: Flag = Field(default=False, description="Try it first, for the plan's trial_days: once per user.")


class ChangeBody(Body):
    """Another plan or period, or `cancel_at_end` false: what was planned is taken back."""

    plan: Annotated[Line, Field(min_length=1, max_length=20)] | None = None
    billing: Billing | None = None
    cancel_at_end: Literal[False] | None = None

    @model_validator(mode="after")
    def _one_wish(self) -> "ChangeBody":
        changes = self.plan is not None or self.billing is not None
        if changes == (self.cancel_at_end is not None):
            raise ValueError("give plan or billing for a change, or cancel_at_end false to take one back")
        return self


class PaymentView(Reply):
    """`amount` is what is to be paid: `price` less `credit`, and GST. `reference` is the provider's payment."""

    id: int
    subscription_id: int
    status: PaymentStatus
    provider: str
    price: Money
    credit: Money
    amount: Money
    reference: str | None
    invoice_id: int | None
    created_at: Moment
    paid_at: Moment | None

    @classmethod
    def of(cls, row: Payment) -> "PaymentView":
        same = {name: getattr(row, name) for name in cls.model_fields if name != "reference"}
        return cls(reference=row.provider_payment, **same)


class PaymentsReply(Reply):
    payments: list[PaymentView]
    next_cursor: str | None


class PaymentRow(PaymentView):
    user_id: int


class PaymentRowsReply(Reply):
    payments: list[PaymentRow]
    next_cursor: str | None


class PaymentsQuery(PageQuery):
    status: PaymentStatus | None = None


class SubscriptionView(Reply):
    """`past_due` gives the plan until `grace_until`. At `period_until` it ends where `cancel_at_end` is true, or goes
    over to `next_plan` and `next_billing`; null `period_until` is until somebody ends it."""

    id: int
    plan: str
    billing: Billing
    status: SubscriptionStatus
    provider: str
    requested_at: Moment
    activated_at: Moment | None
    trial_until: Moment | None
    period_from: Moment | None
    period_until: Moment | None
    grace_until: Moment | None
    cancel_at_end: bool
    next_plan: str | None
    next_billing: Billing | None
    ended_at: Moment | None

    @classmethod
    def of(cls, row: Subscription) -> "SubscriptionView":
        names = cls.model_fields.keys() - {"plan", "next_plan"}
        return cls(plan=row.plan_code, next_plan=row.next_plan_code, **{name: getattr(row, name) for name in names})


class SubscriptionReply(Reply):
    """The plan in force, the subscriptions behind it, and what is to be paid; without a current one it is Free."""

    plan: PlanView
    active: SubscriptionView | None
    pending: SubscriptionView | None
    payment: PaymentView | None


class SubscribedReply(Reply):
    """What was asked for, and what is to be paid for it."""

    subscription: SubscriptionView
    payment: PaymentView | None


class SubscriptionRow(SubscriptionView):
    user_id: int
    email: str


class SubscriptionsReply(Reply):
    subscriptions: list[SubscriptionRow]
    next_cursor: str | None


class PreviewQuery(Body):
    plan: Annotated[Line, Field(min_length=1, max_length=20)]
    billing: Billing = Billing.MONTHLY
    trial: bool = False


class BillView(Reply):
    """Rupees to the paisa. `credit` is the unused rest of what was paid; it is never paid out."""

    price: Money
    credit: Money
    taxable: Money
    gst_percent: Money
    cgst: Money
    sgst: Money
    igst: Money
    total: Money

    @classmethod
    def of(cls, bill: Bill | Invoice) -> "BillView":
        return cls(**{name: getattr(bill, name) for name in cls.model_fields})


class PreviewReply(Reply):
    """What a change would do and cost today; `begins_at` null is at once when it is paid."""

    plan: str
    billing: Billing
    begins_at: Moment | None
    trial_days: int
    bill: BillView
    why: str

    @classmethod
    def of(cls, change: Change) -> "PreviewReply":
        return cls(
            plan=change.plan.code,
            billing=change.billing,
            begins_at=change.at,
            trial_days=change.trial_days,
            bill=BillView.of(change.bill),
            why=change.why,
        )


class CheckoutReply(Reply):
    """How to pay. With Razorpay: open its Checkout with `key` and `order_id`; `amount_paise` is what it will ask."""

    payment: PaymentView
    provider: str
    order_id: str | None
    key: str | None
    amount_paise: int
    currency: Literal["INR"] = "INR"
    note: str

    @classmethod
    def of(cls, payment: Payment, opened: Checkout) -> "CheckoutReply":
        return cls(
            payment=PaymentView.of(payment),
            provider=payment.provider,
            order_id=opened.reference,
            key=opened.key,
            amount_paise=int(payment.amount * 100),
            note=opened.note,
        )


class VerifyBody(Body):
    """What Razorpay's Checkout hands to the page when the user has paid."""

    razorpay_order_id: ProviderId
    razorpay_payment_id: ProviderId
    razorpay_signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class WebhookReply(Reply):
    outcome: str


class DetailsBody(Body):
    """Whom invoices name. `state_code`: GST's two digits of the state. The GSTIN's check digit is checked."""

    name: Annotated[Line, Field(min_length=1, max_length=100)]
    address: Annotated[Line, Field(min_length=1, max_length=300)]
    state_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{2}$")]
    gstin: Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{15}$")] | None = None


class DetailsView(Reply):
    name: str
    address: str
    state_code: str
    gstin: str | None

    @classmethod
    def of(cls, row: BillingDetails) -> "DetailsView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class PartyView(Reply):
    name: str
    address: str
    state_code: str
    gstin: str | None


class InvoiceView(Reply):
    id: int
    number: str
    issued_on: date
    plan: str
    billing: Billing
    period_from: Moment
    period_until: Moment
    seller: PartyView
    buyer: PartyView
    sac: str
    bill: BillView
    paid_at: Moment | None

    @classmethod
    def of(cls, row: Invoice) -> "InvoiceView":
        same = ("id", "number", "issued_on", "billing", "period_from", "period_until", "sac", "paid_at")
        return cls(
            plan=row.plan_code,
            seller=PartyView(**row.seller),
            buyer=PartyView(**row.buyer),
            bill=BillView.of(row),
            **{name: getattr(row, name) for name in same},
        )


class InvoicesReply(Reply):
    invoices: list[InvoiceView]
    next_cursor: str | None


class RecordBody(Body):
    """Money that an administrator saw: rupees with GST, and the bank's reference (a UTR), which is used once."""

    amount: Rupees
    reference: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9/_.\-]{2,79}$")]
    reason: Reason


class GiveBody(Body):
    """A plan free of charge: until an instant, or for good where `until` is null."""

    plan: Annotated[Line, Field(min_length=1, max_length=20)]
    until: Instant | None = Field(default=None, le=datetime.fromisoformat("9000-01-01T00:00:00+00:00"))
    reason: Reason
