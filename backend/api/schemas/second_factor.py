"""The second factor on the wire."""

from typing import Self

from backend.api.schemas.common import Body, Moment, Reply
from backend.api.schemas.logins import Code
from backend.services.second_factor_setup import Confirmed, Enrolment, SecondFactorState


class SecondFactorReply(Reply):
    """`confirmed_at` is null where there is none."""

    confirmed_at: Moment | None
    recovery_codes_left: int

    @classmethod
    def of(cls, state: SecondFactorState) -> Self:
        return cls(confirmed_at=state.confirmed_at, recovery_codes_left=state.recovery_codes_left)


class EnrolmentReply(Reply):
    """Shown once. `secret` is base32, for typing; `otpauth_uri` the same for a QR code that your frontend draws."""

    secret: str
    otpauth_uri: str

    @classmethod
    def of(cls, enrolment: Enrolment) -> Self:
        return cls(secret=enrolment.secret, otpauth_uri=enrolment.uri)


class CodeBody(Body):
    """A code of the authenticator; where the second factor is on already, a recovery code also."""

    code: Code


class RecoveryCodesReply(Reply):
    """Shown once: each stands in for the second factor once."""

    recovery_codes: list[str]


class ConfirmedReply(RecoveryCodesReply):
    sessions_ended: int

    @classmethod
    def of(cls, confirmed: Confirmed) -> Self:
        return cls(recovery_codes=confirmed.recovery_codes, sessions_ended=confirmed.sessions_ended)
