"""The trader's clockwork: APScheduler jobs that reconcile, run cycles, compare positions, deliver and end the day."""

from collections.abc import Awaitable, Callable
from datetime import date, datetime

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.exc import SQLAlchemyError

from backend.domain.calendar import IST
from backend.domain.market import StockClass
from backend.errors import SaudaError
from backend.services.auto_trading_service import run_cycle
from backend.services.context import Trading
from backend.services.corporate_action_service import settle_actions
from backend.services.end_of_day_service import end_of_day
from backend.services.guard_service import guard_trades
from backend.services.outbox_service import deliver
from backend.services.position_service import watch_positions
from backend.services.readiness_service import nudge, prepare_lists
from backend.services.reconcile_service import look_up, reconcile

log = structlog.get_logger()

MISFIRE_GRACE_S = 30
CALENDAR_REFRESH_S = 30.0
PASSING_ERRORS = (SaudaError, SQLAlchemyError, OSError, TimeoutError)
"""What an unreachable database or service raises: the job is tried again at its next time."""


class TradingLoop:
    """Runs on every trader; the database's unique tick row decides who does the work.

    `speed` is market seconds per real second, `after_orders` is called after each tick that decided on orders; no
    cycle runs until the last reconciliation has succeeded.
    """

    def __init__(
        self,
        trading: Trading,
        *,
        speed: float,
        reconcile_interval_s: float,
        positions_interval_s: float = 45.0,
        after_orders: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._trading = trading
        self._after_orders = after_orders
        self._reconciled = False
        self._closed_since: date | None = None
        self._day_ended: date | None = None
        self._complaint = ""
        self._scheduler = AsyncIOScheduler(
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": MISFIRE_GRACE_S}
        )
        # Three looks per tick: the clock's jitter then skips none, and a tick that is done costs one question.
        every = trading.rules.cycle_interval_s / speed / 3
        for name, job, seconds in (
            ("reconcile", self._reconcile, reconcile_interval_s),
            ("look_up", self._look_up, trading.rules.lookup.every_s),
            ("guards", self._guards, reconcile_interval_s),
            ("positions", self._positions, positions_interval_s),
            ("cycle", self._cycle, every),
            ("actions", self._actions, CALENDAR_REFRESH_S),
            ("mornings", self._mornings, CALENDAR_REFRESH_S),
            ("end_of_day", self._end_of_day, every),
            ("deliver", self._deliver, 1.0),
            ("refresh", self._refresh, CALENDAR_REFRESH_S),
        ):
            self._scheduler.add_job(self._guarded(name, job), "interval", seconds=seconds, id=name)

    async def start(self) -> None:
        """Learn the calendar and reconcile before any trading, then let the clock run."""
        await self._guarded("refresh", self._refresh)()
        await self._guarded("reconcile", self._reconcile)()
        await self._guarded("positions", self._positions)()
        # Before the clock runs, so that two ticks of one trader never overlap.
        await self._guarded("cycle", self._cycle)()
        self._scheduler.start()

    @property
    def complaint(self) -> str:
        """What the loop waits for now; empty where all is well."""
        return self._complaint

    def stop(self) -> None:
        self._scheduler.shutdown(wait=False)

    def _guarded(self, name: str, job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            try:
                await job()
                if self._complaint.startswith(name):
                    self._complaint = ""
            except PASSING_ERRORS as error:
                self._complain(f"{name} waits: {error}".splitlines()[0])
                log.warning("job_failed", job=name, error=repr(error))
            except Exception:
                self._complain(f"{name} failed; see the log")
                log.exception("job_crashed", job=name)

        return run

    def _complain(self, complaint: str) -> None:
        """Say what is wrong once, not at every tick."""
        if complaint != self._complaint:
            self._trading.announce(f"    !    {complaint}")
        self._complaint = complaint

    async def _refresh(self) -> None:
        await self._trading.calendar.refresh(self._trading.sessions)
        self._trading.calendar.know(await self._trading.market_data.load_instruments())

    async def _reconcile(self) -> None:
        try:
            await reconcile(self._trading)
        except BaseException:
            self._reconciled = False
            raise
        self._reconciled = True

    async def _look_up(self) -> None:
        await look_up(self._trading)

    async def _guards(self) -> None:
        if self._reconciled:
            await guard_trades(self._trading)

    async def _mornings(self) -> None:
        """Lists of shares, and who must log in. Brokers are real where the market's clock is the real one."""
        now = await self._trading.clock()
        await nudge(self._trading, now)
        await prepare_lists(self._trading, now)

    async def _positions(self) -> None:
        await watch_positions(self._trading)

    async def _actions(self) -> None:
        """Overnight, so that the day's first tick finds it done."""
        await settle_actions(self._trading, await self._trading.clock())

    async def _cycle(self) -> None:
        if not self._reconciled:
            log.info("cycle_waits", why="the last reconciliation has not succeeded")
            return
        now = await self._trading.clock()
        report = await run_cycle(self._trading, now)
        if report is not None:
            self._closed_since = None
            self._trading.announce(report.line())
            log.info("cycle", **report.summary())
            if self._after_orders is not None and report.entries + report.exits:
                await self._after_orders()
            await self._deliver()
        elif not self._trading.calendar.any_continuous(now):
            self._say_closed(now)

    def _say_closed(self, now: datetime) -> None:
        today = now.astimezone(IST).date()
        if self._closed_since == today:
            return
        self._closed_since = today
        if not self._trading.calendar.is_recorded(today):
            log.error("calendar_year_not_recorded", year=today.year)
            self._trading.announce(
                f"    !    no holiday list is recorded for {today.year}: the market counts as closed. "
                "An admin can add the days (docs/market-sessions.md)."
            )
            return
        opens = self._trading.calendar.next_open(now)
        after = f"; continuous trading opens {opens:%a %d %b %Y %H:%M} IST" if opens else ""
        self._trading.announce(f"{now.astimezone(IST):%a %d %b %Y %H:%M} IST  market closed{after}")

    async def _end_of_day(self) -> None:
        now = await self._trading.clock()
        day = now.astimezone(IST).date()
        session = self._trading.calendar.session(day)
        if session is None or self._day_ended == day or now < session.continuous_close(StockClass.NON_CAS):
            return
        self._trading.announce(await end_of_day(self._trading, day, now))
        self._day_ended = day

    async def _deliver(self) -> None:
        await deliver(self._trading)
