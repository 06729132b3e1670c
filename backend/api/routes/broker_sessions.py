"""Logging in at brokers for the day, who has to, and the door at which brokers tell of orders."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import PlainTextResponse

from backend.api.deps import AccountHolder, CurrentUser, Public, State, SupportUser, client_ip
from backend.api.documentation import documented
from backend.api.schemas.broker_sessions import (
    AllReadinessReply,
    AllReadinessRow,
    FinishLoginBody,
    HeardReply,
    LoggedOutReply,
    LoginUrlReply,
    ReadinessReply,
    ReadinessView,
    SessionReply,
)
from backend.api.schemas.common import ID_MAX, PageQuery, next_cursor
from backend.api.state import ApiState
from backend.domain.calendar import IST
from backend.errors import ConflictError
from backend.services import broker_login_service, postback_service, readiness_service
from backend.services.audit_service import Actor
from backend.services.broker_login_service import BrokerLogins
from backend.services.position_service import watch_positions

router = APIRouter(prefix="/v1/broker-accounts", tags=["broker accounts"])
callbacks = APIRouter(prefix="/v1", tags=["broker accounts"])
admin_router = APIRouter(prefix="/v1/admin", tags=["admin"])

AccountId = Annotated[int, Path(ge=1, le=ID_MAX)]
BrokerName = Annotated[str, Path(pattern="^[a-z]{1,20}$")]
Word = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.get("/readiness", **documented("get_readiness", 401, 503))
async def get_readiness(user: CurrentUser, state: State) -> ReadinessReply:
    """Which of your accounts can trade today, what is in the way of the others, and what to do about it."""
    async with state.sessions() as session:
        found = await readiness_service.readiness(
            session, tuple(state.trading.brokers), state.security.now(), user_id=user.id
        )
    return ReadinessReply.of(found)


@router.post("/{account_id}/login", **documented("begin_broker_login", 401, 403, 404, 409, 503))
async def begin_broker_login(account_id: AccountId, caller: AccountHolder, state: State) -> LoginUrlReply:
    """Where to log in at the account's broker for today. Brokers end every session overnight, and only you can begin
    the next one: Sauda never asks for the broker's password, PIN or TOTP secret."""
    logins = _logins(state)
    account, url = await broker_login_service.begin_login(logins, caller.user.id, account_id)
    home, word = state.logins.public_url.rstrip("/"), postback_service.word_of(logins, account_id)
    return LoginUrlReply(
        account_id=account_id,
        login_url=url,
        redirect_url=f"{home}/v1/broker-login/{account.broker}",
        postback_url=f"{home}/v1/webhooks/orders/{account.broker}/{account_id}/{word}",
    )


@router.post("/{account_id}/session", **documented("finish_broker_login", 401, 403, 404, 409, 503))
async def finish_broker_login(
    account_id: AccountId, body: FinishLoginBody, caller: AccountHolder, state: State
) -> SessionReply:
    """Begin the day's session with what the broker added to its redirect, where that does not come here by itself.

    The account's book is read before anything is traded again.
    """
    return await _finish(state, caller.actor, caller.user.id, account_id, body.returned)


@router.delete("/{account_id}/session", **documented("end_broker_login", 401, 403, 404, 409, 503))
async def end_broker_login(account_id: AccountId, caller: AccountHolder, state: State) -> LoggedOutReply:
    """Log out at the broker: nothing is bought or sold in the account until you log in again."""
    logins = _logins(state)
    await broker_login_service.end_login(logins, caller.actor, caller.user.id, account_id, state.security.now())
    return LoggedOutReply(
        account_id=account_id, message="You are logged out; open trades have no exits until you log in."
    )


@callbacks.get(
    "/broker-login/{broker}",
    dependencies=[Public],
    response_class=PlainTextResponse,
    response_model=str,
    **documented("return_from_broker", 404, 409, 503, media_type="text/plain"),
)
async def return_from_broker(broker: BrokerName, request: Request, state: State) -> PlainTextResponse:
    """Where a broker sends the browser back to after the login; it must be the redirect address of your app there."""
    logins, returned = _logins(state), dict(request.query_params)
    user_id, account_id = await broker_login_service.account_of_redirect(logins, broker, returned)
    actor = Actor(f"user:{user_id}", user_id, client_ip(request))
    begun = await _finish(state, actor, user_id, account_id, returned)
    until = begun.ends_at.astimezone(IST)
    return PlainTextResponse(
        f"You are logged in at {broker} until {until:%d %b %H:%M} IST. You may close this page.\n",
        headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )


@callbacks.post(
    "/webhooks/orders/{broker}/{account_id}/{word}",
    dependencies=[Public],
    **documented("hear_broker", 404, 503, status=202),
)
async def hear_broker(
    broker: BrokerName, account_id: AccountId, word: Word, request: Request, state: State
) -> HeardReply:
    """A broker's message about an order. It is a hint only: the order book is read, and that alone counts."""
    await postback_service.require_genuine(_logins(state), broker, account_id, word, await request.body())
    state.hint(account_id)
    return HeardReply(account_id=account_id)


@admin_router.get("/broker-accounts/readiness", **documented("list_readiness", 401, 403, 503))
async def list_readiness(query: Annotated[PageQuery, Query()], support: SupportUser, state: State) -> AllReadinessReply:  # noqa: ARG001
    """Everybody's accounts: who can trade today and who has to log in, newest account first."""
    async with state.sessions() as session:
        found = await readiness_service.readiness(
            session,
            tuple(state.trading.brokers),
            state.security.now(),
            before_id=query.before_id,
            limit=query.limit + 1,
        )
    rows = [
        AllReadinessRow(**ReadinessView.of(one).model_dump(), user_id=one.account.user_id)
        for one in found[: query.limit]
    ]
    cursor = next_cursor([one.account.id for one in found], query.limit)
    return AllReadinessReply(accounts=rows, next_cursor=cursor)


def _logins(state: ApiState) -> BrokerLogins:
    """Who logs in.

    Raises:
        ConflictError: nobody, here.
    """
    if state.broker_logins is None:
        raise ConflictError("This deployment opens no accounts at real brokers.", code="no_login_needed")
    return state.broker_logins


async def _finish(
    state: ApiState, actor: Actor, user_id: int, account_id: int, returned: dict[str, str]
) -> SessionReply:
    now = state.security.now()
    account, begun = await broker_login_service.finish_login(_logins(state), actor, user_id, account_id, returned, now)
    # The book first: what happened while nobody could look must be known before anything is decided.
    report = await watch_positions(state.desk, {account_id})
    read = report.accounts == 1 and not report.failed_accounts
    return SessionReply(account_id=account_id, broker=account.broker, ends_at=begun.ends_at, reconciled=read)
