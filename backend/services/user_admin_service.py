"""What administrators do to users: switching them off and on, roles, second factors, logins. Each deed is recorded."""

import secrets
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.orders import Intent
from backend.errors import ConflictError, NotFoundError
from backend.models import Credential, Order, OrderOrigin, RecoveryCode, Role, User
from backend.security import password_hasher
from backend.services import live_service, session_service
from backend.services.api_key_service import revoke_all
from backend.services.audit_service import Actor, record
from backend.services.billing_rules import tell
from backend.services.cancel_service import CancelCounts, cancel_orders, open_orders
from backend.services.context import Trading

PASSWORD_BYTES = 18
"""Random bytes in a password that is made here: 24 characters, which no list of passwords holds."""


async def create_admin(session: AsyncSession, actor: Actor, email: str, now: datetime) -> tuple[User, str | None]:
    """Make a user an administrator, creating the user where there is none: then with a new password. Joins.

    Raises:
        ConflictError: the user is switched off or erased.
    """
    user = await session.scalar(
        select(User).where(func.lower(User.email) == email.lower()).with_for_update(key_share=True)
    )
    if user is not None:
        if not user.active:
            raise ConflictError(f"The user {user.id} is switched off: activate it first.", code="user_inactive")
        return await set_role(session, actor, user.id, Role.ADMIN, "made an administrator", now), None
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    user = User(email=email, role=Role.ADMIN)
    session.add(user)
    await session.flush()
    session.add(Credential(user_id=user.id, password_hash=password_hasher().hash(password), password_changed_at=now))
    await session.flush()
    after = {"role": Role.ADMIN.value}
    await record(session, actor, "user.create", subject_id=user.id, after=after)
    return user, password


async def set_active(
    session: AsyncSession, actor: Actor, user_id: int, active: bool, reason: str, now: datetime
) -> User:
    """Switch a user off or on. Doing it twice changes nothing. Joins the transaction.

    Who is off cannot log in: logins and API keys end, and keys stay so. Nothing is entered for them any more
    (`cancel_entries` is for what rests), while open trades keep their targets, stops and exits.

    Raises:
        NotFoundError: no such user.
        ConflictError: the last active administrator, or a user who was erased.
    """
    user = await _locked(session, user_id)
    if user.active is active:
        return user
    if active and user.erased_at is not None:
        raise ConflictError(f"The user {user_id} was erased and cannot come back.", code="user_erased")
    after: dict[str, object] = {"active": active}
    if not active:
        await _require_another_admin(session, user)
        after["sessions_ended"] = await session_service.end_sessions(session, user_id, now, reason="deactivated")
        after["api_keys_revoked"] = await revoke_all(session, user_id, now)
    user.active = active
    await session.flush()
    await tell(session, user.id, *(_SWITCHED_ON if active else _SWITCHED_OFF))
    action = "user.activate" if active else "user.deactivate"
    before = {"active": not active}
    await record(session, actor, action, subject_id=user_id, before=before, after=after, reason=reason)
    return user


async def cancel_entries(trading: Trading, user_id: int) -> CancelCounts:
    """Cancel what a user who was switched off has open to buy: it could fill yet. Exits stay."""
    async with trading.sessions() as session:
        entries = (Order.user_id == user_id, Order.intent == Intent.ENTRY, Order.origin != OrderOrigin.EXTERNAL)
        orders = await open_orders(session, *entries)
    return await cancel_orders(trading, orders, "the user was switched off")


_SWITCHED_ON = ("Your account is on again", "You can log in again. API keys from before do not work: make new ones.")
_SWITCHED_OFF = (
    "Your account was switched off",
    "An administrator switched it off: nobody can log in, and no new trades are entered. Open trades keep their stops.",
)


