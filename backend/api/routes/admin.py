"""For administrators: the calendar, and what the cycles did."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from backend.api.deps import AdminUser, AnyCaller, Session, State, SupportUser
from backend.api.documentation import documented
from backend.api.schemas.admin import (
    CyclesReply,
    CycleView,
    LastCycleReply,
    OverrideBody,
    OverridesReply,
    OverrideView,
)
from backend.api.schemas.common import ID_MAX, PageQuery, next_cursor
from backend.services import admin_service

router = APIRouter(prefix="/v1/admin", tags=["admin"])

RowId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.post("/calendar-overrides", **documented("correct_calendar", 401, 403, status=201))
async def correct_calendar(
    body: OverrideBody,
    admin: AdminUser,  # noqa: ARG001
    caller: AnyCaller,
    state: State,
) -> OverrideView:
    """Add or correct a day of the market's calendar, at once; the newest correction of a day counts."""
    return OverrideView.of(await admin_service.correct_calendar(state.trading, caller.actor, body.correction()))


@router.get("/calendar-overrides", **documented("list_calendar_corrections", 401, 403))
async def list_calendar_corrections(
    page: Annotated[PageQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
) -> OverridesReply:
    """The corrections made so far, newest first."""
    rows = await admin_service.list_corrections(session, page.before_id, page.limit + 1)
    return OverridesReply(
        overrides=[OverrideView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )


@router.get("/cycles", **documented("list_cycles", 401, 403))
async def list_cycles(
    page: Annotated[PageQuery, Query()],
    support: SupportUser,  # noqa: ARG001
    session: Session,
    state: State,
) -> CyclesReply:
    """The last cycles and what each did, newest first."""
    rows = await admin_service.list_cycles(session, page.before_id, page.limit + 1)
    return CyclesReply(
        environment=state.environment,
        cycles=[CycleView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )


@router.get("/cycles/last", **documented("get_last_cycle", 401, 403, 404))
async def get_last_cycle(support: SupportUser, session: Session, state: State) -> LastCycleReply:  # noqa: ARG001
    """The newest cycle: its shards, how old its inputs were, and what did not come."""
    return LastCycleReply.of(state.environment, await admin_service.last_cycle(session))
