"""The file layouts the importer knows, as data: how to recognise each and where its columns are."""

import re
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import polars as pl

from data_service.imports.source import ImportRefusedError

PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Layout:
    """Column names (lower case) of one layout. `series` keeps only rows whose `series_column` is one of them.

    `source` is whose word the file is (store.schemas.TRUST); `isin` and `title` (the company's name) may be absent.
    """

    kind: str
    when: str
    prices: tuple[str, str, str, str]
    volume: str
    symbol: str = "symbol"
    series_column: str | None = None
    series: tuple[str, ...] = ("EQ", "BE")
    unit: int = 100
    daily: bool = True
    extra: tuple[str, ...] = field(default=())
    source: str = "file"
    isin: str | None = None
    title: str | None = None

    @property
    def columns(self) -> set[str]:
        when = {self.when} if self.when else set()
        series = {self.series_column} if self.series_column else set()
        return {self.symbol, *self.prices, self.volume, *when, *series, *self.extra}


BSE_SERIES = ("A", "B", "M", "MS", "MT", "P", "R", "T", "X", "XT", "Z", "ZP")
"""BSE's groups of equity in its UDiFF file (from memory of its list of groups); others are bonds and funds."""

FACTORS = "factors"
FACTOR_COLUMNS = {"symbol", "exdate", "factor"}
ACTIONS = "actions"

LAYOUTS = (
    Layout(
        "udiff", "traddt", ("opnpric", "hghpric", "lwpric", "clspric"), "ttltradgvol", "tckrsymb", "sctysrs",
        source="nse", isin="isin", title="fininstrmnm",
    ),
    Layout(
        "nse_full", "date1", ("open_price", "high_price", "low_price", "close_price"), "ttl_trd_qnty",
        series_column="series", source="nse",
    ),
    Layout("nse_old", "timestamp", PRICES, "tottrdqty", series_column="series", source="nse", isin="isin"),
    Layout("bse_old", "", PRICES, "no_of_shrs", "sc_code", "sc_type", series=("Q",), extra=("sc_name",),
           source="bse", title="sc_name"),
    Layout("paise", "date", ("open_p", "high_p", "low_p", "close_p"), "volume", unit=1),
    Layout("bars", "start", PRICES, "volume", daily=False),
    Layout("bars", "ts", PRICES, "volume", daily=False),
    Layout("bars", "date", PRICES, "volume", daily=False),
)  # fmt: skip
"""In the order they are tried. `udiff`: NSE's bhavcopy since July 2024; `nse_old`: before; `nse_full`: with deliveries;
`bse_old`: one day of BSE, the day in the file's name (EQddmmyy), symbols are scrip codes; `paise`: integer paise."""

KINDS = (*dict.fromkeys(layout.kind for layout in LAYOUTS), FACTORS, ACTIONS, "instruments", "renames")

DATE_FORMATS = ("%Y-%m-%d", "%d-%b-%Y", "%d-%m-%Y", "%d/%m/%Y", "%Y%m%d")
INSTANT_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")
OFFSET_INSTANT_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M:%S%.f%z")


def is_action_feed(columns: list[str], kind: str | None) -> bool:
    """Whether a table is the exchange's feed of corporate actions; its columns' spelling changed over the years."""
    names = {re.sub(r"[^a-z]", "", column) for column in columns}
    return kind == ACTIONS or (kind is None and "exdate" in names and bool(names & {"subject", "purpose"}))


def of_bse(layout: Layout) -> Layout:
    """The UDiFF layout for BSE's own file: shares are named by their scrip code there."""
    return replace(layout, symbol="fininstrmid", series=BSE_SERIES, source="bse")


def layout_of(columns: list[str], kind: str | None) -> Layout | None:
    """The layout of a table with these columns; None for split and bonus factors. Raises ImportRefusedError."""
    present = set(columns)
    if kind == FACTORS or (kind is None and present >= FACTOR_COLUMNS):
        if missing := FACTOR_COLUMNS - present:
            raise ImportRefusedError(f"factors need the columns {', '.join(sorted(missing))}")
        return None
    candidates = [layout for layout in LAYOUTS if kind in (None, layout.kind)]
    for layout in candidates:
        if layout.columns <= present:
            return layout
    needs = (
        " or ".join(sorted(candidates[-1].columns)) if kind else "symbol, date (or ts), open, high, low, close, volume"
    )
    raise ImportRefusedError(f"no known layout: expected the columns {needs}; found {', '.join(columns[:20])}")


def day_in_name(name: str) -> date:
    """The day in an old BSE file's name, EQ010421.CSV. Raises ImportRefusedError."""
    match = re.match(r"EQ(\d{6})\b", name.upper().split(".")[0])
    try:
        return datetime.strptime(match[1] if match else "", "%d%m%y").date()  # noqa: DTZ007 - a plain date
    except ValueError as error:
        raise ImportRefusedError("an old BSE file holds no date: its name must be EQddmmyy.CSV") from error


def epoch_s(column: str, dtype: pl.DataType) -> pl.Expr:
    """Seconds since the epoch of a date or instant column; naive instants are IST; null where unparsable."""
    source = pl.col(column)
    if dtype == pl.String:
        naive = pl.coalesce(
            *(source.str.to_datetime(form, strict=False, time_unit="ms") for form in INSTANT_FORMATS),
            *(source.str.to_date(form, strict=False).cast(pl.Datetime("ms")) for form in DATE_FORMATS),
        )
        aware = [
            source.str.replace("Z$", "+00:00").str.to_datetime(form, strict=False, time_unit="ms", time_zone="UTC")
            for form in OFFSET_INSTANT_FORMATS
        ]
        return pl.coalesce(*(_seconds(instant) for instant in aware), _seconds(_in_ist(naive)))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return _seconds(source)
    if isinstance(dtype, pl.Datetime | pl.Date):
        return _seconds(_in_ist(source.cast(pl.Datetime("ms"))))
    return pl.lit(None, dtype=pl.Int64)


def _in_ist(naive: pl.Expr) -> pl.Expr:
    return naive.dt.replace_time_zone("Asia/Kolkata", ambiguous="null", non_existent="null")


def _seconds(instant: pl.Expr) -> pl.Expr:
    return instant.dt.epoch("s")
