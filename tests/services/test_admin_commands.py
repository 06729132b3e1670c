"""`sauda admin`: the same deeds as over REST, on the real database, under the name of whoever types them."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from click.testing import Result
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from typer.testing import CliRunner

from backend.config import Settings
from backend.domain.orders import OrderState
from backend.domain.trading_states import Scope, TradingState
from backend.main import create_app
from backend.models import (
    AuditEntry,
    Billing,
    BrokerAccount,
    CalendarOverride,
    Credential,
    Deployment,
    LoginSession,
    Order,
    Plan,
    Role,
    TradingStatePeriod,
    User,
)
from backend.services.audit_service import SYSTEM
from backend.services.billing_rules import BillingRules
from backend.services.context import Trading
from backend.services.password_rules import weakness
from backend.services.subscription_service import request
from backend.trader import trade
from contracts.common import Environment
from sauda.admin import admin
from sauda.admin_tools import doer, with_embedded_keys
from tests.services.conftest import MONDAY_10, MakeUser
from tests.support.resting_orders import rest, state_of

Sessions = async_sessionmaker[AsyncSession]
NOWHERE = "http://127.0.0.1:1"


class Cli:
    """The command line on the test's own database."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def run(self, *words: str) -> Result:
        arguments = [*words, "--database-url", self._url]
        return await asyncio.to_thread(CliRunner().invoke, admin, arguments)

    async def says(self, *words: str) -> str:
        result = await self.run(*words)
        assert result.exit_code == 0, result.output
        return result.output

    async def told(self, *words: str) -> Any:
        return json.loads(await self.says(*words, "--json"))

    async def refuses(self, *words: str, code: int = 1) -> str:
        result = await self.run(*words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.output
        return result.stderr


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("DATA_SERVICE_URL", NOWHERE)
    return Cli(database_url)


async def last_deed(sessions: Sessions) -> tuple[str, str, int | None, int | None, str]:
    async with sessions() as session:
        row = (await session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1))).one()
        return row.actor, row.action, row.actor_id, row.subject_id, row.reason


async def somebody(sessions: Sessions, email: str = "asha@example.com", role: Role = Role.USER) -> int:
    async with sessions.begin() as session:
        user = User(email=email, role=role)
        session.add(user)
        await session.flush()
        return user.id


async def test_the_first_admin_gets_a_password_that_works_and_is_told_what_comes_next(
    cli: Cli, sessions: Sessions
) -> None:
    said = await cli.says("create", "boss@example.com")
    password = said.split("Password: ")[1].split()[0]
    assert "second factor" in said
    assert weakness(password, "boss@example.com") is None
    async with sessions() as session:
        user, credential = (await session.execute(select(User, Credential).join(Credential))).one()
    assert (user.email, user.role, user.active) == ("boss@example.com", Role.ADMIN, True)
    assert PasswordHasher().verify(credential.password_hash, password)
    assert await last_deed(sessions) == (doer().name, "user.create", None, user.id, "")

    again = await cli.says("create", "BOSS@example.com")
    assert "Password" not in again
    other = await somebody(sessions)
    await cli.says("create", "asha@example.com")
    async with sessions() as session:
        assert (await session.get_one(User, other)).role is Role.ADMIN
    assert (await last_deed(sessions))[1:4] == ("user.role", None, other)
    assert "no e-mail address" in await cli.refuses("create", "boss")
    async with sessions.begin() as session:
        (await session.get_one(User, other)).active = False
    assert "activate" in await cli.refuses("create", "asha@example.com")


async def test_a_database_that_is_not_there_is_one_line(tmp_path) -> None:
    gone = Cli(f"postgresql://sauda_service@/sauda?host={tmp_path}")
    for words in (("user", "list"), ("create", "a@example.com"), ("halt", "platform", "--reason", "why not")):
        assert "--database-url" in await gone.refuses(*words, code=2)


async def test_users_are_listed_shown_and_changed(cli: Cli, sessions: Sessions, make_user: MakeUser) -> None:
    user_id = await make_user()
    boss = await somebody(sessions, "boss@example.com", Role.ADMIN)
    async with sessions.begin() as session:
        session.add(LoginSession(user_id=user_id, expires_at=MONDAY_10.replace(year=2100)))
        session.add(Credential(user_id=user_id, password_hash="!", totp_secret=b"sealed", totp_confirmed_at=MONDAY_10))
    assert [row["id"] for row in await cli.told("user", "list", "--email", "ASHA")] == [user_id]
    assert [row["id"] for row in await cli.told("user", "list", "--role", "admin", "--active")] == [boss]
    assert "asha@example.com" in await cli.says("user", "list", "--plan", "pro")
    assert "No user" in await cli.says("user", "list", "--inactive")
    seen = await cli.told("user", "show", str(user_id))
    assert (seen["plan"]["code"], seen["second_factor"], seen["sessions"], seen["quota"]) == ("pro", True, 1, None)
    assert "asha@example.com" in await cli.says("user", "show", str(user_id))
    assert len(await cli.told("user", "sessions", str(user_id))) == 1

    why = ("--reason", "asked for it")
    for words, action in (
        (("reset-second-factor", str(user_id)), "second_factor.reset"),
        (("end-sessions", str(user_id)), "session.end_all"),
        (("role", str(user_id), "support"), "user.role"),
        (("deactivate", str(user_id)), "user.deactivate"),
        (("activate", str(user_id)), "user.activate"),
    ):
        await cli.says("user", *words, *why)
        assert await last_deed(sessions) == (doer().name, action, None, user_id, "asked for it")
    async with sessions() as session:
        assert (await session.get_one(User, user_id)).role is Role.SUPPORT
        assert (await session.get_one(Credential, user_id)).totp_secret is None
        assert (await session.scalars(select(LoginSession))).one().revoked_reason == "second_factor_reset"
    assert "last active administrator" in await cli.refuses("user", "deactivate", str(boss), *why)
    assert "no user 999" in await cli.refuses("user", "show", "999")
    assert "no login 9" in await cli.refuses("user", "end-sessions", str(boss), "--session", "9", *why)
    assert "--reason" in await cli.refuses("user", "deactivate", str(user_id), "--reason", "a\nb")


