"""Who may do what: each access of backend.api.deps and each kind of caller, as the table that routes are held to."""

import itertools
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from fastapi.routing import APIRoute, APIWebSocketRoute

from backend.api.app import ROUTERS, access_of
from backend.models import ApiKey, Credential, LoginSession, Role, Subscription, SubscriptionStatus, User
from backend.security import digest
from tests.api.conftest import Gateway

Route = APIRoute | APIWebSocketRoute
ALL_ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]
ROUTES = [route for route in ALL_ROUTES if isinstance(route, APIRoute)]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of caller. `scopes` make it an API key; one that is `stale` proved itself an hour ago."""

    plan: str = "free"
    role: Role = Role.USER
    stale: bool = False
    scopes: tuple[str, ...] = ()


NOBODY = "nobody"
KINDS = MappingProxyType(
    {
        "free": Kind(),
        "paid": Kind("enterprise"),
        "stale": Kind("enterprise", stale=True),
        "support": Kind(role=Role.SUPPORT),
        "admin": Kind(role=Role.ADMIN),
        "stale_admin": Kind(role=Role.ADMIN, stale=True),
        "read_key": Kind("enterprise", scopes=("read",)),
        "trade_key": Kind("enterprise", scopes=("trade",)),
        # A key outlives its owner's time as an administrator.
        "former_admin_key": Kind("enterprise", scopes=("admin",)),
        "admin_key": Kind("enterprise", Role.ADMIN, scopes=("admin",)),
        "admin_read_key": Kind("enterprise", Role.ADMIN, scopes=("read", "trade")),
    }
)
OUT, PLAN, SCOPE, LOGIN, PROVE, ADMIN = (
    "not_authenticated",
    "plan_required",
    "scope_missing",
    "login_required",
    "step_up_required",
    "admin_required",
)
REFUSALS = {OUT: 401, PLAN: 403, SCOPE: 403, LOGIN: 403, PROVE: 403, ADMIN: 403}
_KEYS = ("read_key", "trade_key", "former_admin_key", "admin_key", "admin_read_key")
_PEOPLE = ("free", "paid", "stale", "support", "admin", "stale_admin")


def _but(**refused: str) -> MappingProxyType[str, str | None]:
    return MappingProxyType(dict.fromkeys((NOBODY, *KINDS)) | refused)


_NO_READ = dict.fromkeys(("trade_key", "former_admin_key", "admin_key"), SCOPE)
_NO_TRADE = dict.fromkeys(("read_key", "former_admin_key", "admin_key"), SCOPE)
_NO_PLAN = dict.fromkeys(("free", "support", "admin", "stale_admin"), PLAN)
_NO_LOGIN = dict.fromkeys(_KEYS, LOGIN)
_NO_PROOF = dict.fromkeys(("stale", "stale_admin"), PROVE)
_NO_STAFF = dict.fromkeys(("free", "paid", "stale", "read_key", "trade_key", "former_admin_key"), ADMIN) | {
    "admin_read_key": SCOPE
}
_PAID = _but(nobody=OUT, **_NO_TRADE, **_NO_PLAN)
EXPECTED = MappingProxyType(
    {
        "public": _but(),
        "current_user": _but(nobody=OUT, **_NO_READ),
        "trading_user": _but(nobody=OUT, **_NO_TRADE),
        "paid_portfolio": _PAID,
        "paid_auto_trading": _PAID,
        "account_holder": _but(nobody=OUT, **_NO_LOGIN),
        "fresh_holder": _but(nobody=OUT, **_NO_LOGIN, **_NO_PROOF),
        "support_user": _but(nobody=OUT, **_NO_STAFF),
        "admin_user": _but(nobody=OUT, **(_NO_STAFF | {"support": ADMIN})),
        "fresh_admin": _but(nobody=OUT, **(_NO_STAFF | {"support": ADMIN} | _NO_LOGIN | _NO_PROOF)),
    }
)
"""For each access and kind of caller, the code it is refused with; None for who is let in."""

_numbers = itertools.count(1)


async def callers_of(gateway: Gateway, *names: str) -> dict[str, dict[str, str]]:
    """New callers of the kinds named, and of every kind without; the headers that each sends."""
    wanted = {name: KINDS[name] for name in names or KINDS if name != NOBODY}
    now, number = gateway.clock(), next(_numbers)
    hashed = await gateway.state.security.hash_password("the password of no caller")
    headers: dict[str, dict[str, str]] = {NOBODY: {}}
    async with gateway.sessions.begin() as session:
        users = {
            n: User(email=f"{n}{number}@matrix.example", name=n, role=k.role, email_verified_at=now)
            for n, k in wanted.items()
        }
        session.add_all(users.values())
        await session.flush()
        logins: dict[str, LoginSession] = {}
        for name, kind in wanted.items():
            user_id = users[name].id
            session.add(Credential(user_id=user_id, password_hash=hashed))
            if kind.plan != "free":
                session.add(Subscription(user_id=user_id, plan_code=kind.plan, status=SubscriptionStatus.ACTIVE))
            if kind.scopes:
                key = f"sauda_{user_id:08x}_{'k' * 43}"
                headers[name] = {"Authorization": f"Bearer {key}"}
                row = ApiKey(name=name, prefix=key[:14], key_hash=digest(key), scopes=list(kind.scopes), networks=[])
                row.user_id, row.expires_at = user_id, now + timedelta(days=1)
                session.add(row)
            else:
                proved = now - timedelta(hours=1) if kind.stale else now
                logins[name] = LoginSession(
                    user_id=user_id, proved_at=proved, last_used_at=proved, expires_at=now + timedelta(days=1)
                )
        session.add_all(logins.values())
        await session.flush()
    for name, login in logins.items():
        headers[name] = {"Authorization": f"Bearer {gateway.state.security.issue(users[name].id, login.id)}"}
    return headers


def declared(route: Route) -> str:
    """The access that a route declares."""
    access = access_of(route)
    assert access is not None, route
    return access
