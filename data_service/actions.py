"""Reads what exchanges announce about shares, free text as it is, into typed corporate actions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import polars as pl

from contracts.market import ActionKind
from data_service.errors import DataServiceError
from data_service.store.schemas import ACTION_KEY, ACTION_SCHEMA

SHARE_SERIES = frozenset({"", "EQ", "BE", "BZ", "SM", "ST", "SZ", "IV", "RR", "DR"})
"""Series (and "" where a feed has none) whose actions are those of the listed share or unit. A bonus of a bond or of a
partly paid share must never adjust the share of the same symbol."""

COLUMN_NAMES = {
    "symbol": ("symbol", "scripid", "securityid"),
    "series": ("series",),
    "isin": ("isin", "isincode", "isinno"),
    "ex_date": ("exdate",),
    "face_value": ("faceval", "facevalue"),
    "subject": ("subject", "purpose"),
}
"""Spellings of a feed's columns, lower case without anything but letters."""

COLUMNS_NEEDED = ("symbol", "ex_date", "subject")
DATE_FORMATS = ("%Y-%m-%d", "%d-%b-%Y", "%d %b %Y", "%d-%m-%Y", "%d/%m/%Y")

_NUMBER = r"(\d+(?:\s*\.\s*\d+)?)"
_RUPEES = r"(?:r\s?[se]\.?)?\s*"
_DIVIDEND = r"d[iv]{2,}i?d[a-z]*|\bdiv\b"
_SEPARATOR = re.compile(
    r"""/(?!\s*-|\s*to\b)                                          # not the stroke of "Rs 10/-"
    | \s&\s | \sand\s
    | cons?ists?(?:ing)?\b(?:\s+of)? | \bcompris(?:es|ing)\b(?:\s+of)?
    | (?:(?<=share)|(?<=unit)|(?<=\bsh))\s+(?=(?:special|interim|final)\s[a-z ]*div)
    | (?<=/-)\s*(?=div)""",
    re.IGNORECASE | re.VERBOSE,
)
_RATIO = re.compile(r"(\d{1,4})\s*:\s*(\d{1,4})")
_FACE_VALUES = re.compile(rf"\bfrom\s*{_RUPEES}{_NUMBER}.*?\bto\s*{_RUPEES}{_NUMBER}", re.IGNORECASE)
_AMOUNT_AFTER = re.compile(rf"(?:{_DIVIDEND}).*?{_NUMBER}\s*(%)?", re.IGNORECASE)
_AMOUNT_BEFORE = re.compile(rf"{_NUMBER}\s*(%)?[^0-9]*(?:{_DIVIDEND})", re.IGNORECASE)


class FeedError(DataServiceError):
    """A feed of corporate actions lacks a column or has a line that cannot be read."""


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """One action of a subject line; `subject` is its own part of the text.

    Of a split or bonus `shares_before` shares become `shares_after`, in lowest terms; `amount_paise` is a dividend per
    share (rounded half up where it is finer than a paisa), None where the text does not say.
    """

    kind: ActionKind
    subject: str
    shares_before: int | None = None
    shares_after: int | None = None
    amount_paise: int | None = None


def _ratio(kind: ActionKind, subject: str, after_per_before: Fraction) -> ParsedAction | None:
    """A split or bonus, if it changes anything and is a ratio a company could have meant."""
    if after_per_before in (0, 1):
        return None
    return ParsedAction(kind, subject, after_per_before.denominator, after_per_before.numerator)


def _split(clause: str, _: Decimal | None) -> ParsedAction | None:
    """Face value from F to T: each share becomes F/T shares; T > F is a consolidation."""
    values = _FACE_VALUES.search(clause)
    if not values:
        return None
    before, after = (Fraction(_spaceless(value)) for value in values.groups())
    return _ratio(ActionKind.SPLIT, clause, before / after) if after else None


def _bonus(clause: str, _: Decimal | None) -> ParsedAction | None:
    """Bonus a:b: a new shares for every b held."""
    ratio = _RATIO.search(clause)
    if not ratio or not int(ratio[2]):
        return None
    return _ratio(ActionKind.BONUS, clause, 1 + Fraction(int(ratio[1]), int(ratio[2])))


def _dividend(clause: str, face_value: Decimal | None) -> ParsedAction:
    found = _AMOUNT_AFTER.search(clause) or _AMOUNT_BEFORE.search(clause)
    if not found:
        return ParsedAction(ActionKind.DIVIDEND, clause)
    unit_paise = face_value if found[2] else Decimal(100)
    if unit_paise is None:
        return ParsedAction(ActionKind.DIVIDEND, clause)
    paise = Decimal(_spaceless(found[1])) * unit_paise
    return ParsedAction(ActionKind.DIVIDEND, clause, amount_paise=int(paise.to_integral_value(ROUND_HALF_UP)))


def _spaceless(number: str) -> str:
    return re.sub(r"\s", "", number)


def _of(kind: ActionKind) -> Callable[[str, Decimal | None], ParsedAction]:
    return lambda clause, _: ParsedAction(kind, clause)


