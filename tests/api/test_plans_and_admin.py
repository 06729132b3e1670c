"""Lists in pages, and the calendar under an administrator's hand."""

from datetime import timedelta

from backend.domain.calendar import Phase
from backend.models import Cycle, CycleStatus
from tests.api.conftest import MONDAY_10, Gateway
from tests.api.test_problems import problem_of


async def test_lists_come_in_pages_without_gaps(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    async with own_gateway.sessions.begin() as session:
        for minute in range(5):
            session.add(
                Cycle(
                    scheduled_at=MONDAY_10 + timedelta(minutes=minute),
                    trade_date=MONDAY_10.date(),
                    environment="simulated",
                    status=CycleStatus.DONE,
                    inputs={"now": "x"},
                    summary={"users": minute},
                )
            )
    seen: list[int] = []
    query = "?limit=2"
    for _ in range(5):
        if not query:
            break
        page = (await own_gateway.client.get(f"/v1/admin/cycles{query}", headers=admin.headers)).json()
        seen += [cycle["summary"]["users"] for cycle in page["cycles"]]
        assert page["environment"] == "simulated"
        query = f"?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert seen == [4, 3, 2, 1, 0]


async def test_a_correction_of_the_calendar_counts_at_once(own_gateway: Gateway) -> None:
    admin = await own_gateway.someone(admin=True)
    calendar = own_gateway.trading.calendar
    assert calendar.phase("TCS", MONDAY_10) is Phase.CONTINUOUS
    closed = {"day": "2024-03-18", "kind": "closed", "reason": "A holiday by circular."}
    made = await own_gateway.client.post("/v1/admin/calendar-overrides", json=closed, headers=admin.headers)
    assert made.status_code == 201
    assert calendar.phase("TCS", MONDAY_10) is Phase.CLOSED
    status = (await own_gateway.client.get("/v1/market/status")).json()
    assert {c["phase"] for c in status["classes"]} == {"closed"}

    short = closed | {"kind": "open", "open_at": "10:00", "close_at": "11:00", "exchange": "nse"}
    await own_gateway.client.post("/v1/admin/calendar-overrides", json=short, headers=admin.headers)
    assert calendar.phase("TCS", MONDAY_10) is Phase.CONTINUOUS
    assert calendar.phase("TCS", MONDAY_10 + timedelta(hours=1)) is not Phase.CONTINUOUS
    listed = await own_gateway.client.get("/v1/admin/calendar-overrides", headers=admin.headers)
    assert [row["kind"] for row in listed.json()["overrides"]] == ["open", "closed"]
    assert listed.json()["overrides"][0]["created_by"] == admin.id


async def test_a_correction_that_cannot_be_a_session_is_not_let_in(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    base = {"day": "2024-03-18", "kind": "open", "reason": "A test of bad times."}
    for bad in (
        {"open_at": "10:00"},
        {"open_at": "11:00", "close_at": "10:00"},
        {"open_at": "00:00", "close_at": "23:59"},
        {"open_at": "10:00+05:30", "close_at": "11:00+05:30"},
        {"kind": "closed", "open_at": "10:00", "close_at": "11:00"},
        {"day": "9999-12-31", "open_at": "23:00", "close_at": "23:59"},
        {"kind": "holiday"},
        {"exchange": "mcx"},
        {"reason": ""},
    ):
        reply = await gateway.client.post("/v1/admin/calendar-overrides", json=base | bad, headers=admin.headers)
        assert problem_of(reply).status == 422
    await gateway.trading.calendar.refresh(gateway.sessions)
