"""Asks one provider after another until the answer is whole, within one deadline, so that no single one can stop it.

Time: of what is left of the deadline each provider gets at most an equal share with those still to be asked (a provider
whose breaker is open counts as none); what it does not use passes on to the next ones. So with a deadline of 3 s and
three providers, the first that hangs costs 1 s, and the last one has at least 1 s.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Generic, TypeVar, cast

import polars as pl
import structlog

from contracts.market import Interval
from data_service.bars import INTERVAL_S
from data_service.breaker import Breaker, Breakers
from data_service.metrics import Metrics, Outcome
from data_service.providers.base import (
    IncompleteError,
    Kind,
    Provider,
    ProviderError,
    RateLimitedError,
    RawQuote,
    UnsupportedError,
)
from data_service.sessions import IST_OFFSET_S, Sessions

log = structlog.get_logger(__name__)

SHARE_S_MIN = 0.01
"""A provider is not asked with less time than this: its failure would say nothing about it."""

RUN_GAP_DAYS_MAX = 10
"""Days lacking that are further apart are asked for separately, so that an old gap fetches no years after it."""

Got = TypeVar("Got")


class NoAnswerError(ProviderError):
    """No provider answered; the message says why each did not."""


@dataclass(frozen=True, slots=True)
class QuotesAnswer:
    """Accepted quotes by symbol, all refused ones with the gate's reason, and why the missing symbols are missing."""

    quotes: Mapping[str, RawQuote]
    rejected: list[tuple[RawQuote, str]]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BarsAnswer:
    """What each provider gave (BAR_SCHEMA), in the order asked; the same bar of two providers is in both frames.

    `lacking` are the session days per symbol that no provider had; `failures` say why which provider did not answer.
    """

    frames: list[tuple[str, pl.DataFrame]]
    lacking: Mapping[str, AbstractSet[date]]
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Told(Generic[Got]):
    """One provider's answer, whole or in part, and why the rest of it did not come."""

    got: Got | None
    failure: str | None = None


def orders(providers: Sequence[Provider]) -> dict[Kind, list[Provider]]:
    """The same order for every kind, each with the providers that offer it."""
    return {kind: [provider for provider in providers if kind in provider.kinds] for kind in Kind}