async def test_why_no_trade_is_told_in_a_sentence(cli: Cli, sessions: Sessions) -> None:
    user_id = await somebody(sessions)
    said = await cli.says("user", "why", str(user_id), "--day", "2024-03-18")
    assert said.startswith("The user's plan has no auto-trades.")
    found = await cli.told("user", "why", str(user_id), "--day", "2024-03-17")
    assert found["verdict"]["code"] == "market_closed"
    assert "did not answer" in found["unknown"]


async def test_plans_are_changed_made_given_and_switched_on(cli: Cli, sessions: Sessions) -> None:
    user_id = await somebody(sessions)
    assert {"free", "pro"} <= {row["code"] for row in await cli.told("plan", "list")}
    await cli.says("plan", "set", "pro", "symbols_max=21", 'brokers=["paper"]', "price_rupees_per_month=999.50")
    async with sessions() as session:
        pro = await session.get_one(Plan, "pro")
    assert (pro.symbols_max, pro.brokers, pro.price_rupees_per_month) == (21, ["paper"], Decimal("999.50"))
    assert pro.name
    assert (await last_deed(sessions))[:2] == (doer().name, "plan.change")
    assert "symbols_max" in await cli.refuses("plan", "set", "pro", "symbols_max=many")
    assert "Free" in await cli.refuses("plan", "set", "free", "offered=false")
    assert "NAME=VALUE" in await cli.refuses("plan", "set", "pro", "symbols_max")
    assert "name" in await cli.refuses("plan", "set", "new", "rank=3")

    said = await cli.says("subscription", "comp", str(user_id), "pro", "--until", "2100-01-01", "--reason", "a friend")
    assert "2100-01-01T00:00:00+05:30" in said
    assert await last_deed(sessions) == (doer().name, "subscription.give", None, user_id, "a friend")
    assert "no plan" in await cli.refuses("subscription", "comp", str(user_id), "gold", "--reason", "a friend")

    ravi = await somebody(sessions, "ravi@example.com")
    async with sessions.begin() as session:
        asked = await request(session, BillingRules(), SYSTEM, ravi, "pro", Billing.MONTHLY, MONDAY_10)
    waiting = await cli.told("subscription", "list", "--status", "pending")
    assert [(row["id"], row["email"]) for row in waiting] == [(asked.id, "ravi@example.com")]
    assert "active" in await cli.says("subscription", "activate", str(asked.id))
    assert (await last_deed(sessions))[:2] == (doer().name, "payment.settle")
    assert "not pending" in await cli.refuses("subscription", "activate", str(asked.id))


async def test_trading_is_halted_paused_and_lifted_without_any_service(
    cli: Cli, sessions: Sessions, trading: Trading, make_user: MakeUser
) -> None:
    user_id = await make_user()
    order_id = await rest(trading, user_id, MONDAY_10, 1400, symbol="INFY")
    async with sessions.begin() as session:
        session.add(Deployment(id=1, environment="simulated", name="test", cluster="c", timeline=1, starts=1))
    assert "Nothing holds" in await cli.says("states")
    said = await cli.says("pause", "user", str(user_id), "--reason", "asks odd things")
    assert said.startswith(f"user {user_id}: reducing. No entry")
    said = await cli.says("halt", "platform", "--reason", "the exchange reports trouble")
    assert said.startswith("platform: halted. Nothing is sent any more.")
    assert await last_deed(sessions) == (doer().name, "trading.halt", None, None, "the exchange reports trouble")
    assert "(as before)" in await cli.says("halt", "platform", "--reason", "once more")
    assert await state_of(trading, order_id) in {OrderState.CANCEL_PENDING, OrderState.CANCELLED}
    rows = await cli.told("states")
    assert [(row["scope"], row["state"], row["set_by"]) for row in rows] == [
        ("platform", "halted", None),
        ("user", "reducing", None),
    ]
    assert "10" in await cli.refuses("lift", str(rows[0]["id"]), "--reason", "too short")
    said = await cli.says("lift", str(rows[0]["id"]), "--reason", "looked at it, all is well")
    assert said == "platform is active again.\n"
    assert (await last_deed(sessions))[:2] == (doer().name, "trading.lift")
    assert len(await cli.told("states")) == 1
    assert len(await cli.told("states", "--all")) == 2
    assert "no standing state" in await cli.refuses("lift", str(rows[0]["id"]), "--reason", "looked at it again")
    assert "no user 999" in await cli.refuses("halt", "user", "999", "--reason", "a typing error")
    assert "no broker nobody" in await cli.refuses("pause", "broker", "nobody", "--reason", "a typing error")
    async with sessions() as session:
        assert len((await session.scalars(select(TradingStatePeriod))).all()) == 2