RULES: tuple[tuple[re.Pattern[str], Callable[[str, Decimal | None], ParsedAction | None]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), rule)
    for pattern, rule in (
        (r"split|sub-?\s?division|consolidation", _split),
        (r"bonus.*(debenture|preference|ncr?ps|warrant)", _of(ActionKind.OTHER)),
        (r"bonus", _bonus),
        (
            r"capital\s+reduction|reduction\s+(of|in)\s+(share\s+|paid.?up\s+)?capital",
            _of(ActionKind.CAPITAL_REDUCTION),
        ),
        (r"de-?\s?merge|spin.?off|hive.?off", _of(ActionKind.DEMERGER)),
        (r"merge|amalgamation", _of(ActionKind.MERGER)),
        (r"\brights?\b", _of(ActionKind.RIGHTS)),
        (_DIVIDEND, _dividend),
        (r"scheme\s+of\s+arr?angement", _of(ActionKind.DEMERGER)),
    )
)
"""First match wins. A share that goes on trading has an ex-date under a scheme of arrangement because its holders are
given shares of another company, so that is treated as a demerger; where a share is absorbed the text says so."""


@lru_cache(maxsize=4096)
def parse_subject(text: str, face_value: Decimal | None = None) -> tuple[ParsedAction, ...]:
    """All actions of one subject line, in its order; what no rule understands is kept as ActionKind.OTHER.

    `face_value` (rupees) serves dividends stated in per cent of it. An empty text is one OTHER, so no row is lost.
    """
    clauses = [" ".join(part.split()).strip(" -,;.") for part in _SEPARATOR.split(text)]
    wanted = [clause for clause in clauses if clause] or [" ".join(text.split())]
    return tuple(_parse_clause(clause, face_value) for clause in wanted)


def _parse_clause(clause: str, face_value: Decimal | None) -> ParsedAction:
    for pattern, rule in RULES:
        if pattern.search(clause):
            return rule(clause, face_value) or ParsedAction(ActionKind.OTHER, clause)
    return ParsedAction(ActionKind.OTHER, clause)


def parse_feed(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """A corporate actions feed (NSE's CSV in any of its column spellings, all columns as text) as ACTION_SCHEMA rows.

    Repeated rows are collapsed. `known_on` is the ex-date: the feed does not say when it was announced. Rows that
    `unreadable_rows` names are left out. Raises FeedError where a column is missing.
    """
    columns = _standard_columns(frame).filter(pl.col("symbol").is_not_null() & pl.col("ex_date").is_not_null())
    rows: list[dict[str, Any]] = []
    for row in columns.unique(maintain_order=True).iter_rows(named=True):
        base = {"symbol": row["symbol"], "isin": row["isin"], "ex_date": row["ex_date"], "known_on": row["ex_date"]}
        for action in _parse_row(row["series"], row["subject"], row["face_value"]):
            fields = {name: getattr(action, name) for name in ("shares_before", "shares_after", "amount_paise")}
            rows.append(base | fields | {"kind": action.kind.value, "subject": action.subject, "source": source})
    return pl.DataFrame(rows, schema=ACTION_SCHEMA).unique(ACTION_KEY, keep="first", maintain_order=True)


def _parse_row(series: str, subject: str, face_value: str) -> tuple[ParsedAction, ...]:
    if series not in SHARE_SERIES:
        return (ParsedAction(ActionKind.OTHER, f"{' '.join(subject.split())} (series {series})"),)
    known = re.fullmatch(r"\d+(\.\d+)?", face_value)
    return parse_subject(subject, Decimal(face_value) if known else None)


def unreadable_rows(frame: pl.DataFrame) -> list[tuple[int, str]]:
    """(row number from 0, reason) of the feed's rows without a symbol or a readable ex-date. Raises FeedError."""
    columns = _standard_columns(frame).with_row_index("row")
    bad = columns.filter(pl.col("symbol").is_null() | pl.col("ex_date").is_null())
    return [
        (row, "there is no symbol" if symbol is None else f"ex-date {text} cannot be read")
        for row, symbol, text in bad.select("row", "symbol", "ex_date_text").iter_rows()
    ]


def _standard_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """symbol, series, isin, face_value, subject, ex_date_text (text, stripped) and ex_date."""
    spelled = {re.sub(r"[^a-z]", "", name.lower()): name for name in frame.columns}
    found = {
        name: next((spelled[spelling] for spelling in spellings if spelling in spelled), None)
        for name, spellings in COLUMN_NAMES.items()
    }
    if missing := [name for name in COLUMNS_NEEDED if found[name] is None]:
        raise FeedError(f"corporate actions need a column for {', '.join(missing)}; found {', '.join(frame.columns)}")
    texts = {
        name: (pl.col(column).cast(pl.String) if column else pl.lit(None, pl.String)).str.strip_chars().fill_null("")
        for name, column in found.items()
    }
    return frame.select(**texts).select(
        pl.col("symbol").str.to_uppercase().replace("", None),
        "series",
        pl.col("isin").replace({"": None, "-": None}),
        "face_value",
        "subject",
        ex_date_text=pl.col("ex_date"),
        ex_date=pl.coalesce(*(pl.col("ex_date").str.to_date(form, strict=False) for form in DATE_FORMATS)),
    )
