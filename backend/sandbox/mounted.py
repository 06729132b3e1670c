"""The sandbox as the gateway mounts it: over the users' paper accounts, with the gateway's own logins."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select

from backend.brokers.paper import PaperBroker
from backend.brokers.paper_market import BROKER_LIKE, PaperMarket
from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import NotAuthenticatedError
from backend.models import Credential, User
from backend.sandbox.app import Sandbox, create_sandbox
from backend.sandbox.world import Confirm, World
from backend.security import Security
from backend.services.context import Trading
from backend.services.login_service import Secret, prove
from backend.services.session_service import Device
from backend.vault import Vault

AGENT = "sandbox login"


def mounted_sandbox(
    trading: Trading,
    market: PaperMarket,
    sessions: Sessions,
    security: Security,
    vault: Vault | None,
    now: Callable[[], datetime],
) -> Sandbox | None:
    """What answers Kite Connect clients at the gateway; None without a master key, as there are no keys then.

    It calls no address that a user names: order updates go out over its ticker alone.

    Args:
        sessions: those of the API, which may act as the identity role; `trading` has the trader's.
    """
    if vault is None:
        return None
    world = World(
        sessions=trading.sessions,
        broker=PaperBroker(trading.sessions, market, rules=BROKER_LIKE),
        market_data=trading.market_data,
        calendar=trading.calendar,
        clock=trading.clock,
        now=now,
        vault=vault,
        confirm=confirm_by_password(sessions, security, vault),
    )
    return create_sandbox(world)


def confirm_by_password(sessions: Sessions, security: Security, vault: Vault | None) -> Confirm:
    """Who logs in here is who logs in at the gateway: the same password, second factor and delays."""

    async def confirm(user_id: int, password: str, code: str, address: str) -> None:
        with acting_as(IDENTITY_ROLE):
            async with sessions() as session:
                query = select(User, Credential).join(Credential, Credential.user_id == User.id)
                user, credential = (await session.execute(query.where(User.id == user_id))).one()
        if not user.active:
            raise NotAuthenticatedError("This user is not active.", code="user_inactive")
        device = Device(address, AGENT)
        await prove(sessions, security, vault, user, device, Secret(password=password))
        if credential.totp_confirmed_at is not None:
            await prove(sessions, security, vault, user, device, Secret(code=code))

    return confirm