class Chain:
    """The providers of each kind in their order, behind breakers. Safe for many calls at once on one event loop."""

    def __init__(
        self,
        order: Mapping[Kind, Sequence[Provider]],
        breakers: Breakers,
        metrics: Metrics,
        sessions: Sessions,
        *,
        monotonic_s: Callable[[], float],
        now_s: Callable[[], float],
    ) -> None:
        """`monotonic_s` times the calls; `now_s` is the market's present in seconds since 1970-01-01 UTC."""
        self._order, self._breakers, self._metrics, self._sessions = order, breakers, metrics, sessions
        self._monotonic_s, self._now_s = monotonic_s, now_s
        for kind, providers in order.items():
            for provider in providers:
                breakers.of(provider.name, kind)

    async def quotes(
        self, symbols: Sequence[str], deadline_s: float, accept: Callable[[RawQuote], str | None]
    ) -> QuotesAnswer:
        """The market's present. `accept` is the gate: None, or in few words why the quote must not be used; the next
        provider is asked for the symbol then. Raises nothing of a provider's."""
        lacking = list(dict.fromkeys(symbols))
        quotes: dict[str, RawQuote] = {}
        rejected: list[tuple[RawQuote, str]] = []
        reasons: dict[str, list[str]] = {symbol: [] for symbol in lacking}
        for provider, ends_at in self._turns(Kind.QUOTES, deadline_s):
            if not lacking:
                break
            said, failure = await self._quotes_of(provider, lacking, ends_at)
            for symbol in lacking:
                quote = said.get(symbol)
                reason = accept(quote) if quote else failure or "no quote"
                if quote and reason:
                    rejected.append((quote, reason))
                    self._metrics.quote_rejected(provider.name, reason)
                elif quote:
                    quotes[symbol] = quote
                    self._metrics.quote_accepted(provider.name, self._age_s(quote))
                if reason:
                    reasons[symbol].append(f"{provider.name}: {reason}")
            lacking = [symbol for symbol in lacking if symbol not in quotes]
        missing = {symbol: "; ".join(reasons[symbol]) or "no provider of quotes" for symbol in lacking}
        return QuotesAnswer(quotes, rejected, missing)

    async def _quotes_of(
        self, provider: Provider, symbols: Sequence[str], ends_at: float
    ) -> tuple[dict[str, RawQuote], str | None]:
        """What one provider says by `ends_at`, and why the rest did not come."""
        found: dict[str, RawQuote] = {}
        failure: str | None = None
        for batch in batches(symbols, provider.batch_max.get(Kind.QUOTES)):
            told = await self._ask(provider, Kind.QUOTES, lambda: provider.quotes(batch), ends_at)  # noqa: B023 - awaited
            found |= told.got or {}
            failure = failure or told.failure
            if told.got is None:
                break
        return found, failure

    def _age_s(self, quote: RawQuote) -> float | None:
        return None if quote.as_of_s is None else max(0.0, self._now_s() - quote.as_of_s)

    async def bars(
        self,
        interval: Interval,
        wanted: Mapping[str, AbstractSet[date]],
        deadline_s: float,
        through_s: float | None = None,
    ) -> BarsAnswer:
        """Bars of the session days `wanted` per symbol. A provider is asked only for what those before it lacked.

        A day is there where it has a daily bar, or intraday bars up to the end of continuous trading, or, of the
        session under way, up to the last bar ended by `through_s` (seconds since 1970-01-01 UTC; the present where left
        out).
        Gaps inside an intraday day are the quality gate's to find. Raises nothing of a provider's.
        """
        kind = Kind.DAILY_BARS if interval is Interval.DAY_1 else Kind.INTRADAY_BARS
        through_s = self._now_s() if through_s is None else through_s
        lacking = without(wanted, set())
        frames: list[tuple[str, pl.DataFrame]] = []
        failures: dict[str, str] = {}
        for provider, ends_at in self._turns(kind, deadline_s):
            for symbols, first, last in batched_runs(lacking, provider.batch_max.get(kind)):
                told = await self._ask(
                    provider,
                    kind,
                    lambda: provider.bars(symbols, interval, first, last),  # noqa: B023 - awaited in this round
                    ends_at,
                )
                if told.failure:
                    failures.setdefault(provider.name, told.failure)
                if told.got is None:
                    break
                given = told.got.filter(pl.col("symbol").is_in(symbols))
                frames.append((provider.name, given))
                lacking = without(lacking, self._days_there(given, interval, through_s))
            if not lacking:
                break
        return BarsAnswer([(name, frame) for name, frame in frames if not frame.is_empty()], lacking, failures)

    def _days_there(self, bars: pl.DataFrame, interval: Interval, through_s: float) -> set[tuple[str, date]]:
        day = pl.from_epoch(pl.col("start") + IST_OFFSET_S).dt.date().alias("day")
        last = bars.group_by("symbol", day).agg(pl.col("start").max())
        if interval is Interval.DAY_1:
            return {(symbol, on) for symbol, on, _ in last.iter_rows()}
        length_s = INTERVAL_S[interval]
        return {
            (symbol, on)
            for symbol, on, start_s in last.iter_rows()
            if start_s + length_s >= min(self._sessions.usual(on).close_cas_s, through_s - length_s)
        }

    async def instruments(self, deadline_s: float) -> tuple[str, pl.DataFrame]:
        """The first provider's master that is not empty, and its name. Raises NoAnswerError."""
        return await self._first(
            Kind.INSTRUMENTS, deadline_s, lambda provider: provider.instruments(), empty_is_none=True
        )

    async def actions(self, from_: date, through: date, deadline_s: float) -> tuple[str, pl.DataFrame]:
        """The first provider's corporate actions with an ex-date in the days, and its name. Raises NoAnswerError."""
        return await self._first(
            Kind.ACTIONS, deadline_s, lambda provider: provider.actions(from_, through), empty_is_none=False
        )

    async def _first(
        self,
        kind: Kind,
        deadline_s: float,
        call: Callable[[Provider], Awaitable[pl.DataFrame]],
        *,
        empty_is_none: bool,
    ) -> tuple[str, pl.DataFrame]:
        failures: list[str] = []
        for provider, ends_at in self._turns(kind, deadline_s):
            told = await self._ask(provider, kind, lambda: call(provider), ends_at)  # noqa: B023 - awaited in this round
            if told.got is not None and not told.failure and not (empty_is_none and told.got.is_empty()):
                return provider.name, told.got
            failures.append(f"{provider.name}: {told.failure or 'an empty list'}")
        raise NoAnswerError(f"no {kind.replace('_', ' ')}: {'; '.join(failures) or 'no provider'}")

    def _turns(self, kind: Kind, deadline_s: float) -> Iterator[tuple[Provider, float]]:
        """Each provider with the instant (event loop's clock) at which its share of the deadline ends."""
        loop = asyncio.get_running_loop()
        deadline_at = loop.time() + deadline_s
        providers = self._order.get(kind, ())
        for place, provider in enumerate(providers):
            waiting = sum(self._breakers.of(other.name, kind).admits() for other in providers[place:])
            now = loop.time()
            yield provider, now + max(0.0, deadline_at - now) / max(1, waiting)

    async def _ask(
        self, provider: Provider, kind: Kind, call: Callable[[], Awaitable[Got]], ends_at: float
    ) -> Told[Got]:
        """One guarded call; whatever goes wrong with the provider becomes a failure in words."""
        breaker = self._breakers.of(provider.name, kind)
        permit = breaker.ask()
        if permit is None:
            self._metrics.request(provider.name, kind, Outcome.REFUSED)
            return Told(None, f"left alone for {breaker.retry_in_s:.0f} s after failures")
        if ends_at - asyncio.get_running_loop().time() < SHARE_S_MIN:
            breaker.abandoned(permit)
            return Told(None, "no time left to ask it")
        began_s, outcome, error = self._monotonic_s(), Outcome.ABANDONED, None
        try:
            async with asyncio.timeout_at(ends_at):
                told = Told(await call())
            outcome = Outcome.OK
        except Exception as raised:  # whatever a provider's defect is, it must not stop the chain
            outcome, error = outcome_of(raised), raised
            told = Told(cast("Got | None", getattr(raised, "got", None)), said(raised))
            if outcome is Outcome.ERROR and not isinstance(raised, ProviderError):
                log.exception("provider_defect", provider=provider.name, kind=kind)
        finally:
            self._metrics.request(provider.name, kind, outcome, self._monotonic_s() - began_s)
            settle(breaker, permit, outcome, error)
        return told


