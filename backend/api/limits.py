"""How often one address, user or API key may ask: fixed windows of a minute for each class of routes.

Counted by the library `limits`, in Redis for all gateways together where one is set, else in this process. A Redis that
does not answer costs nothing but that: the process then counts alone.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

log = structlog.get_logger()

KEYS_MAX = 200_000
"""Counters kept at once; a flood of addresses beyond it starts the count anew."""
SWEEP_S = 5.0
REDIS_REST_S = 5.0
"""How long a Redis that failed is left alone."""


class RouteClass(StrEnum):
    """What is counted together.

    RENEWAL goes on with a login or ends it, WEBHOOK is what payment providers tell: whoever tries passwords spends
    neither. SAFETY is what stops or takes back (halting, cancelling): it is counted by user and key, never by address.
    """

    PUBLIC = "public"
    LOGIN = "login"
    RENEWAL = "renewal"
    WEBHOOK = "webhook"
    READ = "read"
    WRITE = "write"
    ORDER = "order"
    STREAM = "stream"
    SAFETY = "safety"


PER_MINUTE: Mapping[RouteClass, int] = {
    RouteClass.PUBLIC: 3000,
    RouteClass.LOGIN: 60,
    RouteClass.RENEWAL: 600,
    RouteClass.WEBHOOK: 3000,
    RouteClass.READ: 600,
    RouteClass.WRITE: 240,
    RouteClass.ORDER: 600,
    RouteClass.STREAM: 120,
    RouteClass.SAFETY: 3000,
}
"""Requests a minute of one address, user or key."""

UNLIMITED = frozenset({"/health", "/v1/health"})
_PUBLIC = ("/v1/market", "/v1/predictions", "/v1/plans", "/v1/strategies", "/v1/models", "/v1/scoreboard", "/docs")
_LOGIN = "/v1/auth/"
_RENEWAL = ("/v1/auth/refresh", "/v1/auth/logout")
_WEBHOOK = "/v1/webhooks/"
_SAFETY = ("/v1/kill-switch", "/v1/admin/kill-switch", "/v1/auto-trading/disable")


def class_of(method: str, path: str) -> RouteClass:
    """The class of a request."""
    if method in {"GET", "HEAD"}:
        if path.startswith("/v1/stream/"):
            return RouteClass.STREAM
        return RouteClass.PUBLIC if path.startswith(_PUBLIC) or path == "/openapi.json" else RouteClass.READ
    if path in _SAFETY or (method == "DELETE" and path.startswith("/v1/orders/")):
        return RouteClass.SAFETY
    if path.startswith("/v1/orders"):
        return RouteClass.ORDER
    if path in _RENEWAL:
        return RouteClass.RENEWAL
    if path.startswith(_WEBHOOK):
        return RouteClass.WEBHOOK
    return RouteClass.LOGIN if path.startswith(_LOGIN) else RouteClass.WRITE


@dataclass(frozen=True, slots=True)
class Window:
    """One caller's present window: `remaining` of `limit` requests, for `reset_s` more seconds; `passed` or refused."""

    policy: str
    limit: int
    remaining: int
    reset_s: int
    passed: bool

    def policy_item(self) -> str:
        """For RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10, 3): quota and window in seconds."""
        return f'"{self.policy}";q={self.limit};w=60'

    def state_item(self) -> str:
        """For RateLimit (the same, 4): what is left, and for how many seconds."""
        return f'"{self.policy}";r={self.remaining};t={self.reset_s}'


def address_key(address: str) -> str:
    """What counts as one address: an IPv4 one, or the /64 of an IPv6 one, which is one customer's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return address


class LocalStorage(Storage):
    """Counters of this process for `limits`: its own memory storage walks through every counter at each request."""

    STORAGE_SCHEME = None

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._counts: dict[str, tuple[int, float]] = {}
        self._sweep_at = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = self._now()
        if now >= self._sweep_at or len(self._counts) > KEYS_MAX:
            self._sweep(now)
        count, ends = self._counts.get(key, (0, now + expiry))
        if ends <= now:
            count, ends = 0, now + expiry
        self._counts[key] = (count + amount, ends)
        return count + amount

    def _sweep(self, now: float) -> None:
        self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
        if len(self._counts) > KEYS_MAX:
            log.warning("rate_limits_forgotten", counters=len(self._counts))
            self._counts = {}
        self._sweep_at = now + SWEEP_S

    async def get(self, key: str) -> int:
        count, ends = self._counts.get(key, (0, 0.0))
        return count if ends > self._now() else 0

    async def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, self._now()))[1]

    async def check(self) -> bool:
        return True

    async def reset(self) -> int | None:
        count = len(self._counts)
        self._counts = {}
        return count

    async def clear(self, key: str) -> None:
        self._counts.pop(key, None)


class RateLimits:
    """Counts requests; `now` is the real time in seconds.

    `per_minute` may leave classes out: these keep PER_MINUTE's figure.

    Public data is counted by each process for itself, also with a Redis: it is answered from memory.
    """

    def __init__(
        self,
        now: Callable[[], float],
        per_minute: Mapping[RouteClass, int] | None = None,
        redis_url: str = "",
    ) -> None:
        self._now = now
        self._items = {
            kind: RateLimitItemPerMinute(amount) for kind, amount in {**PER_MINUTE, **(per_minute or {})}.items()
        }
        self._local = FixedWindowRateLimiter(LocalStorage(now))
        self._shared = None
        if redis_url:
            storage = RedisStorage(
                f"async+{redis_url}", implementation="redispy", socket_timeout=0.2, socket_connect_timeout=0.2
            )
            self._shared = FixedWindowRateLimiter(storage)
        self._shared_again_at = 0.0

    async def count(self, kind: RouteClass, caller: str, name: str) -> Window:
        """Count one request of a class; `caller` is the kind of name: address, user or key."""
        if kind is RouteClass.PUBLIC or self._shared is None or self._now() < self._shared_again_at:
            return await self._count(self._local, kind, caller, name)
        try:
            return await self._count(self._shared, kind, caller, name)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("rate_limits_without_redis", error=repr(error), rest_s=REDIS_REST_S)
            self._shared_again_at = self._now() + REDIS_REST_S
            return await self._count(self._local, kind, caller, name)

    async def _count(self, limiter: FixedWindowRateLimiter, kind: RouteClass, caller: str, name: str) -> Window:
        item = self._items[kind]
        passed = await limiter.hit(item, kind, caller, name)
        stats = await limiter.get_window_stats(item, kind, caller, name)
        reset_s = max(1, round(stats.reset_time - self._now()))
        return Window(f"{kind}-per-{caller}", item.amount, max(0, stats.remaining), reset_s, passed)
