"""Readers of what a broker says: each gives a bounded value of its type, or refuses it; none guesses."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeVar, cast

T = TypeVar("T")

TEXT_LENGTH_MAX = 64
MESSAGE_LENGTH_MAX = 300
RUPEES_MAX = Decimal(10) ** 13
SHARES_MAX = 10**10
PLACES_MAX = 12
"""Digits after the point that are kept: an average price is a quotient, and sums of floats end in noise."""

Fields = Mapping[str, Any]


class MalformedError(ValueError):
    """What a broker said is not what it documents; says what is wrong, and nothing of the value."""


def parsed_json(content: bytes) -> Any:
    """JSON with every fraction as Decimal. Raises MalformedError."""
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError, InvalidOperation):
        raise MalformedError("no JSON" if content.strip() else "an empty reply") from None


def _refuse(_: str) -> NoReturn:
    raise ValueError("not a number of JSON's")


def fields(said: Any, what: str = "it") -> Fields:
    """A JSON object. Raises MalformedError."""
    if not isinstance(said, dict):
        raise MalformedError(f"{what} is no object")
    return cast("Fields", said)


def rows(said: Any, what: str = "it") -> Sequence[Fields]:
    """A list of JSON objects; null is not an empty one. Raises MalformedError."""
    if not isinstance(said, list):
        raise MalformedError(f"{what} is no list")
    return [fields(row, f"a row of {what}") for row in cast("list[Any]", said)]


def text(said: Fields, name: str, *, default: str | None = None, length_max: int = TEXT_LENGTH_MAX) -> str:
    """A short printable text. `default` stands for one that is absent, null or empty; without it they are refused.

    Raises:
        MalformedError: it is none, too long, or has characters that cannot be printed.
    """
    value = said.get(name)
    if value in (None, "") and default is not None:
        return default
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{name} is no text")
    if len(value) > length_max or not value.isprintable():
        raise MalformedError(f"{name} is no text of at most {length_max} printable characters")
    return value


def identifier(said: Fields, name: str) -> str:
    """A number or text that names something: an order, a trade. Raises MalformedError."""
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**TEXT_LENGTH_MAX:
        return str(value)
    return text(said, name)


def message(said: Fields, *names: str) -> str:
    """The broker's words for a person, from the first of the fields that has some: one line, cut where it is long."""
    for name in names:
        value = said.get(name)
        if isinstance(value, str) and value.strip():
            return words(value)
    return ""


def words(value: str) -> str:
    """Any text as one printable line of at most MESSAGE_LENGTH_MAX characters."""
    head = value[: 4 * MESSAGE_LENGTH_MAX]
    printable = "".join(character if character.isprintable() else " " for character in head)
    return " ".join(printable.split())[:MESSAGE_LENGTH_MAX]


def rupees(said: Fields, name: str, *, default: Decimal | None = None) -> Decimal:
    """Money in rupees, of either sign. `default` stands for one that is absent or null. Raises MalformedError."""
    value = said.get(name)
    if value is None and default is not None:
        return default
    amount = _decimal(value)
    if amount is None or abs(amount) > RUPEES_MAX:
        raise MalformedError(f"{name} is no amount of rupees")
    return amount if -amount.as_tuple().exponent <= PLACES_MAX else round(amount, PLACES_MAX)  # type: ignore[operator]


def price(said: Fields, name: str) -> Decimal:
    """Rupees per share, above zero. Raises MalformedError."""
    value = rupees(said, name)
    if value <= 0:
        raise MalformedError(f"{name} is no price")
    return value


def shares(said: Fields, name: str, *, default: int | None = None, short: bool = False) -> int:
    """A whole number of shares, below zero only where `short`. `default` stands for one that is absent or null.

    Raises:
        MalformedError: it is none.
    """
    value = said.get(name)
    if value is None and default is not None:
        return default
    amount = _decimal(value)
    if amount is None or abs(amount) > SHARES_MAX or amount != int(amount) or (amount < 0 and not short):
        raise MalformedError(f"{name} is no number of shares")
    return int(amount)


def _decimal(value: Any) -> Decimal | None:
    """A finite number of ordinary size, from JSON's number or a number in quotes; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > TEXT_LENGTH_MAX:
        return None
    try:
        number = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    # An exponent of a million is a small text, and all the memory there is as an integer.
    return number if number.is_finite() and -40 < number.adjusted() < 20 else None


def one_of(said: Fields, name: str, meanings: Mapping[str, T]) -> T:
    """The meaning of a word. Raises MalformedError for a word without one."""
    value = said.get(name)
    if not isinstance(value, str) or value not in meanings:
        raise MalformedError(f"{name} is none of {', '.join(sorted(meanings))}")
    return meanings[value]


def instant(said: Fields, name: str, zone: tzinfo, pattern: str | None = None) -> datetime:
    """An instant, of `zone` where it says no offset; ISO 8601, or `pattern` as strptime reads it.

    Raises:
        MalformedError: it is none.
    """
    value = said.get(name)
    try:
        if not isinstance(value, str):
            raise ValueError
        at = datetime.fromisoformat(value) if pattern is None else datetime.strptime(value, pattern)  # noqa: DTZ007
        at = at if at.tzinfo else at.replace(tzinfo=zone)
        at.astimezone(UTC)  # what has no instant in UTC can be neither compared nor stored
    except (ValueError, OverflowError):
        raise MalformedError(f"{name} is no instant") from None
    return at


def plain(value: Decimal) -> str:
    """A number as brokers take it in forms: no exponent, no zeros behind the point."""
    shown = format(value, "f")
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def number(value: Decimal) -> float | int:
    """A number as JSON carries it: up to 15 digits come out as they are."""
    return int(value) if value == value.to_integral_value() else float(value)
