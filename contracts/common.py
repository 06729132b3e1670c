"""What every wire shape shares: frozen, no unknown fields, rupees as strings, instants with an offset."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints

SYMBOLS_PER_REQUEST_MAX = 500


class Environment(StrEnum):
    """Where prices come from and where orders go; it stands in every payload that shows either."""

    SIMULATED = "simulated"
    PAPER = "paper"
    LIVE = "live"


class Wire(BaseModel):
    """Base of all shapes: immutable, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


def _plain(value: Decimal) -> str:
    return format(value, "f")


Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9][A-Z0-9&\-]{0,19}$")]
"""An exchange's trading symbol, upper case: RELIANCE, M&M, BAJAJ-AUTO."""

Symbols = Annotated[list[Symbol], Field(min_length=1, max_length=SYMBOLS_PER_REQUEST_MAX)]

Rupees = Annotated[Decimal, Field(max_digits=20, decimal_places=6), PlainSerializer(_plain, return_type=str)]
"""An amount or price in rupees: a decimal string on the wire, never a float."""

Instant = AwareDatetime
"""A moment, ISO-8601 with an offset."""


class Problem(Wire):
    """An error, as RFC 9457 problem+json. `code` is stable; `errors` holds one entry per bad field."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[dict[str, Any]] = []


class Health(Wire):
    """A service's own state: `status` is "ok" or "starting"; `detail` says what it waits for."""

    status: str
    service: str
    version: str
    environment: Environment
    detail: str = ""
