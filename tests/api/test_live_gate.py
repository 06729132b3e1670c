"""The live gate: compliance records that administrators keep, and the switch that is the user's own."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from backend.errors import InvalidRequestError
from backend.models import (
    AuditEntry,
    BrokerAccount,
    BrokerAccountStatus,
    ComplianceKind,
    ComplianceRecord,
    Consent,
    Credential,
    LivePermission,
    LoginSession,
    User,
)
from backend.services.compliance_service import egress_address
from backend.services.consent_service import NOTICES, NoticeName
from backend.services.live_service import LiveFacts, SwitchName, switches_of
from contracts.common import Environment
from tests.api.conftest import Gateway, Someone
from tests.api.test_problems import problem_of

TODAY = date(2026, 3, 2)  # the clock of the tests, in India
_addresses = iter(range(1, 250))


def stated(user: Someone, **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "kind": "self_hosted_family",
        "broker": "zerodha",
        "algo_id": "ALGO1",
        "egress_ip": f"49.36.12.{next(_addresses)}",
        "approval": "ticket 1188",
        "approved_on": "2026-03-02",
        "valid_from": "2026-03-02",
        "valid_until": "2027-03-01",
    } | changes


async def ask(gateway: Gateway, admin: Someone, body: dict[str, Any]):
    return await gateway.client.post("/v1/admin/compliance", json=body, headers=admin.headers)


async def test_a_record_is_kept_shown_and_revoked(gateway: Gateway) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone("pro")
    made = await ask(gateway, admin, stated(user))
    assert made.status_code == 201
    record = made.json()
    assert (record["user_id"], record["recorded_by"], record["revoked_at"]) == (user.id, admin.id, None)
    assert problem_of(await ask(gateway, admin, stated(user))).code == "compliance_stands"
    path = f"/v1/admin/compliance?user_id={user.id}"
    listed = await gateway.client.get(f"{path}&standing=true", headers=admin.headers)
    assert listed.json()["records"] == [record]
    revoke, why = f"/v1/admin/compliance/{record['id']}/revoke", {"reason": "approval withdrawn"}
    revoked = await gateway.client.post(revoke, json=why, headers=admin.headers)
    assert (revoked.json()["revoked_by"], revoked.json()["revoke_reason"]) == (admin.id, "approval withdrawn")
    assert problem_of(await gateway.client.post(revoke, json=why, headers=admin.headers)).code == "already_revoked"
    assert (await gateway.client.get(f"{path}&standing=true", headers=admin.headers)).json()["records"] == []
    assert len((await gateway.client.get(path, headers=admin.headers)).json()["records"]) == 1
    assert (await ask(gateway, admin, stated(user))).status_code == 201
    async with gateway.sessions() as session:
        deeds = await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))
        assert deeds.all() == ["compliance.record", "compliance.revoke", "compliance.record"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"broker": "paper"}, "broker_not_supported"),
        ({"broker": "robinhood"}, "broker_not_supported"),
        ({"approved_on": "2026-03-03"}, "invalid_days"),
        ({"valid_from": "2026-04-02", "valid_until": "2026-04-01"}, "invalid_days"),
        ({"valid_from": "2025-01-01", "valid_until": "2026-03-01"}, "invalid_days"),
        ({"egress_ip": "10.0.0.7"}, "egress_ip_invalid"),
        ({"egress_ip": "49.36.12.300"}, "egress_ip_invalid"),
        ({"algo_id": ""}, "validation_failed"),
    ],
)
async def test_what_cannot_be_meant_is_refused(gateway: Gateway, changes, code) -> None:
    admin, user = await gateway.someone(admin=True), await gateway.someone("pro")
    problem = problem_of(await ask(gateway, admin, stated(user, **changes)))
    assert (problem.status, problem.code) == (422, code)


async def test_there_must_be_such_a_user_and_a_fresh_administrator(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro")
    assert problem_of(await ask(own_gateway, admin, stated(user, user_id=9999))).status == 404
    assert problem_of(await ask(own_gateway, user, stated(user))).code == "admin_required"
    own_gateway.clock.now += timedelta(minutes=11)
    admin.headers = {"Authorization": f"Bearer {own_gateway.state.security.issue(admin.id, admin.id)}"}
    assert problem_of(await ask(own_gateway, admin, stated(user))).code == "step_up_required"


async def test_no_two_users_have_one_address_also_at_once(gateway: Gateway) -> None:
    admin = await gateway.someone(admin=True)
    first, second, third = [await gateway.someone("pro") for _ in range(3)]
    address = f"49.36.12.{next(_addresses)}"
    mapped = f"::ffff:{address}"
    replies = await asyncio.gather(
        *(ask(gateway, admin, stated(user, egress_ip=ip)) for user, ip in ((first, address), (second, mapped)))
    )
    assert sorted(reply.status_code for reply in replies) == [201, 409]
    assert problem_of(next(r for r in replies if r.status_code == 409)).code == "egress_ip_shared"
    refused = await ask(gateway, admin, stated(third, kind="empanelled_provider", egress_ip=address))
    assert problem_of(refused).code == "egress_ip_shared"


async def test_customers_of_an_empanelled_provider_may_come_from_its_address(gateway: Gateway) -> None:
    admin, provider = await gateway.someone(admin=True), f"49.36.12.{next(_addresses)}"
    for _ in range(2):
        body = stated(await gateway.someone("pro"), kind="empanelled_provider", egress_ip=provider)
        assert (await ask(gateway, admin, body)).status_code == 201


async def test_a_record_that_has_ended_makes_way(own_gateway: Gateway) -> None:
    admin, user = await own_gateway.someone(admin=True), await own_gateway.someone("pro")
    until = (TODAY + timedelta(days=1)).isoformat()
    first = await ask(own_gateway, admin, stated(user, egress_ip="49.36.12.7", valid_until=until))
    assert first.status_code == 201
    own_gateway.clock.now += timedelta(days=2)
    async with own_gateway.sessions.begin() as session:
        await session.execute(update(LoginSession).values(proved_at=own_gateway.clock.now))
    admin.headers = {"Authorization": f"Bearer {own_gateway.state.security.issue(admin.id, admin.id)}"}
    assert (await ask(own_gateway, admin, stated(user, egress_ip="49.36.12.7"))).status_code == 201
    listed = await own_gateway.client.get("/v1/admin/compliance", headers=admin.headers)
    assert [row["revoke_reason"] for row in listed.json()["records"]] == [None, "it had ended"]


@given(st.ip_addresses())
def test_only_addresses_of_the_public_internet_are_taken(address) -> None:
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.is_global and not plain.is_multicast:
        assert egress_address(str(address)) == str(plain)
    else:
        with pytest.raises(InvalidRequestError):
            egress_address(str(address))


# ---- the user's own switch


def risks(user: Someone, *, given: bool) -> Consent:
    name = NoticeName.RISK_DISCLOSURE
    return Consent(user_id=user.id, notice=name.value, version=NOTICES[name].version, given=given)


async def with_second_factor(gateway: Gateway, user: Someone, given_at: datetime | None) -> None:
    async with gateway.sessions.begin() as session:
        session.add(
            Credential(
                user_id=user.id,
                password_hash="!",
                totp_secret=b"sealed",
                totp_confirmed_at=gateway.clock() if given_at else None,
            )
        )
        await session.execute(update(User).where(User.id == user.id).values(email_verified_at=gateway.clock()))
        session.add(risks(user, given=True))
        await session.execute(
            update(LoginSession).where(LoginSession.user_id == user.id).values(second_factor_at=given_at)
        )


async def confirm(gateway: Gateway, user: Someone):
    return await gateway.client.post("/v1/live/confirm", headers=user.headers)


async def test_the_switch_goes_on_and_off(gateway: Gateway) -> None:
    user = await gateway.someone("pro")
    await with_second_factor(gateway, user, gateway.clock() - timedelta(minutes=9))
    on = await confirm(gateway, user)
    assert on.status_code == 200
    switches = {switch["name"]: switch for switch in on.json()["switches"]}
    assert {name for name, switch in switches.items() if switch["on"]} == {"plan", "user"}
    assert all((switch["next_step"] is None) == switch["on"] for switch in switches.values())
    assert on.json()["live"] is False
    async with gateway.sessions() as session:
        permission = await session.get(LivePermission, user.id)
        assert permission is not None
        assert permission.confirmed_at == gateway.clock()
    for _ in range(2):
        off = await gateway.client.post("/v1/live/withdraw", headers=user.headers)
        assert (off.status_code, off.json()["confirmed_at"]) == (200, None)
    assert (await gateway.client.get("/v1/live", headers=user.headers)).json() == off.json()
    async with gateway.sessions() as session:
        deeds = await session.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == user.id))
        assert deeds.all() == ["live.confirm", "live.withdraw"]


@pytest.mark.parametrize("lacking", ["address", "plan", "risks", "second factor", "code", "fresh code"])
async def test_it_stays_off_where_anything_lacks(gateway: Gateway, lacking) -> None:
    user = await gateway.someone("free" if lacking == "plan" else "pro")
    age = timedelta(minutes=11 if lacking == "fresh code" else 1)
    await with_second_factor(gateway, user, gateway.clock() - age)
    async with gateway.sessions.begin() as session:
        if lacking == "address":
            await session.execute(update(User).where(User.id == user.id).values(email_verified_at=None))
        if lacking == "risks":
            session.add(risks(user, given=False))
        if lacking == "second factor":
            await session.execute(
                update(Credential).where(Credential.user_id == user.id).values(totp_confirmed_at=None)
            )
        if lacking == "code":
            mine = LoginSession.user_id == user.id
            await session.execute(update(LoginSession).where(mine).values(second_factor_at=None))
    problem = problem_of(await confirm(gateway, user))
    others = {"address": "email_unverified", "plan": "plan_required", "risks": "consent_required"}
    expected = others.get(lacking, "second_factor_required")
    assert (problem.status, problem.code) == (403, expected)
    async with gateway.sessions() as session:
        assert await session.get(LivePermission, user.id) is None


# ---- what is shown of the switches


def facts(**changes: Any) -> LiveFacts:
    """All switches on, with changes."""
    account = BrokerAccount(id=1, broker="zerodha", status=BrokerAccountStatus.READY)
    record = ComplianceRecord(id=2, broker="zerodha", kind=ComplianceKind.SELF_HOSTED_FAMILY, valid_until=TODAY)
    on = {
        "environment": Environment.LIVE,
        "live_trading": True,
        "plan_name": "Pro",
        "plan_has_live": True,
        "account": account,
        "record": record,
        "confirmed_at": datetime(2026, 3, 2, tzinfo=UTC),
    }
    return LiveFacts(**(on | changes))


@pytest.mark.parametrize(
    ("changes", "off"),
    [
        ({}, set()),
        ({"environment": Environment.PAPER}, {SwitchName.DEPLOYMENT}),
        ({"live_trading": False}, {SwitchName.DEPLOYMENT}),
        ({"plan_has_live": False}, {SwitchName.PLAN}),
        ({"record": None}, {SwitchName.COMPLIANCE}),
        ({"confirmed_at": None}, {SwitchName.USER}),
        ({"account": None}, {SwitchName.ACCOUNT}),
        (
            {"account": BrokerAccount(id=1, broker="paper", status=BrokerAccountStatus.READY)},
            {SwitchName.ACCOUNT},
        ),
        (
            {"account": BrokerAccount(id=1, broker="zerodha", status=BrokerAccountStatus.DISABLED)},
            {SwitchName.ACCOUNT},
        ),
        (
            {"account": BrokerAccount(id=1, broker="dhan", status=BrokerAccountStatus.READY)},
            {SwitchName.COMPLIANCE},
        ),
    ],
)
def test_each_switch_is_shown_off_for_its_own_reason_alone(changes, off) -> None:
    shown = switches_of(facts(**changes))
    assert [switch.name for switch in shown] == list(SwitchName)
    assert {switch.name for switch in shown if not switch.on} == off
    assert {switch.name for switch in shown if switch.next_step} == off
    assert all(switch.detail for switch in shown)