async def test_reconciling_needs_the_markets_clock_and_reports_counts(
    cli: Cli, sessions: Sessions, trading: Trading, make_user: MakeUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = await make_user()
    await rest(trading, user_id, MONDAY_10, 1400, symbol="INFY")
    async with sessions() as session:
        account_id = (await session.scalars(select(BrokerAccount.id))).one()
    assert "did not answer" in await cli.refuses("reconcile")
    monkeypatch.setenv("DATA_SERVICE_URL", trading.market_data._url)
    report = await cli.told("reconcile", "--account", str(account_id))
    assert (report["orders"], report["changed"], report["failed_accounts"]) == (1, 0, [])
    assert (await last_deed(sessions))[:2] == (doer().name, "trading.reconcile")
    assert "no broker account 999" in await cli.refuses("reconcile", "--account", "999")
    assert "No cycle has run" in await cli.refuses("cycle")


async def test_a_live_deployment_is_halted_without_its_keys_at_hand(cli: Cli, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        session.add(Deployment(id=1, environment="live", name="test", cluster="c", timeline=1, starts=1))
    await cli.says("halt", "platform", "--reason", "the database is live")
    async with sessions() as session:
        (period,) = (await session.scalars(select(TradingStatePeriod))).all()
    assert (period.scope, period.state) == (Scope.PLATFORM, TradingState.HALTED)


def test_the_keys_of_the_data_folder_are_taken_where_none_are_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, master_key_file=None, master_keys=SecretStr(""))
    assert with_embedded_keys(settings).master_key_file is None
    (tmp_path / "master.keys").write_text("")
    assert with_embedded_keys(settings).master_key_file == tmp_path / "master.keys"
    named = settings.model_copy(update={"master_key_file": tmp_path / "other"})
    assert with_embedded_keys(named).master_key_file == tmp_path / "other"


@pytest.mark.parametrize(
    "start", [create_app, lambda settings: asyncio.run(trade(settings))], ids=["gateway", "trader"]
)
def test_nobody_trades_live_without_master_keys(start: Callable[[Settings], object]) -> None:
    keyless = {"master_key_file": None, "master_keys": SecretStr("")}
    settings = Settings(environment=Environment.LIVE, secret_key=SecretStr("k" * 40), **keyless)
    with pytest.raises(ValueError, match="MASTER_KEY_FILE"):
        start(settings)


async def test_unknown_orders_are_listed_and_settled(
    cli: Cli, sessions: Sessions, trading: Trading, make_user: MakeUser
) -> None:
    user_id = await make_user()
    assert "Every order" in await cli.says("unknown-order", "list")
    order_id = await rest(trading, user_id, MONDAY_10, 1400, symbol="INFY")
    async with sessions.begin() as session:
        (await session.get_one(Order, order_id)).state = OrderState.UNKNOWN
    assert [row["id"] for row in await cli.told("unknown-order", "list")] == [order_id]
    words = ("unknown-order", "settle", str(order_id))
    why = ("--reason", "the desk says so, ticket 4711")
    assert "abandoned" in await cli.refuses(*words, "filled", *why)
    assert await cli.says(*words, "cancelled", *why) == f"Order {order_id} is cancelled.\n"
    assert await last_deed(sessions) == (doer().name, "order.settle", None, user_id, why[1])
    assert "nothing to settle" in await cli.refuses(*words, "cancelled", *why)


async def test_days_are_corrected_and_listed(cli: Cli, sessions: Sessions) -> None:
    why = ("--reason", "Muhurat trading, by circular")
    await cli.says("calendar", "add", "2026-11-08", "open", "--open", "18:00", "--close", "19:00", *why)
    assert (await last_deed(sessions))[:2] == (doer().name, "calendar.correct")
    assert "both" in await cli.refuses("calendar", "add", "2026-11-08", "open", "--open", "18:00", *why)
    assert "no time" in await cli.refuses("calendar", "add", "2026-11-08", "open", "--open", "late", *why)
    assert "India's" in await cli.refuses("calendar", "add", "2026-11-08", "open", "--open", "18:00+05:30", *why)
    rows = await cli.told("calendar", "list")
    assert [(row["day"], row["open_at"], row["created_by"]) for row in rows] == [("2026-11-08", "18:00:00", None)]
    async with sessions() as session:
        assert len((await session.scalars(select(CalendarOverride))).all()) == 1
