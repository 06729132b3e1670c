"""The audit log over HTTP: a user sees what concerns them, support sees all of it, in pages."""

import pytest
from sqlalchemy import select, update

from backend.models import AuditEntry, Role, User
from backend.services.audit_service import SYSTEM, Actor, record
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of


async def deeds(gateway: Gateway, user: Someone, other: Someone) -> None:
    async with gateway.sessions.begin() as session:
        await record(session, Actor(f"user:{user.id}", user.id, "203.0.113.7"), "session.end", subject_id=user.id)
        await record(session, Actor(f"user:{other.id}", other.id, "203.0.113.8"), "plan.change", subject_id=user.id)
        await record(session, SYSTEM, "session.end", subject_id=other.id, after={"why": "secret of the other"})
        await record(session, SYSTEM, "platform_wide.deed")


async def test_a_user_sees_what_concerns_them_and_only_their_own_address(gateway: Gateway) -> None:
    user, admin = await gateway.someone(), await gateway.someone(admin=True)
    await deeds(gateway, user, admin)
    reply = await gateway.client.get("/v1/audit", headers=user.headers)
    shown = [(entry["actor"], entry["action"], entry["ip"]) for entry in reply.json()["entries"]]
    assert shown == [
        (f"user:{admin.id}", "plan.change", ""),
        (f"user:{user.id}", "session.end", "203.0.113.7"),
    ]
    assert "secret of the other" not in reply.text
    only = await gateway.client.get("/v1/audit?action=session", headers=user.headers)
    assert [entry["action"] for entry in only.json()["entries"]] == ["session.end"]
    wild = await gateway.client.get("/v1/audit?action=%25", headers=user.headers)
    assert wild.json()["entries"] == []


async def test_it_comes_in_pages(gateway: Gateway) -> None:
    user, other = await gateway.someone(), await gateway.someone()
    for _ in range(3):
        await deeds(gateway, user, other)
    seen: list[int] = []
    path = "/v1/audit?limit=4"
    for expected in (4, 2):
        page = (await gateway.client.get(path, headers=user.headers)).json()
        seen += [entry["id"] for entry in page["entries"]]
        assert len(page["entries"]) == expected
        path = f"/v1/audit?limit=4&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert seen == sorted(set(seen), reverse=True)


async def test_support_sees_all_of_it_by_who_whom_what_and_when(gateway: Gateway) -> None:
    user, other, support = await gateway.someone(), await gateway.someone(), await gateway.someone()
    async with gateway.sessions.begin() as session:
        await session.execute(update(User).where(User.id == support.id).values(role=Role.SUPPORT))
    await deeds(gateway, user, other)

    async def found(query: str) -> list[str]:
        reply = await gateway.client.get(f"/v1/admin/audit?{query}", headers=support.headers)
        assert reply.status_code == 200, reply.text
        return [entry["action"] for entry in reply.json()["entries"]]

    assert await found(f"subject_id={user.id}") == ["plan.change", "session.end"]
    assert await found(f"actor_id={other.id}") == ["plan.change"]
    assert await found(f"actor=user:{user.id}") == ["session.end"]
    assert await found(f"subject_id={other.id}&actor=system&action=session.e") == ["session.end"]
    assert await found(f"subject_id={user.id}&target=nothing") == []
    assert (await found("limit=1"))[0] == "platform_wide.deed"
    async with gateway.sessions() as session:
        moments = await session.scalars(select(AuditEntry.at).where(AuditEntry.subject_id == user.id))
        first, second = [moment.isoformat().replace("+", "%2B") for moment in sorted(moments.all())]
    assert await found(f"subject_id={user.id}&since={first}&until={second}") == ["session.end"]
    assert await found(f"subject_id={user.id}&since={second}") == ["plan.change"]
    refused = await gateway.client.get("/v1/admin/audit", headers=user.headers)
    assert problem_of(refused).status == 403


@pytest.mark.parametrize("until", ["0.5", "1795416641", "2026", "2026-11-23T10:00:00", "yesterday"])
async def test_an_instant_is_written_out_with_its_offset(gateway: Gateway, until) -> None:
    admin = await gateway.someone(admin=True)
    reply = await gateway.client.get(f"/v1/admin/audit?until={until}", headers=admin.headers)
    assert reply.status_code == 422
