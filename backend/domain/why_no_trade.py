"""Why a user got no entry on a day, in one sentence: the facts of the day, and a pure rule that weighs them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from backend.domain.reasons import NEXT_STEP, Reason


@dataclass(frozen=True, slots=True)
class DayFacts:
    """What is on record of one user's day. All counts are of that day; `blocking` is what stands in the way now.

    `denied` and `skipped` count recorded refusals, `last_cycle` the symbols' reasons in the day's last cycle, which
    leaves nothing out; `problems` the cycles to which a batch (quotes, predictions) did not come.
    """

    day: date
    today: date
    session: bool
    user_active: bool
    entries_sent: int
    entries_filled: int
    auto_trades_per_day: int
    account_ready: bool
    enabled: bool
    blocking: tuple[tuple[str, str], ...] = ()
    cycles_done: int = 0
    cycles_missed: int = 0
    denied: Mapping[str, int] = field(default_factory=dict[str, int])
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    last_cycle: Mapping[str, int] = field(default_factory=dict[str, int])
    problems: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Verdict:
    """The most likely cause, as a stable code and a sentence, and what to do about it."""

    code: str
    cause: str
    next_step: str


HELD = frozenset({Reason.TRADING_HALTED.value, Reason.TRADING_REDUCING.value})


def verdict(facts: DayFacts) -> Verdict:
    """The most likely cause: first what rules out every entry, then what the day's cycles said most often."""
    return _none_asked_for(facts) or _not_possible(facts) or _no_cycles(facts) or _most_often(facts)


def _none_asked_for(facts: DayFacts) -> Verdict | None:
    """It did trade, or there was nothing to trade on."""
    if facts.entries_filled:
        return Verdict(
            "traded",
            f"It did trade: {facts.entries_filled} entries were filled.",
            "Nothing to do; GET /v1/auto-trading/trades of the user shows them.",
        )
    if facts.day > facts.today:
        return Verdict("day_to_come", "The day is yet to come.", "Ask again when it is over.")
    if not facts.session:
        return Verdict(
            "market_closed",
            "There was no session on this day.",
            "If the exchange was open, correct the day with POST /v1/admin/calendar-overrides.",
        )
    if facts.entries_sent:
        return Verdict(
            "not_filled",
            f"{facts.entries_sent} entries were sent, and none was filled.",
            "Look at the user's orders for the broker's answer; a limit price may have been left behind.",
        )
    return None


def _not_possible(facts: DayFacts) -> Verdict | None:
    """What keeps every entry of the user from being made, the most fundamental first."""
    if not facts.user_active:
        return Verdict(
            "user_inactive",
            "The user is switched off.",
            "Activate the user with POST /v1/admin/users/{user_id}/activate.",
        )
    if not facts.auto_trades_per_day:
        return Verdict(
            "plan_required",
            "The user's plan has no auto-trades.",
            "The user asks for another plan, or you give one with POST /v1/admin/users/{user_id}/subscription.",
        )
    if not facts.account_ready:
        return Verdict(
            "no_account",
            "The user has no broker account that is ready.",
            "The user opens one with POST /v1/broker-accounts, or switches it on.",
        )
    if not facts.enabled:
        return Verdict(
            "auto_trading_disabled",
            "The user has not switched auto-trading on.",
            "The user switches it on with POST /v1/auto-trading/enable.",
        )
    held = next(((code, step) for code, step in facts.blocking if code in HELD), None)
    if held is not None and facts.day == facts.today:
        return Verdict(held[0], "What stands now holds trading back.", held[1])
    return None


def _no_cycles(facts: DayFacts) -> Verdict | None:
    if facts.cycles_done:
        return None
    if facts.cycles_missed:
        return Verdict(
            "cycles_missed",
            f"All {facts.cycles_missed} cycles of the day were missed.",
            "See in the trader's log why it did not run: GET /health says what is in the way now.",
        )
    return Verdict(
        "no_cycles",
        "No cycle ran on this day.",
        "Check that a trader runs (TRADER_ENABLED), and that the day's records are still kept (DECISIONS_KEPT_DAYS).",
    )


def _most_often(facts: DayFacts) -> Verdict:
    """What the cycles said: skipping the user outweighs all else, then a missing batch, then refused orders, and last
    why no symbol was a candidate."""
    half = facts.cycles_done / 2
    skipped = _top(facts.skipped)
    if skipped is not None and facts.skipped[skipped] >= half:
        return _of_reason(skipped, f"The user was passed over in {facts.skipped[skipped]} cycles")
    batch = _top(facts.problems)
    if batch is not None and facts.problems[batch] >= half:
        return Verdict(
            f"no_{batch}",
            f"{facts.problems[batch]} of {facts.cycles_done} cycles got no {batch}.",
            "See GET /v1/admin/cycles/last for what the service answered, and whether it runs.",
        )
    denied = _top(facts.denied)
    if denied is not None:
        return _of_reason(denied, f"Of what was considered, most was refused ({facts.denied[denied]} times)")
    if skipped is not None:
        return _of_reason(skipped, f"The user was passed over in {facts.skipped[skipped]} cycles")
    rejected = _top(facts.last_cycle)
    if rejected is not None:
        return _of_reason(rejected, f"No symbol was a candidate; in the last cycle {facts.last_cycle[rejected]} had")
    return Verdict(
        "no_candidates",
        f"{facts.cycles_done} cycles ran, and none had a candidate for the user.",
        "See the user's decisions for each symbol's reason: GET /v1/auto-trading/decisions.",
    )


def _top(counts: Mapping[str, int]) -> str | None:
    """The most frequent, the first by name among equals; None where there is none."""
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def _of_reason(code: str, what: str) -> Verdict:
    step = NEXT_STEP[Reason(code)] if code in NEXT_STEP else "See the user's decisions."
    return Verdict(code, f"{what}: {code.replace('_', ' ')}.", step)
