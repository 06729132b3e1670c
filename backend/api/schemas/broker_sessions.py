"""Logging in at brokers, and who has to, on the wire."""

from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import Body, Line, Moment, Reply
from backend.models import BrokerAccountStatus
from backend.services.readiness_service import AccountReadiness, Readiness


class LoginUrlReply(Reply):
    """`login_url` is where to log in; the other two are what to enter as redirect and postback address of your app at
    the broker's site."""

    account_id: int
    login_url: str
    redirect_url: str
    postback_url: str


class FinishLoginBody(Body):
    """The parameters that the broker added to its redirect, by name: `request_token`, `code` or `tokenId`."""

    returned: Annotated[
        dict[Annotated[Line, Field(min_length=1, max_length=40)], Annotated[Line, Field(max_length=600)]],
        Field(min_length=1, max_length=12),
    ]


class SessionReply(Reply):
    """`reconciled`: the account's whole book has been read since the login; nothing is traded before."""

    account_id: int
    broker: str
    ends_at: Moment
    reconciled: bool


class LoggedOutReply(Reply):
    account_id: int
    message: str


class HeardReply(Reply):
    """The message was taken as a hint to read the account's book."""

    account_id: int


class ReadinessView(Reply):
    """`next_step` is empty where nothing is in the way of today's orders."""

    account_id: int
    broker: str
    label: str
    status: BrokerAccountStatus
    is_primary: bool
    state: Readiness
    session_ends_at: Moment | None
    open_trades: int
    next_step: str

    @classmethod
    def of(cls, found: AccountReadiness) -> "ReadinessView":
        account = found.account
        return cls(
            account_id=account.id,
            broker=account.broker,
            label=account.label,
            status=account.status,
            is_primary=account.is_primary,
            state=found.state,
            session_ends_at=found.session_ends_at,
            open_trades=found.open_trades,
            next_step=found.next_step,
        )


class ReadinessReply(Reply):
    ready: bool
    accounts: list[ReadinessView]

    @classmethod
    def of(cls, found: list[AccountReadiness]) -> "ReadinessReply":
        needed = [one for one in found if one.account.status is BrokerAccountStatus.READY]
        ready = bool(needed) and all(one.state is Readiness.READY for one in needed)
        return cls(ready=ready, accounts=[ReadinessView.of(one) for one in found])


class AllReadinessRow(ReadinessView):
    user_id: int


class AllReadinessReply(Reply):
    accounts: list[AllReadinessRow]
    next_cursor: str | None
