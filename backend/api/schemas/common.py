"""What all requests and replies share: strictness, money and instants on the wire, pages."""

import base64
import binascii
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)
from pydantic.json_schema import WithJsonSchema

from backend.domain.calendar import IST
from backend.errors import InvalidRequestError
from backend.services.rupees import rupees_text
from contracts.common import Environment, Symbol

ID_MAX = 2**63 - 1
PAGE_ROWS_MAX = 200
PAGE_ROWS_DEFAULT = 50
CURSOR_LENGTH_MAX = 40


class Body(BaseModel):
    """Base of request bodies: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Reply(BaseModel):
    """Base of replies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MarketReply(Reply):
    """Base of replies that show prices or orders: they say what kind of market these belong to."""

    environment: Environment


def _ist(moment: datetime) -> str:
    return moment.astimezone(IST).isoformat()


Money = Annotated[
    Decimal,
    PlainSerializer(rupees_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?\d+\.\d{2,4}$", "description": "Rupees."}),
]
"""Rupees: a string with two to four decimals."""

Moment = Annotated[AwareDatetime, PlainSerializer(_ist, return_type=str)]
"""An instant: ISO-8601 with India's offset."""

Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line of text without control characters."""

DAY_LENGTH = len("2026-03-02")


def _day(given: object) -> object:
    """Pydantic would take a number as seconds since 1970, and a moment at midnight as its day."""
    if isinstance(given, date) or (isinstance(given, str) and len(given) == DAY_LENGTH and given.count("-") == 2):
        return given
    raise ValueError("a day is written as 2026-03-02")


Day = Annotated[date, BeforeValidator(_day)]
"""A day in a request: ISO-8601 and nothing else."""


def _instant(given: object) -> object:
    """Pydantic would take a number, in a query also as text, as seconds since 1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and given[:4].isdecimal() and given[4:5] == "-"):
        return given
    raise ValueError("an instant is written as 2026-03-02T09:15:00+05:30")


Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
"""An instant in a request: ISO-8601 with an offset and nothing else."""

Flag = Annotated[bool, Field(strict=True)]
"""A truth value in a body: true or false, not "yes" or 1."""

Id = Annotated[int, Field(strict=True, ge=1, le=ID_MAX)]


class PageQuery(Body):
    """Which page: newest first, from where `next_cursor` of the page before points."""

    limit: Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS_DEFAULT
    cursor: Annotated[str, StringConstraints(max_length=CURSOR_LENGTH_MAX)] | None = None

    @property
    def before_id(self) -> int | None:
        """The id below which the page begins.

        Raises:
            InvalidRequestError: the cursor is none of ours.
        """
        return None if self.cursor is None else _id_in(self.cursor)


def next_cursor(ids: list[int], limit: int) -> str | None:
    """The cursor after the first `limit` of `ids`; None where there are no more. Read one row more than `limit`."""
    if len(ids) <= limit:
        return None
    return base64.urlsafe_b64encode(b"id:%d" % ids[limit - 1]).decode().rstrip("=")


def _id_in(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        text = b""
    number = text.removeprefix(b"id:")
    if not (text.startswith(b"id:") and number.isdigit() and len(number) <= 19 and int(number) <= ID_MAX):
        raise InvalidRequestError("The cursor is not one that this API gave out.", code="invalid_cursor")
    return int(number)


def _symbols(text: str) -> list[str]:
    return list(dict.fromkeys(text.split(",")))


SymbolList = Annotated[
    str,
    StringConstraints(max_length=1100, pattern=r"^[A-Z0-9][A-Z0-9&\-]{0,19}(,[A-Z0-9][A-Z0-9&\-]{0,19}){0,49}$"),
    AfterValidator(_symbols),
]
"""Up to 50 trading symbols with commas between them; a list once validated."""

__all__ = [
    "ID_MAX",
    "Body",
    "Day",
    "Flag",
    "Id",
    "Instant",
    "Line",
    "MarketReply",
    "Moment",
    "Money",
    "PageQuery",
    "Reply",
    "Symbol",
    "SymbolList",
    "next_cursor",
]
