"""Reads an exchange's end-of-day file with the importer's own layouts, so that both ways into the store agree."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import structlog

from contracts.market import Interval
from data_service.errors import DataServiceError
from data_service.imports.checked import read_checked
from data_service.providers.base import ProviderError
from data_service.providers.http import gather_each, whole
from data_service.sessions import DAY_S, IST_OFFSET_S, Sessions, ist_midnight_s
from data_service.store.schemas import BAR_SCHEMA

log = structlog.get_logger(__name__)

FILES_AT_ONCE_MAX = 4


async def bars_of_days(
    symbols: Sequence[str], days: Sequence[date], day_bars: Callable[[date], Awaitable[pl.DataFrame]]
) -> pl.DataFrame:
    """The bars of `symbols`, a file per day. Raises ProviderError; IncompleteError where only some days failed."""
    gathered = await gather_each(days, day_bars, at_once_max=FILES_AT_ONCE_MAX)
    found = pl.concat([BAR_SCHEMA.to_frame(), *(gathered.got[day] for day in days if day in gathered.got)])
    return whole(gathered, found.filter(pl.col("symbol").is_in(list(symbols))))


async def read_bhavcopy(
    content: bytes, name: str, kind: str, day: date, sessions: Sessions, source: str
) -> pl.DataFrame:
    """The bars (BAR_SCHEMA) of an unpacked file of `day`. `name` is what the exchange calls such a file, `kind` its
    layout (imports.formats.KINDS).

    Rows that cannot be read are left out and counted in the log. Raises ProviderError: another layout, another day's
    file, another exchange's.
    """
    return await asyncio.to_thread(_read, content, name, kind, day, sessions, source)


def _read(content: bytes, name: str, kind: str, day: date, sessions: Sessions, source: str) -> pl.DataFrame:
    with TemporaryDirectory(prefix="sauda-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            checked = read_checked(path, sessions, kind=kind, interval=Interval.DAY_1)
        except (DataServiceError, pl.exceptions.PolarsError) as error:
            raise ProviderError(f"{source}'s file of {day}: {error}") from error
    if checked.bad:
        count, first = len(checked.bad), checked.bad[0]
        log.warning("rows_unreadable", source=source, file=name, count=count, line=first.line, why=first.reason)
    rows = checked.rows.select(list(BAR_SCHEMA))
    midnight_s = ist_midnight_s(day)
    if rows.is_empty() or not rows["start"].is_between(midnight_s, midnight_s + DAY_S, closed="left").all():
        found = pl.from_epoch(rows["start"] + IST_OFFSET_S).dt.date().unique().sort().to_list()
        raise ProviderError(f"{source}'s file of {day} holds {', '.join(map(str, found[:3])) or 'no rows'}")
    if (rows["source"] != source).any():
        raise ProviderError(f"{source}'s file of {day} is not {source}'s")
    return rows
