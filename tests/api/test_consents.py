"""Notices and consents: what a user was told in which version, and taking back as easily as giving."""

import hashlib
from typing import Any

import httpx
from sqlalchemy import select

from backend.models import AuditEntry, Consent, LivePermission
from backend.services.consent_service import NOTICES, NoticeName
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of

RISK = NOTICES[NoticeName.RISK_DISCLOSURE]


async def answer(gateway: Gateway, user: Someone, **body: Any) -> httpx.Response:
    given = {"notice": "risk_disclosure", "version": RISK.version, "given": True} | body
    return await gateway.client.post("/v1/consents", json=given, headers=user.headers)


async def missing(gateway: Gateway, user: Someone) -> set[str]:
    me = (await gateway.client.get("/v1/auth/me", headers=user.headers)).json()
    return {each["notice"] for each in me["consents_missing"]}


async def test_notices_are_public_and_their_version_is_that_of_their_text(gateway: Gateway) -> None:
    notices = (await gateway.client.get("/v1/notices")).json()["notices"]
    assert [notice["notice"] for notice in notices] == ["privacy", "risk_disclosure", "terms"]
    for notice in notices:
        assert hashlib.sha256(notice["text"].encode()).hexdigest().startswith(notice["version"])
        assert notice["text"].startswith(f"# {notice['title']}\n")
    privacy = notices[0]["text"]
    for item in ("IP address", "POST /v1/consents", "/v1/me/export", "/v1/me/erasure", "Data Protection Board"):
        assert item in privacy


async def test_the_newest_answer_counts_and_every_answer_is_kept(gateway: Gateway) -> None:
    user = await gateway.someone()
    assert await missing(gateway, user) == {"privacy", "risk_disclosure", "terms"}
    given = await answer(gateway, user)
    assert [(c["notice"], c["given"], c["current"]) for c in given.json()["consents"]] == [
        ("risk_disclosure", True, True)
    ]
    assert await missing(gateway, user) == {"privacy", "terms"}
    taken = await answer(gateway, user, version=None, given=False)
    assert (taken.status_code, taken.json()["consents"][0]["given"]) == (200, False)
    assert await missing(gateway, user) == {"privacy", "risk_disclosure", "terms"}
    shown = await gateway.client.get("/v1/consents", headers=user.headers)
    assert shown.json() == taken.json()
    async with gateway.sessions() as session:
        rows = (await session.scalars(select(Consent).where(Consent.user_id == user.id).order_by(Consent.id))).all()
        deeds = (await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))).all()
    assert [(row.given, row.version, row.ip) for row in rows] == [
        (True, RISK.version, "127.0.0.1"),
        (False, RISK.version, "127.0.0.1"),
    ]
    assert deeds == ["consent.give", "consent.withdraw"]


async def test_only_the_present_version_can_be_accepted(gateway: Gateway) -> None:
    user = await gateway.someone()
    for version in ("0" * 16, None):
        problem = problem_of(await answer(gateway, user, version=version))
        assert (problem.status, problem.code) == (409, "notice_outdated")
        assert RISK.version in problem.detail
    assert (await answer(gateway, user, notice="cookies")).status_code == 422
    async with gateway.sessions.begin() as session:
        session.add(Consent(user_id=user.id, notice="risk_disclosure", version="0" * 16, given=True))
    assert "risk_disclosure" in await missing(gateway, user)
    shown = (await gateway.client.get("/v1/consents", headers=user.headers)).json()["consents"]
    assert [(each["given"], each["current"]) for each in shown] == [(True, False)]


async def test_taking_the_risk_disclosure_back_turns_live_trading_off(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    async with gateway.sessions.begin() as session:
        session.add(LivePermission(user_id=user.id, confirmed_at=gateway.clock()))
    for notice, still_on in (("terms", True), ("risk_disclosure", False)):
        assert (await answer(gateway, user, notice=notice, version=None, given=False)).status_code == 200
        async with gateway.sessions() as session:
            permission = await session.get_one(LivePermission, user.id)
            assert (permission.confirmed_at is not None) is still_on
