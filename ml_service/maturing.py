"""Find out what happened after each frozen prediction, with the labels that models are trained and certified on."""

import asyncio
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from contracts.market import CorporateAction
from contracts.scoreboard import Outcome
from ml_service.client import DataServiceClient
from ml_service.features import TAIL_SESSIONS, compute_features
from ml_service.labels import EVENTS, make_labels
from ml_service.scoreboard import HIT, OUTCOMES, Scoreboard

GRACE_SESSIONS = 10
"""Sessions after the horizon for which an outcome that is not clear yet is waited for."""
SESSIONS_PER_CALL_MAX = 40
TAIL_DAYS = TAIL_SESSIONS * 365 // 240

Unadjusted = dict[str, list[CorporateAction]]


def due(pending: pl.DataFrame, through: date) -> pl.DataFrame:
    """Pending rows whose horizon may be over with session `through`: as many weekdays have passed."""
    weekdays = np.busday_count(
        pending["session"].to_numpy().astype("datetime64[D]") + 1, np.datetime64(through) + np.timedelta64(1, "D")
    )
    return pending.filter(pl.Series(weekdays) >= pending["horizon"])


def outcomes_of(pending: pl.DataFrame, bars: pl.DataFrame, unadjusted: Unadjusted, horizon: int) -> pl.DataFrame:
    """Rows of OUTCOMES for those pending rows (session, version, symbol) of which it is known what to write.

    `bars` (BAR_SCHEMA) reach back from the earliest session far enough for its ATR, as adjusted now, and through the
    last finished session. A row has matured when its share has `horizon` bars after its session, the last at most
    GRACE_SESSIONS late, and no price-moving action without a factor lies among them. Where that is not so after
    `horizon` + GRACE_SESSIONS sessions of the market, it is unscorable. All others stay pending.
    """
    if bars.is_empty():
        return pl.DataFrame(schema=OUTCOMES)
    frame = compute_features(bars)
    labels = make_labels(frame, horizon)
    sessions = frame["session"].unique().sort()
    known = frame.select(
        "symbol",
        "session",
        end=pl.Series(labels.end, dtype=pl.Int64),
        net_return=pl.Series(labels.net, dtype=pl.Float64),
        **{f"hit_{event}": pl.Series(labels.events[event], dtype=pl.Boolean) for event in EVENTS},
    )
    rows = pending.select("session", "version", "symbol").join(
        known, on=["symbol", "session"], how="left", maintain_order="left"
    )
    number = np.searchsorted(sessions.to_numpy(), rows["session"].to_numpy(), side="right") - 1
    end = rows["end"].fill_null(-1).to_numpy()
    ends = sessions.gather(np.maximum(end, 0))
    in_time = (end >= 0) & (end - number <= horizon + GRACE_SESSIONS)
    spans = zip(rows["symbol"], rows["session"], ends, strict=True)
    flawed = np.array([_flawed(unadjusted.get(symbol, []), day, until) for symbol, day, until in spans], dtype=bool)
    over = len(sessions) - 1 - number >= horizon + GRACE_SESSIONS
    judged = rows.with_columns(matured_through=ends, matured=pl.Series(in_time & ~flawed)).filter(
        pl.col("matured") | pl.Series(over)
    )
    matured = pl.col("matured")
    return judged.with_columns(
        pl.when(matured)
        .then(pl.lit(Outcome.MATURED.value))
        .otherwise(pl.lit(Outcome.UNSCORABLE.value))
        .alias("outcome"),
        *(pl.when(matured).then(pl.col(name)).alias(name) for name in ("matured_through", "net_return", *HIT)),
    ).select(list(OUTCOMES))


def _flawed(actions: list[CorporateAction], session: date, until: date) -> bool:
    return any(session < action.ex_date <= until for action in actions)


async def mature(board: Scoreboard, client: DataServiceClient, through: date, as_of: datetime) -> int:
    """Write every outcome that is due when `through` is the last session finished by `as_of`; returns how many.

    What is written stays, whatever later bars say. Raises DataServiceError, OSError; what was written until then is
    kept, and the rest is found again at the next call.
    """
    waiting = due(await asyncio.to_thread(board.pending), through)
    written = 0
    for (horizon,), rows in waiting.group_by("horizon", maintain_order=True):
        days = rows["session"].unique().sort().to_list()
        for start in range(0, len(days), SESSIONS_PER_CALL_MAX):
            batch = rows.filter(pl.col("session").is_in(days[start : start + SESSIONS_PER_CALL_MAX]))
            # The whole session's shares, not only those that wait: a share without bars cannot tell which days passed.
            symbols = await asyncio.to_thread(board.symbols, batch["session"].to_list())
            found = await _outcomes(client, batch, symbols, int(str(horizon)), through, as_of)
            for (session, version), part in found.group_by("session", "version", maintain_order=True):
                written += await asyncio.to_thread(board.outcomes.add, session, version, part)
    return written


async def _outcomes(
    client: DataServiceClient, rows: pl.DataFrame, symbols: list[str], horizon: int, through: date, as_of: datetime
) -> pl.DataFrame:
    first, last = rows["session"].min(), rows["session"].max()
    assert isinstance(first, date)  # noqa: S101 rows are never empty here
    assert isinstance(last, date)  # noqa: S101
    until = min(through, last + timedelta(days=3 * (horizon + GRACE_SESSIONS) + 30))
    history = await client.history(symbols, first - timedelta(days=TAIL_DAYS), until, as_of)
    return await asyncio.to_thread(outcomes_of, rows, history.bars, history.unadjusted, horizon)
