"""E-mail addresses: verifying one, and changing it."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.db import IDENTITY_ROLE, Sessions, acting_as
from backend.errors import ConflictError, InvalidRequestError, NotAllowedError
from backend.models import EmailPurpose, User
from backend.security import Security
from backend.services import audit_service, mail_service
from backend.services.audit_service import Actor
from backend.services.email_tokens import use_token
from backend.services.mail_texts import MailKind


def require_verified(user: User) -> None:
    """What moves real money, live mode and linking a real broker, needs an address that is known to be the user's.

    Raises:
        NotAllowedError: it is not verified yet.
    """
    if user.email_verified_at is None:
        raise NotAllowedError(
            "Verify your e-mail address first: POST /v1/auth/email/verification sends the link again.",
            code="email_unverified",
        )


async def ask_verification(sessions: Sessions, user: User) -> None:
    """Mail the link that verifies the user's address again.

    Raises:
        ConflictError: the address is verified already.
    """
    if user.email_verified_at is not None:
        raise ConflictError("Your e-mail address is verified already.", code="email_verified")
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            await mail_service.post(session, MailKind.VERIFY, user.email, user_id=user.id)


async def ask_change(sessions: Sessions, user: User, new: str, actor: Actor) -> None:
    """Mail a link to the new address, which changes it, and a notice to the old one.

    Whether another user has the new address is not told here: that user gets a mail.

    Raises:
        InvalidRequestError: it is the present address.
    """
    if new.lower() == user.email.lower() and user.email_verified_at is not None:
        raise InvalidRequestError("This is your address already.", code="email_unchanged")
    with acting_as(IDENTITY_ROLE):
        async with sessions.begin() as session:
            await mail_service.post(session, MailKind.CHANGE, new, user_id=user.id)
            await mail_service.post(session, MailKind.EMAIL_CHANGING, user.email, user_id=user.id, new_email=new)
            await audit_service.record(
                session,
                actor,
                "email.change_asked",
                subject_id=user.id,
            )


async def verify(sessions: Sessions, security: Security, token: str, ip: str) -> str:
    """Take the token of a mail: the address it was sent to is the user's, verified. Which address that is.

    Raises:
        InvalidRequestError: the token is no good (any more).
        ConflictError: another user has the address meanwhile.
    """
    now = security.now()
    try:
        with acting_as(IDENTITY_ROLE):
            async with sessions.begin() as session:
                used = await use_token(session, token, {EmailPurpose.VERIFY, EmailPurpose.CHANGE}, now)
                user = (await session.scalars(select(User).where(User.id == used.user_id).with_for_update())).one()
                moved = used.purpose is EmailPurpose.CHANGE
                if not user.active or (not moved and user.email.lower() != used.email.lower()):
                    raise InvalidRequestError("This link has expired: ask for another mail.", code="link_invalid")
                before = user.email
                user.email, user.email_verified_at = used.email, now
                await session.flush()
                if moved:
                    await mail_service.post(
                        session, MailKind.EMAIL_CHANGED, before, user_id=user.id, new_email=used.email
                    )
                await audit_service.record(
                    session,
                    Actor(f"user:{user.id}", user.id, ip),
                    "email.change" if moved else "email.verify",
                    subject_id=user.id,
                )
                return used.email
    except IntegrityError:
        raise ConflictError("Another user has this address meanwhile.", code="email_taken") from None
