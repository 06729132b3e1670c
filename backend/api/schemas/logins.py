"""Logging in, sessions, passwords and e-mail addresses on the wire."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from backend.api.schemas.common import Body, Flag, Line, Moment, Reply
from backend.models import LoginSession
from backend.services.password_rules import LENGTH_MAX, LENGTH_WITH_SECOND_FACTOR_MIN
from backend.services.session_service import Tokens


def _text(secret: SecretStr) -> SecretStr:
    """A secret is not checked as other text is: NUL and lone surrogates get past its length."""
    try:
        encoded = secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("it must be Unicode text") from None
    if 0 in encoded:
        raise ValueError("it must not contain NUL")
    return secret


Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\-]+@[A-Za-z0-9\-]+(\.[A-Za-z0-9\-]+)+$"),
]
NewPassword = Annotated[
    SecretStr, Field(min_length=LENGTH_WITH_SECOND_FACTOR_MIN, max_length=LENGTH_MAX), AfterValidator(_text)
]
Password = Annotated[SecretStr, Field(min_length=1, max_length=LENGTH_MAX), AfterValidator(_text)]
Code = Annotated[SecretStr, Field(min_length=6, max_length=64), AfterValidator(_text)]
"""A code of the second factor, or a recovery code."""
Token = Annotated[SecretStr, Field(min_length=1, max_length=128), AfterValidator(_text)]
"""The secret of a link, or a refresh token."""


class RegisterBody(Body):
    email: Email
    password: NewPassword
    name: Annotated[Line, Field(max_length=100)] = ""


class MessageReply(Reply):
    """What was done, or will be, for people."""

    message: str


class LoginBody(Body):
    """`code` where the user has a second factor. With `cookie`, for browsers, the refresh token comes as a cookie."""

    email: Email
    password: Password
    code: Code | None = None
    cookie: Flag = False


class RefreshBody(Body):
    """Left out where the refresh token comes as a cookie."""

    refresh_token: Token


class TokensReply(Reply):
    """`refresh_token` is good once: each refresh brings the next. It is null where it went into the cookie.

    The login ends at `session_expires_at`, or when it is not used for the deployment's idle days.
    """

    access_token: str
    token_type: str = "bearer"  # noqa: S105 (RFC 6750's name of the scheme)
    expires_in_s: int
    refresh_token: str | None
    session_id: int
    session_expires_at: Moment

    @classmethod
    def of(cls, tokens: Tokens, expires_in_s: int, *, cookie: bool) -> Self:
        return cls(
            access_token=tokens.access,
            expires_in_s=expires_in_s,
            refresh_token=None if cookie else tokens.refresh,
            session_id=tokens.session_id,
            session_expires_at=tokens.expires_at,
        )


class StepUpBody(Body):
    """One of both; what asks for the second factor asks for `code`."""

    password: Password | None = None
    code: Code | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.password is None) == (self.code is None):
            raise ValueError("send either password or code")
        return self


class StepUpReply(Reply):
    """Until when the login counts as proved."""

    proved_until: Moment


class PasswordBody(Body):
    current_password: Password
    new_password: NewPassword


class SessionsEndedReply(Reply):
    sessions_ended: int


class EmailBody(Body):
    email: Email


class TokenBody(Body):
    token: Token


class ResetBody(Body):
    token: Token
    password: NewPassword


class VerifiedReply(Reply):
    email: str


class SessionView(Reply):
    """A login that can still be used. `device` is what the program said it is, `second_factor` whether it gave one."""

    id: int
    device: str
    ip: str
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    second_factor: bool
    current: bool

    @classmethod
    def of(cls, row: LoginSession, current_id: int) -> Self:
        return cls(
            id=row.id,
            device=row.device,
            ip=row.ip,
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
            second_factor=row.second_factor_at is not None,
            current=row.id == current_id,
        )


class SessionsReply(Reply):
    """The one used last comes first."""

    sessions: list[SessionView]