async def set_role(session: AsyncSession, actor: Actor, user_id: int, role: Role, reason: str, now: datetime) -> User:
    """Give a user another role; their logins end, so that none goes on with the old one. Joins the transaction.

    Raises:
        NotFoundError: no such user.
        ConflictError: the last active administrator would be none.
    """
    user = await _locked(session, user_id)
    before = user.role
    if before is role:
        return user
    await _require_another_admin(session, user)
    user.role = role
    ended = await session_service.end_sessions(session, user_id, now, reason="role_changed")
    await session.flush()
    await tell(session, user.id, "Your role has changed", f"You are {_NAMES[role]} now. Log in again.")
    after = {"role": role.value, "sessions_ended": ended}
    await record(
        session, actor, "user.role", subject_id=user_id, before={"role": before.value}, after=after, reason=reason
    )
    return user


_NAMES = {Role.USER: "a user", Role.SUPPORT: "support", Role.ADMIN: "an administrator"}


async def reset_second_factor(session: AsyncSession, actor: Actor, user_id: int, reason: str, now: datetime) -> int:
    """Take a user's second factor and recovery codes away, and end their logins; how many. Joins the transaction.

    The switch for live trading, which needs a second factor, goes off with it.

    Raises:
        NotFoundError: no such user.
        ConflictError: there is no second factor.
    """
    user = await _locked(session, user_id)
    had = await session.scalar(
        update(Credential)
        .where(Credential.user_id == user_id, Credential.totp_secret.is_not(None))
        .values(totp_secret=None, totp_confirmed_at=None, totp_last_step=0)
        .returning(Credential.user_id)
        .execution_options(synchronize_session=False)
    )
    if had is None:
        raise ConflictError(f"The user {user_id} has no second factor.", code="no_second_factor")
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    ended = await session_service.end_sessions(session, user_id, now, reason="second_factor_reset")
    await tell(
        session,
        user.id,
        "Your second factor was removed",
        "An administrator removed it, and ended your logins. Log in with your password and set up a new one. If you "
        "did not ask for that, choose another password at once.",
    )
    await live_service.withdraw(session, actor, user_id, "the second factor was reset")
    after = {"sessions_ended": ended}
    await record(session, actor, "second_factor.reset", subject_id=user_id, after=after, reason=reason)
    return ended


async def end_logins(session: AsyncSession, actor: Actor, user_id: int, reason: str, now: datetime) -> int:
    """End all logins of a user; how many. Joins the transaction.

    Raises:
        NotFoundError: no such user.
    """
    await _locked(session, user_id)
    ended = await session_service.end_sessions(session, user_id, now, reason="ended_by_admin")
    await record(session, actor, "session.end_all", subject_id=user_id, after={"ended": ended}, reason=reason)
    return ended


async def end_login(session: AsyncSession, actor: Actor, user_id: int, session_id: int, now: datetime) -> None:
    """End one login of a user. Joins the transaction.

    Raises:
        NotFoundError: the user has no such login that is open.
    """
    try:
        await session_service.end_session(session, actor, user_id, session_id, now, reason="ended_by_admin")
    except NotFoundError:
        raise NotFoundError(f"The user {user_id} has no login {session_id} that is still open.") from None


async def require_user(session: AsyncSession, user_id: int) -> User:
    """One user.

    Raises:
        NotFoundError: no such user.
    """
    user = await session.get(User, user_id)
    if user is None:
        raise NotFoundError(f"There is no user {user_id}.")
    return user


async def _locked(session: AsyncSession, user_id: int) -> User:
    """The user, kept from others' changes; all administrators stand in one line, in the order of their ids."""
    admins = select(User.id).where((User.role == Role.ADMIN) | (User.id == user_id)).order_by(User.id)
    await session.execute(admins.with_for_update(key_share=True))
    query = select(User).where(User.id == user_id).execution_options(populate_existing=True)
    user = (await session.scalars(query)).first()
    if user is None:
        raise NotFoundError(f"There is no user {user_id}.")
    return user


async def _require_another_admin(session: AsyncSession, user: User) -> None:
    """Let an administrator go only where another one stays."""
    if user.role is not Role.ADMIN or not user.active:
        return
    others = select(func.count()).where(User.role == Role.ADMIN, User.active, User.id != user.id)
    if not await session.scalar(others):
        raise ConflictError(
            f"The user {user.id} is the last active administrator: make another one first.", code="last_admin"
        )
