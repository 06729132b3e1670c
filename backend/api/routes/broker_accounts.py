"""The user's broker accounts."""

from fastapi import APIRouter

from backend.api.deps import CurrentUser, PortfolioUser, State
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.accounts import AccountReply, AccountsReply, AccountView, OpenAccountBody
from backend.services import account_service
from backend.services.plan_service import require_broker

router = APIRouter(prefix="/v1/broker-accounts", tags=["broker accounts"], route_class=IdempotentRoute)


@router.post("", **documented("open_broker_account", 401, 403, 409, 503, status=201))
async def open_broker_account(body: OpenAccountBody, user: PortfolioUser, state: State) -> AccountReply:
    """Open a paper account, with play money in it. The first one becomes the primary: it executes the auto-trades."""
    if body.broker in state.desk.brokers:
        async with state.sessions() as session:
            await require_broker(session, user.id, body.broker)
    opened = await account_service.open_account(
        state.desk, user.id, body.broker, body.label, state.paper_deposit_rupees
    )
    return AccountReply(environment=state.environment, account=AccountView.of(opened))


@router.get("", **documented("list_broker_accounts", 401))
async def list_broker_accounts(user: CurrentUser, state: State) -> AccountsReply:
    """The accounts with the cash and shares their brokers report."""
    async with state.sessions() as session:
        accounts = await account_service.accounts_of(session, user.id)
    funds = await account_service.with_funds(state.trading, accounts)
    return AccountsReply(environment=state.environment, accounts=[AccountView.of(f) for f in funds])
