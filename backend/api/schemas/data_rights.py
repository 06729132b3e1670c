"""Export and erasure on the wire."""

from typing import Any, Self

from backend.api.schemas.common import Body, Flag, Moment, Reply
from backend.api.schemas.logins import Password
from backend.services.erasure_service import Hold


class ExportReply(Reply):
    """`tables`: rows by table; without hashes and sealed secrets. `left_out`: tables that are not in it, and why."""

    exported_at: str
    user_id: int
    left_out: dict[str, str]
    tables: dict[str, list[dict[str, Any]]]


class ErasureBody(Body):
    """`end_subscription` ends a plan that is paid for; what is left of it is lost."""

    password: Password
    end_subscription: Flag = False


class HoldView(Reply):
    what: str
    years: int
    why: str

    @classmethod
    def of(cls, hold: Hold) -> Self:
        return cls(what=hold.what, years=hold.years, why=hold.why)


class ErasureReply(Reply):
    """`kept` is what the law makes us keep, under the bare id."""

    erased_at: Moment
    kept: list[HoldView]
    message: str
