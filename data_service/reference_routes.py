"""The HTTP surface beside prices: corporate actions, universes, what the quality gate found, figures for Prometheus."""

from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import APIRouter, Query, Response

from contracts.common import Instant, Symbol
from contracts.market import ActionsReply, Interval, QualityFinding, QualityReply, UniverseReply
from data_service import universe
from data_service.bars import Bars
from data_service.errors import RequestError
from data_service.metrics import CONTENT_TYPE
from data_service.quote_book import Refusal
from data_service.routes import PROBLEMS, Market, checked
from data_service.sessions import floor_s, ist_date, ist_instant
from data_service.store.schemas import QUARANTINE_SCHEMA
from data_service.universe import SESSIONS_TRAILING, Members, UniverseError
from data_service.views import MarketView

FOUND = pl.Schema(
    {name: QUARANTINE_SCHEMA[name] for name in ("symbol", "interval", "start", "source", "reason", "detail")}
    | {"quarantined": pl.Boolean, "found_at": pl.Int64}
)
FINDINGS_PER_PAGE_MAX = 1000
MEMBERS_MAX = 500
TURNOVER_COLUMNS = ("start", "close", "volume")
CALENDAR_DAYS_PER_SESSION = 1.6
"""A generous stretch of days that holds a number of sessions, holidays and all."""


class UniverseName(StrEnum):
    """`default`: five large shares; `nifty50`: the index; `top`: the largest by trailing turnover."""

    DEFAULT = "default"
    NIFTY50 = "nifty50"
    TOP = "top"


def reference_router(market: Market) -> APIRouter:
    """The routes, bound to one market."""
    routes = APIRouter(prefix="/v1", tags=["reference"])

    @routes.get("/actions", operation_id="list_actions", responses=PROBLEMS)
    def list_actions(
        from_: Annotated[date, Query(alias="from", description="First ex-date.")],
        through: Annotated[date, Query(description="Last ex-date.")],
        as_of: Annotated[Instant | None, Query(description="The market's present where it is left out.")] = None,
    ) -> ActionsReply:
        """Corporate actions by ex-date: those that were known at `as_of`, announced ones of days to come too."""
        instant = checked(market, as_of)
        if from_ > through:
            raise RequestError("validation_failed", "from must not be after through.")
        if market.expects_actions and market.facts is not None and market.is_present(as_of):
            today = ist_date(instant)
            if through >= today and market.facts.actions_told() != today:
                raise RequestError("actions_unknown", f"No provider has told the actions of {today} yet.", 503)
        actions = market.source.view().actions(from_, through, ist_date(instant))
        return ActionsReply(environment=market.environment, as_of=instant, actions=actions)

    @routes.get("/universe", operation_id="get_universe", responses=PROBLEMS)
    def get_universe(
        name: UniverseName = UniverseName.DEFAULT,
        n: Annotated[int, Query(ge=1, le=MEMBERS_MAX, description="How many members of `top`.")] = 50,
        as_of: Annotated[Instant | None, Query(description="The market's present where it is left out.")] = None,
    ) -> UniverseReply:
        """The members of a universe as they were at `as_of`, those that are delisted by now among them."""
        instant = checked(market, as_of)
        try:
            members = _members(market.source.view(), name, n, floor_s(instant))
        except UniverseError as error:
            raise RequestError("universe_unknown", f"{error}.") from error
        return UniverseReply(
            environment=market.environment,
            as_of=instant,
            name=name,
            members=list(members.symbols),
            note=members.note,
        )

    @routes.get("/quality", operation_id="list_quality_findings", responses=PROBLEMS)
    def list_quality_findings(
        symbol: Annotated[Symbol | None, Query()] = None,
        reason: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=FINDINGS_PER_PAGE_MAX)] = 100,
        cursor: Annotated[
            str | None, Query(pattern=r"^\d{1,9}$", description="`next_cursor` of the page before.")
        ] = None,
    ) -> QualityReply:
        """What the quality gate found, newest first: quarantined bars, flagged ones, and refused quotes."""
        found = _findings(market, symbol, reason)
        # Counted from the oldest, so that new findings do not shift the pages.
        end = len(found) if cursor is None else min(int(cursor), len(found))
        begin = max(end - limit, 0)
        page = found.slice(begin, end - begin).reverse()
        return QualityReply(
            environment=market.environment,
            as_of=checked(market, None),
            counts=dict(found["reason"].value_counts(sort=True).iter_rows()),
            findings=[_finding(row) for row in page.iter_rows(named=True)],
            next_cursor=str(begin) if begin else None,
        )

    return routes


def metrics_router(market: Market) -> APIRouter:
    """GET /metrics."""
    routes = APIRouter(tags=["health"])

    @routes.get("/metrics", operation_id="get_metrics", response_class=Response)
    def get_metrics() -> Response:
        """Figures in Prometheus' text format: providers, breakers, quotes, bars on their way into the store."""
        return Response(market.metrics.render(), media_type=CONTENT_TYPE)

    return routes


def _members(view: MarketView, name: UniverseName, n: int, as_of_s: int) -> Members:
    day = ist_instant(as_of_s).date()
    if name is UniverseName.DEFAULT:
        return universe.default()
    if name is UniverseName.NIFTY50:
        return universe.nifty50(day)
    first = day - timedelta(days=round(SESSIONS_TRAILING * CALENDAR_DAYS_PER_SESSION))
    asked = {
        instrument.symbol: view.bars(instrument.symbol, Interval.DAY_1, first, day, as_of_s)
        for instrument in view.instruments(as_of_s)
    }
    found = {symbol: bars for symbol, bars in asked.items() if isinstance(bars, Bars)}
    if not found:
        return Members((), "no daily bars are stored")
    counts = [len(bars) for bars in found.values()]
    columns = {name: np.concatenate([getattr(bars, name) for bars in found.values()]) for name in TURNOVER_COLUMNS}
    symbol = pl.Series(list(found)).gather(np.repeat(np.arange(len(counts)), counts))
    return universe.top_by_turnover(pl.DataFrame({"symbol": symbol, **columns}), day, n)


def _findings(market: Market, symbol: str | None, reason: str | None) -> pl.DataFrame:
    """What was found of bars and quotes (FOUND), oldest first."""
    found = [pl.DataFrame(schema=FOUND)]
    if market.facts is not None:
        found.append(market.facts.findings().select(list(FOUND)))
    if market.live is not None:
        # A copy in one step: the event loop adds to it meanwhile.
        refusals = tuple(market.live.book.refusals)
        found.append(pl.DataFrame([_row(refusal) for refusal in refusals], schema=FOUND, orient="row"))
    wanted = [
        pl.col(name) == value for name, value in (("symbol", symbol), ("reason", reason)) if value is not None
    ] or [pl.lit(True)]
    return pl.concat(found).filter(*wanted).sort("found_at", maintain_order=True)


def _row(refusal: Refusal) -> tuple[object, ...]:
    quote = refusal.quote
    start = None if quote.as_of_s is None else int(quote.as_of_s)
    detail = f"last {quote.last}, bid {quote.bid}, ask {quote.ask}"
    return (quote.symbol, None, start, quote.source, refusal.reason, detail, True, int(refusal.at_s))


def _finding(row: dict[str, Any]) -> QualityFinding:
    interval, start = row["interval"], row["start"]
    return QualityFinding(
        **{
            **row,
            "interval": None if interval is None else Interval(interval),
            "start": None if start is None else ist_instant(start),
            "found_at": ist_instant(row["found_at"]),
        }
    )
