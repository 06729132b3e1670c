"""What quotes showed as each bar ended, years of it at once: the arithmetic of `quotes.build_quote` on columns."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts.market import QuoteHistoryHead
from data_service.bars import PRICE_FIELDS, Bars, Ints
from data_service.ticks import bands_paise, ticks_paise

PER_SESSION = ("previous_close", "lower_band", "upper_band", "tick", "lot", "freeze_quantity")
COLUMNS = ("start", "end", *PRICE_FIELDS, "volume", *PER_SESSION, "has_derivatives")
NO_EARLIER_CLOSE = "no close of an earlier session is stored"


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What was known of one share before each of its sessions, as columns of one length by ascending `day` (days since
    1970-01-01). `previous_close` is in paise on that session's scale, 0 where it is not known; `band_pct` in per cent;
    `lot` and `freeze_quantity` in shares."""

    day: Ints
    previous_close: Ints
    band_pct: Ints
    lot: Ints
    freeze_quantity: Ints
    has_derivatives: NDArray[np.bool_]


def closes_before(tables: Sequence[Bars], days: Ints) -> tuple[Ints, Ints]:
    """Per day, the day of the last close before it, and that close; -1 and 0 where there is none.

    `tables` are one share's bars of several intervals: of a day's closes, that of the first table with any counts.
    """
    last = [np.flatnonzero(np.diff(bars.day, append=-1) != 0) for bars in tables]
    rank = np.concatenate([np.full(len(rows), place) for place, rows in enumerate(last)] or [days[:0]])
    closed_on = np.concatenate([bars.day[rows] for bars, rows in zip(tables, last, strict=True)] or [days[:0]])
    close = np.concatenate([bars.close[rows] for bars, rows in zip(tables, last, strict=True)] or [days[:0]])
    order = np.lexsort((rank, closed_on))
    closed_on, close = closed_on[order], close[order]
    first = np.flatnonzero(np.diff(closed_on, prepend=-1) != 0)
    closed_on, close = np.append(closed_on[first], -1), np.append(close[first], 0)
    place = np.searchsorted(closed_on[:-1], days, side="left") - 1
    return closed_on[place], close[place]


def quote_columns(bars: Bars, facts: SessionFacts) -> dict[str, NDArray[np.int64 | np.bool_]]:
    """COLUMNS of one share's bars (paise), each with what was known before its session; bars of sessions without a
    known close before them are left out, as they had no quote."""
    known = facts.previous_close > 0
    tick = ticks_paise(facts.previous_close, facts.day)
    lower, upper = bands_paise(facts.previous_close, tick, facts.band_pct)
    place = np.searchsorted(facts.day, bars.day)
    kept = known[place]
    place = place[kept]
    of_bar = {name: getattr(bars, name)[kept] for name in ("start", "end", *PRICE_FIELDS, "volume")}
    return of_bar | {
        "previous_close": facts.previous_close[place],
        "lower_band": lower[place],
        "upper_band": upper[place],
        "tick": tick[place],
        "lot": facts.lot[place],
        "freeze_quantity": facts.freeze_quantity[place],
        "has_derivatives": facts.has_derivatives[place],
    }


def quote_history_arrow(
    head: QuoteHistoryHead, shares: Mapping[str, Mapping[str, NDArray[np.int64 | np.bool_]]]
) -> bytes:
    """A contracts.market.QUOTE_HISTORY_ARROW reply of the columns per symbol. What stands in each row of a session
    repeats itself, so the table is compressed."""
    empty = np.array([], dtype=np.int64)
    counts = [len(columns["start"]) for columns in shares.values()]
    symbol = pl.Series("symbol", list(shares), dtype=pl.String)
    names = symbol.gather(np.repeat(np.arange(len(counts)), counts)) if counts else symbol
    table = pl.DataFrame(
        [
            names,
            *(
                pl.Series(name, np.concatenate([columns[name] for columns in shares.values()] or [empty]))
                for name in COLUMNS
            ),
        ]
    ).with_columns(pl.col("has_derivatives").cast(pl.Boolean))
    content, text = io.BytesIO(), head.model_dump_json().encode()
    table.write_ipc_stream(content, compression="zstd")
    return len(text).to_bytes(4, "big") + text + content.getvalue()
