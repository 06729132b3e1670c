"""BSE's public archive of the end of day."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date

import httpx
import polars as pl

from contracts.market import Interval
from data_service.providers.base import Kind, UnsupportedError, Unsupporting
from data_service.providers.bhavcopy import bars_of_days, read_bhavcopy
from data_service.providers.http import fetch, require_ok, unzipped_csv
from data_service.sessions import Sessions
from data_service.store.schemas import BAR_SCHEMA

ARCHIVE_URL = "https://www.bseindia.com"
UDIFF_SINCE = date(2024, 7, 8)


def archive_file(day: date) -> tuple[str, str]:
    """Path and layout of where the end of `day` is kept."""
    if day >= UDIFF_SINCE:
        return f"/download/BhavCopy/Equity/BhavCopy_BSE_CM_0_0_0_{day:%Y%m%d}_F_0000.CSV", "udiff"
    return f"/download/BhavCopy/Equity/EQ{day:%d%m%y}_CSV.ZIP", "bse_old"


class Bse(Unsupporting):
    """Daily bars, official. Symbols are scrip codes (500325), so it answers for those among the asked only."""

    name = "bse"
    kinds = frozenset({Kind.DAILY_BARS})

    def __init__(
        self, http: httpx.AsyncClient, sessions: Sessions, today: Callable[[], date], *, archive_url: str = ARCHIVE_URL
    ) -> None:
        """`today` gives the Indian calendar date."""
        self._http, self._sessions, self._today, self._archive_url = http, sessions, today, archive_url

    async def bars(self, symbols: Sequence[str], interval: Interval, from_: date, through: date) -> pl.DataFrame:
        """Bars of the calendar's sessions in the days, one file per session; no file is fetched where no symbol is a
        scrip code. A session whose file is not there yet is absent.

        Raises ProviderError; IncompleteError where some days' files failed; UnsupportedError for an intraday interval.
        """
        if interval is not Interval.DAY_1:
            raise UnsupportedError(f"{self.name} has no {interval} bars")
        codes = [symbol for symbol in symbols if symbol.isdigit()]
        last = min(through, self._today())
        days = [session.day for session in self._sessions.all if codes and from_ <= session.day <= last]
        return await bars_of_days(codes, days, self._day)

    async def _day(self, day: date) -> pl.DataFrame:
        path, kind = archive_file(day)
        reply = await fetch(self._http, self._archive_url + path)
        if reply.status == 404:
            return BAR_SCHEMA.to_frame()
        content, name = require_ok(reply), path.rsplit("/", 1)[1]
        if name.endswith(".ZIP"):
            content, name = await asyncio.to_thread(unzipped_csv, content, reply.place), f"EQ{day:%d%m%y}.CSV"
        return await read_bhavcopy(content, name, kind, day, self._sessions, self.name)
