"""Users, their quota and broker accounts on the wire."""

from typing import Annotated

from pydantic import Field

from backend.api.schemas.billing import PlanView
from backend.api.schemas.common import Body, Line, MarketReply, Moment, Money, Reply
from backend.api.schemas.consents import MissingConsent
from backend.models import BrokerAccount, BrokerAccountStatus, Role, User
from backend.services.account_service import AccountFunds
from backend.services.plan_service import Quota


class UserView(Reply):
    id: int
    email: str
    name: str
    role: Role
    email_verified: bool
    created_at: Moment

    @classmethod
    def of(cls, user: User) -> "UserView":
        return cls(
            id=user.id,
            email=user.email,
            name=user.name,
            role=user.role,
            email_verified=user.email_verified_at is not None,
            created_at=user.created_at,
        )


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
    consents_missing: list[MissingConsent]


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


class ClosedAccountReply(Reply):
    account: AccountRef
    message: str
