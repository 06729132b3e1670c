"""Live trading as a user sees it: every switch, why it is off and what to do, and the one that is the user's own."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from backend.errors import NotAllowedError
from backend.models import (
    BrokerAccount,
    BrokerAccountStatus,
    ComplianceRecord,
    Credential,
    Feature,
    LivePermission,
    LoginSession,
    User,
)
from backend.services.account_service import accounts_of
from backend.services.audit_service import Actor, record
from backend.services.compliance_service import record_of
from backend.services.consent_service import NoticeName, require_consent
from backend.services.context import TradingRules
from backend.services.email_service import require_verified
from backend.services.plan_service import plan_of, require_feature
from contracts.common import Environment

SECOND_FACTOR_MINUTES = 10
"""How long a second factor counts as just given."""


class SwitchName(StrEnum):
    """The order in which they are worth asking for. The gate asks for all of them before each real order."""

    DEPLOYMENT = "deployment"
    PLAN = "plan"
    COMPLIANCE = "compliance"
    ACCOUNT = "account"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Switch:
    """One of them: `detail` says why it is as it is, `next_step` what turns it on; None where it is on."""

    name: SwitchName
    on: bool
    detail: str
    next_step: str | None


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What the switches come from. `account` is the primary one, `record` counts today."""

    environment: Environment
    live_trading: bool
    plan_name: str
    plan_has_live: bool
    account: BrokerAccount | None
    record: ComplianceRecord | None
    confirmed_at: datetime | None


def switches_of(facts: LiveFacts) -> list[Switch]:
    """Every switch, on or off. Pure."""
    account, record_ = facts.account, facts.record
    real = account is not None and account.broker != "paper" and account.status is BrokerAccountStatus.READY
    covered = record_ is not None and (not real or account is None or record_.broker == account.broker)
    deployed = facts.live_trading and facts.environment is Environment.LIVE
    found = (
        (
            SwitchName.DEPLOYMENT,
            deployed,
            f"The deployment is {facts.environment.value}, real orders are {'on' if facts.live_trading else 'off'}.",
            "Only its operator can change that: ENVIRONMENT=live and LIVE_TRADING=true.",
        ),
        (
            SwitchName.PLAN,
            facts.plan_has_live,
            f"Your plan {facts.plan_name} {'includes' if facts.plan_has_live else 'does not include'} live trading.",
            "Ask for a plan that includes it: GET /v1/plans shows them.",
        ),
        (
            SwitchName.COMPLIANCE,
            covered,
            _record_words(record_, account),
            "Ask an administrator to record your algo id, static address and the broker's approval.",
        ),
        (
            SwitchName.ACCOUNT,
            real,
            _account_words(account),
            "Link an account at a real broker, enable it and make it the primary one: /v1/broker-accounts.",
        ),
        (
            SwitchName.USER,
            facts.confirmed_at is not None,
            "You have confirmed live trading." if facts.confirmed_at else "You have not confirmed live trading.",
            "Accept the risk disclosure (GET /v1/notices), POST /v1/auth/step-up a code, then POST /v1/live/confirm.",
        ),
    )
    return [Switch(name, on, detail, None if on else step) for name, on, detail, step in found]


def _record_words(record_: ComplianceRecord | None, account: BrokerAccount | None) -> str:
    if record_ is None:
        return "No compliance record of yours counts today."
    words = f"Record {record_.id} ({record_.kind.value}) counts for {record_.broker} until {record_.valid_until}"
    if account is not None and account.broker not in {"paper", record_.broker}:
        return f"{words}, not for {account.broker}."
    return f"{words}."


def _account_words(account: BrokerAccount | None) -> str:
    if account is None:
        return "You have no primary account."
    return f"Your primary account {account.id} is at {account.broker} and {account.status.value}."


async def facts_of(session: AsyncSession, rules: TradingRules, user_id: int, today: date) -> LiveFacts:
    """What the switches of a user come from."""
    plan = await plan_of(session, user_id)
    primary = next((account for account in await accounts_of(session, user_id) if account.is_primary), None)
    return LiveFacts(
        environment=rules.environment,
        live_trading=rules.live_trading,
        plan_name=plan.name,
        plan_has_live=Feature.LIVE in plan.features,
        account=primary,
        record=await record_of(session, user_id, today),
        confirmed_at=await _confirmed_at(session, user_id),
    )


async def _confirmed_at(session: AsyncSession, user_id: int) -> datetime | None:
    return await session.scalar(select(LivePermission.confirmed_at).where(LivePermission.user_id == user_id))


async def confirm(session: AsyncSession, actor: Actor, user: User, login: LoginSession, now: datetime) -> None:
    """The user's own switch, on. Joins the transaction.

    Raises:
        NotAllowedError: the address is not verified, the plan has no live trading, the risk disclosure is not accepted,
            or no second factor was given in this login within SECOND_FACTOR_MINUTES.
    """
    require_verified(user)
    await require_feature(session, user.id, Feature.LIVE)
    await require_consent(session, user.id, NoticeName.RISK_DISCLOSURE)
    await _require_second_factor(session, user.id, login, now)
    before = await _confirmed_at(session, user.id)
    switched = insert(LivePermission).values(user_id=user.id, confirmed_at=now)
    await session.execute(
        switched.on_conflict_do_update(index_elements=[LivePermission.user_id], set_={"confirmed_at": now})
    )
    await record(
        session, actor, "live.confirm", subject_id=user.id, before={"on": before is not None}, after={"on": True}
    )


async def _require_second_factor(session: AsyncSession, user_id: int, login: LoginSession, now: datetime) -> None:
    confirmed = await session.scalar(select(Credential.totp_confirmed_at).where(Credential.user_id == user_id))
    if confirmed is None:
        raise NotAllowedError(
            "Live trading needs a second factor: set one up with POST /v1/auth/second-factor.",
            code="second_factor_required",
        )
    given = login.second_factor_at
    if given is None or now - given > timedelta(minutes=SECOND_FACTOR_MINUTES):
        raise NotAllowedError(
            "This needs your second factor: POST /v1/auth/step-up with a code, then repeat it.",
            code="second_factor_required",
        )


async def withdraw(session: AsyncSession, actor: Actor, user_id: int, reason: str = "") -> bool:
    """The user's own switch, off; whether it was on. Also for whoever takes a second factor away. Joins.

    No entry is sent from here on; orders that are out stay out, and open trades keep their exits.
    """
    withdrawn = await session.scalar(
        update(LivePermission)
        .where(LivePermission.user_id == user_id, LivePermission.confirmed_at.is_not(None))
        .values(confirmed_at=None)
        .returning(LivePermission.user_id)
        .execution_options(synchronize_session=False)
    )
    if withdrawn is None:
        return False
    await record(
        session, actor, "live.withdraw", subject_id=user_id, before={"on": True}, after={"on": False}, reason=reason
    )
    return True
