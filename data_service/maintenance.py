"""Keeps the store from growing without end: old minute bars become five-minute bars and go."""

from datetime import date, timedelta

import polars as pl

from contracts.market import Interval
from data_service.bars import PRICE_FIELDS, SOURCES
from data_service.instruments import InstrumentMaster
from data_service.resample import resampled
from data_service.sessions import Sessions, ist_midnight_s
from data_service.store.base import Upserted
from data_service.store.frames import Decoder
from data_service.store.schemas import BAR_SCHEMA
from data_service.store.stores import Stores


def downsample(stores: Stores, sessions: Sessions, master: InstrumentMaster, today: date, days_kept: int) -> Upserted:
    """Make five-minute bars of the minute bars of sessions older than `days_kept` days, then forget these.

    Five-minute bars that are stored already stay. Killed in between, it is done again the next time. Raises StoreError,
    OSError.
    """
    first_kept = today - timedelta(days=days_kept)
    limit_s, total = ist_midnight_s(first_kept), Upserted()
    decoder = Decoder(sessions, master)
    for interval, year in sorted(stores.bars.stamps()):
        if interval is not Interval.MIN_1 or year > first_kept.year:
            continue
        old = stores.bars.read(interval, year).filter(pl.col("start") < limit_s)
        frames = [pl.DataFrame(schema=BAR_SCHEMA)]
        decoded = decoder.decode(old, interval)
        for symbol in decoded.spans:
            bars = decoded.of(symbol)
            assert bars is not None  # noqa: S101 - of its own spans
            made = resampled(bars, Interval.MIN_5, sessions, master.with_derivatives(symbol, bars.day))
            columns = {name: getattr(made, name) for name in ("start", *PRICE_FIELDS, "volume")}
            sources = [SOURCES[code] for code in made.source.tolist()]
            frames.append(
                pl.DataFrame({"symbol": [symbol] * len(made), **columns, "source": sources}, schema=BAR_SCHEMA)
            )
        made = pl.concat(frames)
        held = stores.bars.read(Interval.MIN_5, year)
        total += stores.bars.upsert(Interval.MIN_5, made.join(held, on=["symbol", "start"], how="anti"))
    if any(interval is Interval.MIN_1 for interval, _ in stores.bars.stamps()):
        stores.bars.drop_before(Interval.MIN_1, first_kept)
    return total
