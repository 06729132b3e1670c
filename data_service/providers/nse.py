"""NSE's public archives: the official end of day, its list of shares and its feed of corporate actions."""

import asyncio
import io
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import httpx
import polars as pl

from contracts.market import Interval
from data_service.actions import FeedError, parse_feed
from data_service.imports.checked import SYMBOL_PATTERN
from data_service.providers.base import Kind, ProviderError, RateLimitedError, UnsupportedError, Unsupporting
from data_service.providers.bhavcopy import bars_of_days, read_bhavcopy
from data_service.providers.http import Fetched, fetch, parsed_json, require_ok, unzipped_csv
from data_service.sessions import Sessions
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA, INSTRUMENT_SCHEMA

ARCHIVES_URL = "https://nsearchives.nseindia.com"
SITE_URL = "https://www.nseindia.com"

UDIFF_SINCE = date(2024, 7, 8)
"""From this day the bhavcopy has the exchanges' common layout (UDiFF); the old file ended with the day before."""

SHARE_SERIES = ("EQ", "BE")


def archive_files(day: date) -> tuple[tuple[str, str], tuple[str, str]]:
    """Path and layout of where the end of `day` is kept: the bhavcopy of its time, then the file with deliveries."""
    month = f"{day:%b}".upper()
    if day >= UDIFF_SINCE:
        first = f"/content/cm/BhavCopy_NSE_CM_0_0_0_{day:%Y%m%d}_F_0000.csv.zip", "udiff"
    else:
        first = f"/content/historical/EQUITIES/{day:%Y}/{month}/cm{day:%d}{month}{day:%Y}bhav.csv.zip", "nse_old"
    return first, (f"/products/content/sec_bhavdata_full_{day:%d%m%Y}.csv", "nse_full")


class Nse(Unsupporting):
    """Daily bars, instruments and corporate actions, official. Symbols are NSE's."""

    name = "nse"
    kinds = frozenset({Kind.DAILY_BARS, Kind.INSTRUMENTS, Kind.ACTIONS})

    def __init__(
        self,
        http: httpx.AsyncClient,
        sessions: Sessions,
        today: Callable[[], date],
        *,
        archives_url: str = ARCHIVES_URL,
        site_url: str = SITE_URL,
    ) -> None:
        """`today` gives the Indian calendar date."""
        self._http, self._sessions, self._today = http, sessions, today
        self._archives_url, self._site_url = archives_url, site_url

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Bars of the calendar's sessions in the days, one file per session, none for BSE's scrip codes alone.

        A session whose file is not there yet is absent.

        Raises ProviderError; IncompleteError where some days' files failed; UnsupportedError for an intraday interval.
        """
        if interval is not Interval.DAY_1:
            raise UnsupportedError(f"{self.name} has no {interval} bars")
        names = [symbol for symbol in symbols if not symbol.isdigit()]
        last = min(through, self._today())
        days = [session.day for session in self._sessions.all if names and from_ <= session.day <= last]
        return await bars_of_days(names, days, self._day)

    async def _day(self, day: date) -> pl.DataFrame:
        """All shares' bars of a session; none where no file of it is there yet."""
        error: ProviderError | None = None
        for path, kind in archive_files(day):
            try:
                reply = await fetch(self._http, self._archives_url + path)
                if reply.status != 404:
                    return await self._parsed(reply, path, kind, day)
            except RateLimitedError:
                raise
            except ProviderError as failed:
                error = error or failed
        if error:
            raise error
        return BAR_SCHEMA.to_frame()

    async def _parsed(self, reply: Fetched, path: str, kind: str, day: date) -> pl.DataFrame:
        content = require_ok(reply)
        name = path.rsplit("/", 1)[1]
        if name.endswith(".zip"):
            content, name = await asyncio.to_thread(unzipped_csv, content, reply.place), name.removesuffix(".zip")
        return await read_bhavcopy(content, name, kind, day, self._sessions, self.name)

    async def instruments(self) -> pl.DataFrame:
        """The shares of series EQ and BE listed today. The list says nothing of ticks, bands and derivatives.

        Raises ProviderError.
        """
        reply = await fetch(self._http, f"{self._archives_url}/content/equities/EQUITY_L.csv")
        return _instruments(_csv(require_ok(reply), reply.place), self._today(), self.name, reply.place)

    async def actions(self, from_: date, through: date) -> pl.DataFrame:
        """Corporate actions with an ex-date in the days. Raises ProviderError."""
        reply = await self._feed(
            {"index": "equities", "from_date": f"{from_:%d-%m-%Y}", "to_date": f"{through:%d-%m-%Y}"}
        )
        content = require_ok(reply)
        frame = _feed_frame(content, reply.place)
        if frame is None:
            return ACTION_SCHEMA.to_frame()
        try:
            actions = parse_feed(frame, self.name)
        except FeedError as error:
            raise ProviderError(f"{reply.place}: {error}") from error
        return actions.filter(pl.col("ex_date").is_between(from_, through))

    async def _feed(self, params: dict[str, str]) -> Fetched:
        """The site answers those only who carry the cookies of one of its pages; the client keeps them."""
        url = f"{self._site_url}/api/corporates-corporateActions"
        reply = await fetch(self._http, url, params=params)
        if reply.status in (401, 403):
            require_ok(await fetch(self._http, f"{self._site_url}/companies-listing/corporate-filings-actions"))
            reply = await fetch(self._http, url, params=params)
        return reply


def _csv(content: bytes, place: str) -> pl.DataFrame:
    """A table of strings, names and values stripped of spaces."""
    try:
        frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ProviderError(f"{place}: not a CSV file") from error
    return frame.rename(str.strip).with_columns(pl.all().str.strip_chars())


def _feed_frame(content: bytes, place: str) -> pl.DataFrame | None:
    """The feed's rows, which the site gives as JSON or as CSV; None where it says that there are none."""
    if not content.lstrip().startswith(b"["):
        return _csv(content, place)
    rows = parsed_json(content, place)
    return _from_objects(rows, place) if rows else None


def _from_objects(rows: Any, place: str) -> pl.DataFrame:
    if not all(isinstance(row, dict) for row in rows):
        raise ProviderError(f"{place}: not a list of objects")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name: ["" if row.get(name) is None else str(row[name]).strip() for row in rows] for name in columns}
    return pl.DataFrame(texts, schema=dict.fromkeys(columns, pl.String))


def _instruments(listed: pl.DataFrame, today: date, source: str, place: str) -> pl.DataFrame:
    needed = {"SYMBOL", "NAME OF COMPANY", "SERIES", "MARKET LOT", "ISIN NUMBER"}
    if missing := needed - set(listed.columns):
        raise ProviderError(f"{place}: no column {', '.join(sorted(missing))}")
    shares = listed.filter(pl.col("SERIES").is_in(SHARE_SERIES), pl.col("SYMBOL").str.contains(SYMBOL_PATTERN))
    said = {
        "symbol": pl.col("SYMBOL"),
        "known_on": pl.lit(today),
        "exchange": pl.lit("nse"),
        "name": pl.col("NAME OF COMPANY"),
        "isin": pl.col("ISIN NUMBER"),
        "series": pl.col("SERIES"),
        "lot_size": pl.col("MARKET LOT").cast(pl.Int64, strict=False),
        "source": pl.lit(source),
    }
    columns = [said.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in INSTRUMENT_SCHEMA.items()]
    return shares.select(columns).unique("symbol", keep="first", maintain_order=True)
