"""Users as administrators and support see them, and what administrators do to them, on the wire."""

from datetime import date
from typing import Annotated

from pydantic import Field

from backend.api.schemas.accounts import AccountRef, QuotaView, UserView
from backend.api.schemas.auto_trading import BlockingView, SettingsView
from backend.api.schemas.billing import PlanView, Reason, SubscriptionView
from backend.api.schemas.common import Body, Day, Line, MarketReply, Moment, PageQuery, Reply
from backend.api.schemas.market import WindowView
from backend.api.schemas.trading_state import StandingView
from backend.domain.trading_states import TradingState
from backend.models import BrokerAccount, LoginSession, Role, User
from backend.services.user_glance_service import UserFilter, UserGlance, UserRow
from backend.services.why_no_trade_service import WhyNoTrade
from contracts.common import Environment


class UsersQuery(PageQuery):
    """`email` is a part of the address, whatever its case; the others are exact."""

    email: Annotated[Line, Field(min_length=1, max_length=254)] | None = None
    role: Role | None = None
    plan: Annotated[Line, Field(min_length=1, max_length=20)] | None = None
    active: bool | None = None

    def wanted(self) -> UserFilter:
        return UserFilter(self.email, self.role, self.plan, self.active)


class UserRowView(UserView):
    active: bool
    plan: str
    last_login_at: Moment | None

    @classmethod
    def from_row(cls, row: UserRow) -> "UserRowView":
        return cls(
            **UserView.of(row.user).model_dump(),
            active=row.user.active,
            plan=row.plan,
            last_login_at=row.last_login_at,
        )


class UsersReply(Reply):
    users: list[UserRowView]
    next_cursor: str | None


class AccountGlance(AccountRef):
    is_primary: bool
    created_at: Moment

    @classmethod
    def from_row(cls, row: BrokerAccount) -> "AccountGlance":
        return cls(**AccountRef.of(row).model_dump(), is_primary=row.is_primary, created_at=row.created_at)


class UserGlanceReply(MarketReply):
    """One user at a glance. `quota` is null where the market's clock does not answer. `sessions` and `api_keys` count
    those that can be used now; `standing` is what holds the user's trading back, the gravest first."""

    user: UserView
    active: bool
    erased_at: Moment | None
    plan: PlanView
    subscription: SubscriptionView | None
    pending: SubscriptionView | None
    accounts: list[AccountGlance]
    settings: SettingsView
    trading_state: TradingState
    standing: list[StandingView]
    quota: QuotaView | None
    second_factor: bool
    password_changed_at: Moment | None
    last_login_at: Moment | None
    sessions: int
    api_keys: int
    open_trades: int

    @classmethod
    def of(cls, environment: Environment, seen: UserGlance) -> "UserGlanceReply":
        same = ("second_factor", "password_changed_at", "last_login_at", "sessions", "api_keys", "open_trades")
        return cls(
            environment=environment,
            user=UserView.of(seen.user),
            active=seen.user.active,
            erased_at=seen.user.erased_at,
            plan=PlanView.of(seen.plan),
            subscription=SubscriptionView.of(seen.current) if seen.current else None,
            pending=SubscriptionView.of(seen.pending) if seen.pending else None,
            accounts=[AccountGlance.from_row(row) for row in seen.accounts],
            settings=SettingsView.of(seen.settings),
            trading_state=seen.trading_state.state,
            standing=[StandingView.of(row) for row in seen.trading_state.because],
            quota=QuotaView.of(seen.quota) if seen.quota else None,
            **{name: getattr(seen, name) for name in same},
        )


class WhyBody(Body):
    """Why, for the audit log, which the user may read."""

    reason: Reason


class RoleBody(WhyBody):
    role: Role


class UserStateReply(Reply):
    """The user as they are now; `message` says what follows."""

    user: UserView
    active: bool
    message: str

    @classmethod
    def of(cls, user: User, message: str) -> "UserStateReply":
        return cls(user=UserView.of(user), active=user.active, message=message)


class LoginView(Reply):
    """A login of the user's that can still be used."""

    id: int
    device: str
    ip: str
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    second_factor: bool

    @classmethod
    def of(cls, row: LoginSession) -> "LoginView":
        same = ("id", "device", "ip", "created_at", "last_used_at", "expires_at")
        return cls(
            second_factor=row.second_factor_at is not None,
            **{name: getattr(row, name) for name in same},
        )


class LoginsReply(Reply):
    sessions: list[LoginView]


class DayQuery(Body):
    day: Day | None = Field(default=None, description="A day in India; the market's present one where left out.")


class DayClassView(Reply):
    stock_class: str
    windows: list[WindowView]


class VerdictView(Reply):
    code: str
    cause: str
    next_step: str


class WhyNoTradeReply(MarketReply):
    """Why a user got no entry on a day, in the order in which it stands in the way.

    `verdict` is the most likely cause. `blocking` is what stands in the way now; where it could not be told, `unknown`
    says why. `classes` has no windows on a day without a session. Counts are of the day: `cycles` by status, `denied`
    and `skipped` by recorded reason, `last_cycle` by the reason of each of the user's symbols in the day's last cycle.
    """

    user_id: int
    day: date
    today: date
    verdict: VerdictView
    blocking: list[BlockingView]
    unknown: str
    active: bool
    plan: str
    entries_per_day: int
    entries_used: int
    account: AccountRef | None
    settings: SettingsView
    classes: list[DayClassView]
    cycles: dict[str, int]
    problems: dict[str, int]
    candidates: int
    denied: dict[str, int]
    skipped: dict[str, int]
    last_cycle: dict[str, int]
    entries_sent: int
    entries_filled: int

    @classmethod
    def of(cls, environment: Environment, why: WhyNoTrade) -> "WhyNoTradeReply":
        same = (
            *("day", "today", "unknown", "entries_per_day", "entries_used", "cycles", "problems", "candidates"),
            *("denied", "skipped", "last_cycle", "entries_sent", "entries_filled"),
        )
        return cls(
            environment=environment,
            user_id=why.user.id,
            verdict=VerdictView(code=why.verdict.code, cause=why.verdict.cause, next_step=why.verdict.next_step),
            blocking=[BlockingView(reason=block.code, next_step=block.next_step) for block in why.blocking],
            active=why.user.active,
            plan=why.plan.code,
            account=AccountRef.of(why.account) if why.account else None,
            settings=SettingsView.of(why.settings),
            classes=[
                DayClassView(
                    stock_class=name.value,
                    windows=[WindowView(phase=w.phase.value, start=w.start, end=w.end) for w in windows],
                )
                for name, windows in why.windows.items()
            ],
            **{name: getattr(why, name) for name in same},
        )
