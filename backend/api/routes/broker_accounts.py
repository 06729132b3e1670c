"""The user's broker accounts, and the credentials that open them."""

from typing import Annotated

from fastapi import APIRouter, Path

from backend.api.deps import AccountHolder, AnyCaller, CurrentUser, FreshHolder, PortfolioUser, Session, State
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.accounts import (
    AccountRef,
    AccountReply,
    AccountsReply,
    AccountView,
    ClosedAccountReply,
    OpenAccountBody,
)
from backend.api.schemas.broker_accounts import ChangeAccountBody, CredentialsBody, CredentialsReply
from backend.api.schemas.common import ID_MAX
from backend.services import account_change_service, account_service, broker_credential_service
from backend.services.email_service import require_verified
from backend.services.plan_service import require_broker

router = APIRouter(prefix="/v1/broker-accounts", tags=["broker accounts"], route_class=IdempotentRoute)

AccountId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.post("", **documented("open_broker_account", 401, 403, 409, 503, status=201))
async def open_broker_account(
    body: OpenAccountBody, user: PortfolioUser, caller: AnyCaller, state: State
) -> AccountReply:
    """Open a paper account, with play money in it, or link one at a real broker.

    The first paper account becomes the primary one, which executes the auto-trades. A linked account takes its
    credentials by PUT /v1/broker-accounts/{account_id}/credentials and is switched on by PATCH.
    """
    account_service.require_known_broker(body.broker)
    async with state.sessions() as session:
        await require_broker(session, user.id, body.broker)
    opened = await account_service.open_account(
        state.desk, user.id, body.broker, body.label, state.paper_deposit_rupees, caller.actor
    )
    return AccountReply(environment=state.environment, account=AccountView.of(opened))


@router.get("", **documented("list_broker_accounts", 401))
async def list_broker_accounts(user: CurrentUser, state: State) -> AccountsReply:
    """The accounts with the cash and shares their brokers report; closed ones are left out."""
    async with state.sessions() as session:
        accounts = await account_service.accounts_of(session, user.id)
    funds = await account_service.with_funds(state.trading, accounts)
    return AccountsReply(environment=state.environment, accounts=[AccountView.of(f) for f in funds])


@router.patch("/{account_id}", **documented("change_broker_account", 401, 403, 404, 409, 503))
async def change_broker_account(
    account_id: AccountId, body: ChangeAccountBody, caller: AccountHolder, state: State
) -> AccountReply:
    """Change an account's label, switch it on or off, or make it the primary one: all of it or nothing."""
    async with state.sessions.begin() as session:
        account = await account_change_service.change_account(
            session,
            state.trading.brokers.keys(),
            caller.actor,
            caller.user.id,
            account_id,
            label=body.label,
            enabled=body.enabled,
            primary=body.primary is True,
        )
    (funds,) = await account_service.with_funds(state.trading, [account])
    return AccountReply(environment=state.environment, account=AccountView.of(funds))


@router.delete("/{account_id}", **documented("close_broker_account", 401, 403, 404, 409, 503))
async def close_broker_account(account_id: AccountId, caller: AccountHolder, session: Session) -> ClosedAccountReply:
    """Close an account for good and erase its credentials. It must have no open trades or orders; its record stays."""
    account = await account_change_service.close_account(session, caller.actor, caller.user.id, account_id)
    return ClosedAccountReply(
        account=AccountRef.of(account),
        message="The account is closed and its credentials are erased; its orders and trades stay on record.",
    )


@router.get("/{account_id}/credentials", **documented("get_broker_credentials", 401, 404, 409, 503))
async def get_broker_credentials(account_id: AccountId, user: CurrentUser, session: Session) -> CredentialsReply:
    """Which credentials the account needs, which of them are set, and since when. They themselves are never shown."""
    account = await account_service.own_account(session, user.id, account_id)
    states = await broker_credential_service.states_of(session, account)
    return CredentialsReply.of(account.id, account.broker, states)


@router.put("/{account_id}/credentials", **documented("set_broker_credentials", 401, 403, 404, 409, 503))
async def set_broker_credentials(
    account_id: AccountId, body: CredentialsBody, caller: FreshHolder, session: Session, state: State
) -> CredentialsReply:
    """Give the credentials of an account at a real broker, in the place of those before; they are kept sealed.

    Needs a verified e-mail address, and password or second factor given in the last minutes. Never the broker's
    password, PIN or TOTP secret: no broker's terms and no rule of SEBI lets a program have them.
    """
    require_verified(caller.user)
    account = await account_service.own_account(session, caller.user.id, account_id)
    states = await broker_credential_service.set_credentials(
        session, state.vault, caller.actor, caller.user.id, account_id, body.values()
    )
    return CredentialsReply.of(account_id, account.broker, states)


@router.delete("/{account_id}/credentials", **documented("delete_broker_credentials", 401, 403, 404, 409, 503))
async def delete_broker_credentials(account_id: AccountId, caller: AccountHolder, session: Session) -> CredentialsReply:
    """Erase an account's credentials and switch it off. Nothing may be open in it: nothing would end that."""
    account = await account_service.own_account(session, caller.user.id, account_id)
    states = await account_change_service.withdraw_credentials(session, caller.actor, caller.user.id, account_id)
    return CredentialsReply.of(account_id, account.broker, states)
