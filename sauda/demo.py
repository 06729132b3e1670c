"""Demo users of the simulated environment: one per plan, each with a paper account, the paid ones trading."""

import asyncio
import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import httpx
from sqlalchemy import func, select

from backend.db import OPERATOR_ROLE, create_engine, create_sessions
from backend.domain.modes import Mode
from backend.models import User
from backend.security import password_hasher
from contracts.market import ClockReply, InstrumentsReply
from sauda.paper_user import create_paper_user

FILE = "demo-users.json"
DEPOSIT_RUPEES = Decimal(500_000)
SYMBOLS_MAX = 50
MODES = {"free": None, "basic": Mode.CONSERVATIVE, "pro": Mode.MODERATE, "enterprise": Mode.AGGRESSIVE}


@dataclass(frozen=True, slots=True)
class DemoUser:
    plan: str
    email: str
    password: str


def ensure_demo_users(database_url: str, data_service_url: str, data_dir: Path) -> list[DemoUser]:
    """Create the demo users where they are missing and return the new ones; their passwords exist nowhere else.

    All or nothing: the file is written before the transaction commits, and an old file of a lost database is replaced.
    """
    now = ClockReply.model_validate_json(httpx.get(f"{data_service_url}/v1/clock", timeout=10).content).now
    instruments = InstrumentsReply.model_validate_json(
        httpx.get(f"{data_service_url}/v1/instruments", timeout=10).content
    ).instruments
    symbols = [instrument.symbol for instrument in instruments][:SYMBOLS_MAX]
    return asyncio.run(_ensure(database_url, symbols, now, data_dir))


async def _ensure(database_url: str, symbols: list[str], now: datetime, data_dir: Path) -> list[DemoUser]:
    users = [DemoUser(plan, f"{plan}@demo.sauda.example", secrets.token_urlsafe(12)) for plan in MODES]
    engine = create_engine(database_url, role=OPERATOR_ROLE, pool_size=1)
    try:
        async with create_sessions(engine).begin() as session:
            emails = [user.email for user in users]
            if await session.scalar(select(func.count()).where(User.email.in_(emails))):
                return []
            for user in users:
                password_hash = password_hasher().hash(user.password)
                await create_paper_user(
                    session,
                    User(email=user.email, name=f"Demo {user.plan}"),
                    password_hash=password_hash,
                    plan=user.plan,
                    mode=MODES[user.plan],
                    symbols=symbols,
                    rupees=DEPOSIT_RUPEES,
                    at=now,
                )
            _write(data_dir / FILE, users)
    finally:
        await engine.dispose()
    return users


def _write(path: Path, users: list[DemoUser]) -> None:
    """Write the passwords for their owner's eyes alone, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump([asdict(user) for user in users], file, indent=2)
    temporary.replace(path)
