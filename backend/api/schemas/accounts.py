"""Users, plans, subscriptions and broker accounts on the wire."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from backend.api.schemas.common import Body, Line, MarketReply, Moment, Money, Reply
from backend.models import BrokerAccount, BrokerAccountStatus, Plan, Role, Subscription, SubscriptionStatus, User
from backend.services.account_service import AccountFunds
from backend.services.plan_service import Quota

PASSWORD_LENGTH_MIN = 12
PASSWORD_LENGTH_MAX = 128


def _text(secret: SecretStr) -> SecretStr:
    """A secret is not checked as other text is: NUL and lone surrogates get past its length."""
    try:
        encoded = secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("a password must be Unicode text") from None
    if 0 in encoded:
        raise ValueError("a password must not contain NUL")
    return secret


Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\-]+@[A-Za-z0-9\-]+(\.[A-Za-z0-9\-]+)+$"),
]
NewPassword = Annotated[
    SecretStr, Field(min_length=PASSWORD_LENGTH_MIN, max_length=PASSWORD_LENGTH_MAX), AfterValidator(_text)
]
Password = Annotated[SecretStr, Field(min_length=1, max_length=PASSWORD_LENGTH_MAX), AfterValidator(_text)]


class RegisterBody(Body):
    email: Email
    password: NewPassword
    name: Annotated[Line, Field(max_length=100)] = ""


class LoginBody(Body):
    email: Email
    password: Password


class TokenReply(Reply):
    access_token: str
    token_type: str = "bearer"  # noqa: S105 (RFC 6750's name of the scheme)
    expires_in_s: int


class UserView(Reply):
    id: int
    email: str
    name: str
    role: Role
    created_at: Moment

    @classmethod
    def of(cls, user: User) -> "UserView":
        return cls(id=user.id, email=user.email, name=user.name, role=user.role, created_at=user.created_at)


class PlanView(Reply):
    """`auto_trades_per_day` counts entries; exits are free and never limited. `backtests_at_once` run together, the
    others wait; a sweep may have `backtest_combinations_max`."""

    code: str
    name: str
    auto_trades_per_day: int
    backtests_per_day: int
    backtests_at_once: int
    backtest_combinations_max: int
    price_rupees_per_month: Money
    description: str

    @classmethod
    def of(cls, plan: Plan) -> "PlanView":
        return cls(
            code=plan.code,
            name=plan.name,
            auto_trades_per_day=plan.auto_trades_per_day,
            backtests_per_day=plan.backtests_per_day,
            backtests_at_once=plan.backtests_at_once,
            backtest_combinations_max=plan.backtest_combinations_max,
            price_rupees_per_month=plan.price_rupees_per_month,
            description=plan.description,
        )


class PlansReply(Reply):
    plans: list[PlanView]


class QuotaView(Reply):
    """Entries of the market's present day; `entries_left` obeys the plan's limit and the user's own."""

    entries_per_day: int
    entries_per_day_max: int | None
    entries_used: int
    entries_left: int
    resets_at: Moment

    @classmethod
    def of(cls, quota: Quota) -> "QuotaView":
        return cls(
            entries_per_day=quota.entries_per_day,
            entries_per_day_max=quota.own_max,
            entries_used=quota.used,
            entries_left=quota.left,
            resets_at=quota.resets_at,
        )


class MeReply(Reply):
    user: UserView
    plan: PlanView
    quota: QuotaView


class SubscribeBody(Body):
    plan: Annotated[Line, Field(min_length=1, max_length=20)]


class SubscriptionView(Reply):
    id: int
    plan: str
    status: SubscriptionStatus
    requested_at: Moment
    activated_at: Moment | None
    ended_at: Moment | None

    @classmethod
    def of(cls, row: Subscription) -> "SubscriptionView":
        return cls(
            id=row.id,
            plan=row.plan_code,
            status=row.status,
            requested_at=row.requested_at,
            activated_at=row.activated_at,
            ended_at=row.ended_at,
        )


class SubscriptionReply(Reply):
    """The plan in force, and the subscriptions behind it; without an active one the plan is Free."""

    plan: PlanView
    active: SubscriptionView | None
    pending: SubscriptionView | None


class SubscriptionRow(SubscriptionView):
    user_id: int
    email: str


class SubscriptionsReply(Reply):
    subscriptions: list[SubscriptionRow]
    next_cursor: str | None


class OpenAccountBody(Body):
    broker: Annotated[Line, Field(min_length=1, max_length=20)]
    label: Annotated[Line, Field(min_length=1, max_length=60)]


class AccountView(Reply):
    """`cash_free` leaves out what open orders reserve; all three are null where the broker did not answer."""

    id: int
    broker: str
    label: str
    status: BrokerAccountStatus
    is_primary: bool
    created_at: Moment
    cash: Money | None
    cash_free: Money | None
    holdings: dict[str, int] | None
    problem: str | None

    @classmethod
    def of(cls, funds: AccountFunds) -> "AccountView":
        account, snapshot = funds.account, funds.snapshot
        return cls(
            id=account.id,
            broker=account.broker,
            label=account.label,
            status=account.status,
            is_primary=account.is_primary,
            created_at=account.created_at,
            cash=snapshot.cash if snapshot else None,
            cash_free=snapshot.cash_free if snapshot else None,
            holdings=dict(snapshot.holdings) if snapshot else None,
            problem=funds.problem,
        )


class AccountReply(MarketReply):
    account: AccountView


class AccountsReply(MarketReply):
    accounts: list[AccountView]


class AccountRef(Reply):
    id: int
    broker: str
    label: str
    status: BrokerAccountStatus

    @classmethod
    def of(cls, account: BrokerAccount) -> "AccountRef":
        return cls(id=account.id, broker=account.broker, label=account.label, status=account.status)