def outcome_of(error: Exception) -> Outcome:
    """How a call that raised `error` ended."""
    kinds: tuple[tuple[type[Exception], Outcome], ...] = (
        (IncompleteError, Outcome.INCOMPLETE),
        (UnsupportedError, Outcome.UNSUPPORTED),
        (RateLimitedError, Outcome.LIMITED),
        (TimeoutError, Outcome.TIMEOUT),
    )
    return next((outcome for kind, outcome in kinds if isinstance(error, kind)), Outcome.ERROR)


def said(error: Exception) -> str:
    """An error in words for a caller; a defect's own text stays in the log."""
    if isinstance(error, TimeoutError):
        return "no answer in its time"
    return str(error) if isinstance(error, ProviderError) else "an unreadable answer"


def settle(breaker: Breaker, permit: int, outcome: Outcome, error: Exception | None) -> None:
    """Give a permit back. A part of an answer is an answer; a wish to be left alone is heeded in either case."""
    wish = error.cause if isinstance(error, IncompleteError) else error
    if isinstance(wish, RateLimitedError):
        breaker.limited(wish.retry_after_s)
    elif outcome in (Outcome.OK, Outcome.INCOMPLETE):
        breaker.succeeded(permit)
    elif outcome in (Outcome.ABANDONED, Outcome.UNSUPPORTED):
        breaker.abandoned(permit)
    else:
        breaker.failed(permit)


def runs(lacking: Mapping[str, AbstractSet[date]]) -> list[tuple[tuple[str, ...], date, date]]:
    """The fewest requests (symbols, first day, last day) that cover the days without fetching across long gaps."""
    days = sorted({day for wanted in lacking.values() for day in wanted})
    starts = [place for place, day in enumerate(days) if place == 0 or (day - days[place - 1]).days > RUN_GAP_DAYS_MAX]
    found: list[tuple[tuple[str, ...], date, date]] = []
    for start, end in pairwise([*starts, len(days)]):
        first, last = days[start], days[end - 1]
        symbols = tuple(symbol for symbol, wanted in lacking.items() if any(first <= day <= last for day in wanted))
        found.append((symbols, first, last))
    return found


def batches(symbols: Sequence[str], size_max: int | None) -> list[tuple[str, ...]]:
    """The symbols in their order, at most `size_max` at a time; all at once where it is None."""
    size = size_max or max(1, len(symbols))
    return [tuple(symbols[at : at + size]) for at in range(0, len(symbols), size)]


def batched_runs(
    lacking: Mapping[str, AbstractSet[date]], size_max: int | None
) -> list[tuple[tuple[str, ...], date, date]]:
    """`runs` with at most `size_max` symbols each."""
    return [(batch, first, last) for symbols, first, last in runs(lacking) for batch in batches(symbols, size_max)]


def without(
    lacking: Mapping[str, AbstractSet[date]], there: AbstractSet[tuple[str, date]]
) -> dict[str, frozenset[date]]:
    """What is still lacking once the (symbol, day) pairs are there; symbols with nothing lacking are absent."""
    left = {symbol: frozenset(day for day in days if (symbol, day) not in there) for symbol, days in lacking.items()}
    return {symbol: days for symbol, days in left.items() if days}
