"""Reads what exchanges announce about shares, free text as it is, into typed corporate actions."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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


@dataclass(frozen=True, slots=True)
class NameSpan:
    """A symbol under which a share traded from `first` through `last` (open-ended by date.min and date.max)."""

    name: str
    first: date
    last: date


def names_of(symbol: str, actions: pl.DataFrame, as_of: date) -> list[NameSpan]:
    """The names of the share that is called `symbol` on `as_of`, oldest first; renames known later do not count.

    A name that was given up yields its days up to then. `actions` is ACTION_SCHEMA; only its renames are read.
    """
    known = (pl.col("ex_date") <= as_of) & (pl.col("known_on") <= as_of)
    changes = _renames(actions.filter(known))
    spans: list[NameSpan] = []
    name, last = symbol, _given_up(symbol, changes)
    while True:
        before = [change for change in changes if name in change[1:] and change[0] <= last]
        newest = max(before, default=None)
        spans.append(NameSpan(name, newest[0] if newest else date.min, last))
        if newest is None or newest[1] == name:
            return spans[::-1]
        name, last = newest[1], newest[0] - timedelta(days=1)


def company_names(symbol: str, actions: pl.DataFrame, as_of: date) -> list[NameSpan]:
    """All names, later ones too, of the share called `symbol` on `as_of`.

    Exchanges' feeds tell a company's earlier actions under its present symbol, so an action is to be looked up under
    all of them; when it may be used is its `known_on`'s to say.
    """
    name, on = symbol, as_of
    for day, old, new in sorted(_renames(actions)):
        if day > on and old == name:
            name, on = new, day
    return names_of(name, actions, date.max)


def under_names_of_then(actions: pl.DataFrame) -> pl.DataFrame:
    """Actions (ACTION_SCHEMA) under the symbol that the share had on their ex-date, as its bars of then are stored."""
    renames = actions.filter(pl.col("kind") == ActionKind.RENAME)
    renamed = {*renames["symbol"], *renames["new_symbol"]}
    spans = {symbol: company_names(symbol, renames, date.max) for symbol in renamed if symbol}

    def then(symbol: str, ex_date: date) -> str:
        return next((span.name for span in spans.get(symbol, ()) if span.first <= ex_date <= span.last), symbol)

    moved = [
        symbol if kind == ActionKind.RENAME else then(symbol, ex_date)
        for symbol, ex_date, kind in actions.select("symbol", "ex_date", "kind").iter_rows()
    ]
    return actions.with_columns(pl.Series("symbol", moved, dtype=pl.String))


def _renames(actions: pl.DataFrame) -> set[tuple[date, str, str]]:
    """(day, old name, new name) of each rename."""
    rows = actions.filter((pl.col("kind") == ActionKind.RENAME) & pl.col("new_symbol").is_not_null())
    return {row for row in rows.select("ex_date", "symbol", "new_symbol").iter_rows() if row[1] != row[2]}


def _given_up(symbol: str, changes: set[tuple[date, str, str]]) -> date:
    """The last day of `symbol`, date.max where it is in use."""
    newest = max((change for change in changes if symbol in change[1:]), default=None)
    return newest[0] - timedelta(days=1) if newest and newest[1] == symbol else date.max


def parse_symbol_changes(text: str, source: str) -> pl.DataFrame:
    """NSE's symbolchange.csv (company, old symbol, new symbol, day as 01-Jan-2021; maybe a header) as renames.

    Returns ACTION_SCHEMA rows. Raises FeedError naming the line that cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for number, fields in enumerate(csv.reader(text.splitlines()), start=1):
        if not any(field.strip() for field in fields):
            continue
        try:
            company, old, new, day_text = (field.strip() for field in fields[:4])
            day = datetime.strptime(day_text, "%d-%b-%Y").date()  # noqa: DTZ007 - a plain date
        except ValueError as error:
            if number == 1:
                continue
            raise FeedError(f"line {number}: expected company, old symbol, new symbol, dd-MMM-yyyy") from error
        rows.append(_rename_row(old.upper(), new.upper(), day, company, source))
    return pl.DataFrame(rows, schema=ACTION_SCHEMA).unique(ACTION_KEY, keep="first", maintain_order=True)


def detect_renames(sightings: pl.DataFrame, source: str) -> pl.DataFrame:
    """Renames told by the ISIN: the same one under another symbol later. Returns ACTION_SCHEMA rows.

    `sightings` has the columns symbol, isin and known_on (a day on which the symbol stood for the ISIN): instrument
    masters or bhavcopies. A rename's ex-date is the first day the new symbol was seen. Two symbols of one ISIN that
    were seen side by side are no rename (two exchanges, two series).
    """
    seen = (
        sightings.filter(pl.col("isin").is_not_null())
        .group_by("isin", "symbol")
        .agg(first=pl.col("known_on").min(), last=pl.col("known_on").max())
        .sort("isin", "first", "last")
        .with_columns(
            old=pl.col("symbol").shift(1).over("isin"),
            apart=(pl.col("last").shift(1) < pl.col("first")).over("isin"),
        )
        .filter(pl.col("apart"))
    )
    rows = [
        _rename_row(old, new, first, f"{old} is {new}: the same ISIN {isin}", source) | {"isin": isin}
        for isin, old, new, first in seen.select("isin", "old", "symbol", "first").iter_rows()
    ]
    return pl.DataFrame(rows, schema=ACTION_SCHEMA)


def dated_by_bars(renames: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Renames (ACTION_SCHEMA) moved to the new symbol's first bar where sightings were too rare to know the day.

    `bars` has the columns symbol and day. A day moves only backwards, and only where the old symbol's bars end before.
    """
    spans = bars.group_by("symbol").agg(first=pl.col("day").min(), last=pl.col("day").max())
    beside = renames.join(spans.select("symbol", "last"), on="symbol", how="left", maintain_order="left")
    beside = beside.join(
        spans.select(new_symbol="symbol", first="first"), on="new_symbol", how="left", maintain_order="left"
    )
    earlier = (pl.col("last") < pl.col("first")) & (pl.col("first") < pl.col("ex_date"))
    day = pl.when(earlier).then("first").otherwise("ex_date")
    return beside.with_columns(ex_date=day, known_on=day).select(list(ACTION_SCHEMA))


def _rename_row(old: str, new: str, day: date, subject: str, source: str) -> dict[str, Any]:
    kind = ActionKind.RENAME.value
    said = {"subject": subject, "source": source}
    return {"symbol": old, "new_symbol": new, "ex_date": day, "known_on": day, "kind": kind} | said
