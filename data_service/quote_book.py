"""The newest believed quote of each share in memory, brought by streams or by asking the providers, always gated."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_service.chain import QuotesAnswer
from data_service.checks import QuoteContext, check_quote
from data_service.checks.quotes import same_values
from data_service.providers.base import RawQuote
from data_service.shared_quotes import SharedQuotes

REFUSALS_KEPT_MAX = 1000
ASKED_WITHIN_S = 300.0
"""Shares that nobody asked about for so long are not kept fresh any more."""


class QuotesChain(Protocol):
    """The chain of providers, as far as quotes need it."""

    async def quotes(
        self, symbols: Sequence[str], deadline_s: float, accept: Callable[[RawQuote], str | None]
    ) -> QuotesAnswer:
        """See data_service.chain.Chain."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """An accepted quote, the monotonic second it came at, and the market second since which its values are the same."""

    quote: RawQuote
    received_at: float
    unchanged_since_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A quote that the gate refused, why, and the market second at which it did."""

    quote: RawQuote
    reason: str
    at_s: float


class QuoteBook:
    """Quotes of as many shares as are asked for. Runs on one event loop."""

    def __init__(
        self,
        chain: QuotesChain,
        context_of: Callable[[str, RawQuote | None, float | None], QuoteContext],
        *,
        monotonic_s: Callable[[], float],
        refresh_s: float,
        deadline_s: float,
        shared: SharedQuotes | None = None,
        on_accepted: Callable[[RawQuote], None] = lambda _: None,
    ) -> None:
        """`context_of(symbol, last quote, unchanged since)` is what the gate judges by at this moment.

        A quote is served for `refresh_s` seconds, then asked for again with `deadline_s` seconds for all providers;
        where none has a newer one it is served for as long as the gate would still let it in. `on_accepted` sees every
        accepted quote once.
        """
        self._chain, self._context_of, self._monotonic_s = chain, context_of, monotonic_s
        self._refresh_s, self._deadline_s, self._shared, self._on_accepted = refresh_s, deadline_s, shared, on_accepted
        self._kept: dict[str, Kept] = {}
        self._asked: dict[str, float] = {}
        self._wanted: set[str] = set()
        self._missing: dict[str, tuple[float, str]] = {}
        self._refreshing = asyncio.Lock()
        self.refusals: deque[Refusal] = deque(maxlen=REFUSALS_KEPT_MAX)

    def offer(self, quote: RawQuote) -> str | None:
        """Take in a quote, of a stream or of a provider; returns the gate's reason where it is refused."""
        context = self._context(quote.symbol)
        reason = check_quote(quote, context)
        if reason is not None:
            self.refusals.append(Refusal(quote, reason, context.now_s))
            return reason
        before, as_of_s = self._kept.get(quote.symbol), quote.as_of_s or 0.0
        since = before.unchanged_since_s if before and same_values(before.quote, quote) else as_of_s
        self._kept[quote.symbol] = Kept(quote, self._monotonic_s(), since)
        self._missing.pop(quote.symbol, None)
        self._on_accepted(quote)
        return None

    async def quotes(self, symbols: Sequence[str]) -> tuple[Mapping[str, RawQuote], Mapping[str, str]]:
        """Quotes of this moment, and why the others are missing."""
        now = self._monotonic_s()
        self._asked |= dict.fromkeys(symbols, now)
        if stale := self._stale(symbols):
            self._wanted.update(stale)
            async with self._refreshing:
                # Whoever waited here finds what the one before has brought, who asked for all that waited.
                if stale := self._stale(symbols):
                    together = [*stale, *sorted(self._wanted.difference(stale))]
                    self._wanted.clear()
                    await self._refresh(self._stale(together))
        held = {symbol: quote for symbol in symbols if (quote := self._believed(symbol))}
        return held, {symbol: self._why_missing(symbol) for symbol in symbols if symbol not in held}

    async def refresh(self) -> None:
        """Bring everything that was asked for lately up to date, and forget the rest."""
        watched = set(self.watched)
        self._asked = {symbol: at for symbol, at in self._asked.items() if symbol in watched}
        self._missing = {symbol: found for symbol, found in self._missing.items() if symbol in watched}
        async with self._refreshing:
            await self._refresh(self._stale(self._asked))

    @property
    def watched(self) -> list[str]:
        """The shares asked for lately."""
        now = self._monotonic_s()
        return sorted(symbol for symbol, at in self._asked.items() if now - at <= ASKED_WITHIN_S)

    def _fresh(self, symbol: str) -> Kept | None:
        kept = self._kept.get(symbol)
        return kept if kept and self._monotonic_s() - kept.received_at <= self._refresh_s else None

    def _believed(self, symbol: str) -> RawQuote | None:
        """The last accepted quote, while the gate would still let it in; after a session no longer than within one."""
        kept, context = self._kept.get(symbol), self._context(symbol)
        if kept is None or self._monotonic_s() - kept.received_at > max(self._refresh_s, context.age_s_max):
            return None
        return kept.quote if check_quote(kept.quote, context) is None else None

    def _why_missing(self, symbol: str) -> str:
        found = self._missing.get(symbol)
        return found[1] if found else "the last quote is too old"

    def _stale(self, symbols: Iterable[str]) -> list[str]:
        """The symbols to ask for: without a fresh quote, and not just found missing."""
        now = self._monotonic_s()
        unknown = {symbol for symbol, (at, _) in self._missing.items() if now - at <= self._refresh_s}
        return [symbol for symbol in dict.fromkeys(symbols) if symbol not in unknown and not self._fresh(symbol)]

    async def _refresh(self, symbols: Sequence[str]) -> None:
        if not symbols:
            return
        if self._shared is not None:
            for symbol, quote in (await self._shared.get(symbols)).items():
                kept = self._kept.get(symbol)
                # What this service itself shared is no news, and must not pass for a fresh quote.
                if kept is None or kept.quote != quote:
                    self.offer(quote)
            symbols = [symbol for symbol in symbols if not self._fresh(symbol)]
        if not symbols:
            return
        answer = await self._chain.quotes(symbols, self._deadline_s, self.offer)
        if self._shared is not None and answer.quotes:
            await self._shared.put(list(answer.quotes.values()))
        now = self._monotonic_s()
        self._missing |= {symbol: (now, reason) for symbol, reason in answer.missing.items() if not self._fresh(symbol)}

    def _context(self, symbol: str) -> QuoteContext:
        kept = self._kept.get(symbol)
        last, since = (kept.quote, kept.unchanged_since_s) if kept else (None, None)
        return self._context_of(symbol, last, since)
