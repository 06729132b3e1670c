"""Who may send what: the standing states of platform, brokers, strategies and users, and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from backend.domain.orders import Intent
from backend.domain.reasons import Reason

DETAIL_LENGTH_MAX = 300


class TradingState(StrEnum):
    """ACTIVE sends everything, REDUCING exits only, HALTED nothing; each is graver than the one before."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class Scope(StrEnum):
    """What a state concerns: everybody, the accounts at one broker, one strategy's orders, one user, or one symbol in
    one account (`holding_key`)."""

    PLATFORM = "platform"
    BROKER = "broker"
    STRATEGY = "strategy"
    USER = "user"
    HOLDING = "holding"


class Cause(StrEnum):
    """Why a state was imposed. `WHAT_TO_DO` says how it ends, `ADMIN_LIFTS` which of them only an admin may end."""

    USER_KILL_SWITCH = "user_kill_switch"
    DAILY_LOSS = "daily_loss"
    REJECTIONS = "rejections"
    ADMIN = "admin"
    ORDER_RATE = "order_rate"
    ORDERS_EXCEED_INTENTS = "orders_exceed_intents"
    BACKUP_RESTORED = "backup_restored"
    UNKNOWN_OWN_ORDER = "unknown_own_order"
    CORPORATE_ACTION = "corporate_action"


DEFECTS = frozenset({Cause.ORDER_RATE, Cause.ORDERS_EXCEED_INTENTS, Cause.BACKUP_RESTORED, Cause.UNKNOWN_OWN_ORDER})
"""Causes that put Sauda's own record in doubt: where they halt, nothing is sold either."""

ADMIN_LIFTS = DEFECTS | {Cause.ADMIN}
"""Causes that only an administrator may lift or loosen."""


def holding_key(account_id: int, symbol: str) -> str:
    """The key of one symbol in one account."""
    return f"{account_id}:{symbol}"


_BY_YOURSELF = "lift it with POST /v1/trading-state/reactivate."
_BY_ADMIN = "an administrator looks into it and lifts it."

WHAT_TO_DO: dict[Cause, str] = {
    Cause.USER_KILL_SWITCH: f"You stopped trading yourself: {_BY_YOURSELF}",
    Cause.DAILY_LOSS: f"The loss limit of the day is reached. If you want to go on, {_BY_YOURSELF}",
    Cause.REJECTIONS: f"Your broker refused several orders in a row. See why under GET /v1/orders, then {_BY_YOURSELF}",
    Cause.ADMIN: f"An administrator stopped trading: {_BY_ADMIN}",
    Cause.ORDER_RATE: f"More orders went out than should have: {_BY_ADMIN}",
    Cause.ORDERS_EXCEED_INTENTS: f"The broker's book shows more orders than were decided: {_BY_ADMIN}",
    Cause.BACKUP_RESTORED: f"The database was restored and is being compared with the brokers' books: {_BY_ADMIN}",
    Cause.UNKNOWN_OWN_ORDER: f"The broker's book shows an order of ours that is not on record: {_BY_ADMIN}",
    Cause.CORPORATE_ACTION: "A corporate action changed what this share is worth in a way no rule can compute: look at "
    f"the holding and its stop and target. If Sauda is to go on with it as it is, {_BY_YOURSELF}",
}
"""What ends a state of each cause, in a sentence or two for the user."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One state that stands. `key`: '' for the platform, else the broker, the strategy, the user's id as text, or
    `holding_key`.

    `flatten`, with HALTED only: exits go out, and open auto-trades are sold. `by`: the user who set it, None for
    the system.
    """

    scope: Scope
    key: str
    state: TradingState
    flatten: bool
    cause: Cause
    detail: str
    since: datetime
    by: int | None


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for one user, strategy and broker, and the standings it follows from, the gravest first."""

    state: TradingState
    flatten: bool
    because: tuple[Standing, ...]


UNRESTRICTED = Effective(TradingState.ACTIVE, False, ())
"""Where nothing stands."""


@dataclass(frozen=True, slots=True)
class Standings:
    """Every state that stands at an instant; ACTIVE leaves none."""

    rows: tuple[Standing, ...]

    def effective(
        self, user_id: int, strategy: str | None, broker: str | None, holding: str | None = None
    ) -> Effective:
        """What holds for an order of this user, strategy, broker and holding; None where it has none, or all are meant.

        An order made by hand has no strategy, so that no strategy's state concerns it.
        """
        if not self.rows:  # nearly always: asked of every user and proposal of a cycle
            return UNRESTRICTED
        keys = {
            Scope.PLATFORM: "",
            Scope.BROKER: broker,
            Scope.STRATEGY: strategy,
            Scope.USER: str(user_id),
            Scope.HOLDING: holding,
        }
        return gravest(row for row in self.rows if row.key == keys[row.scope])


def gravity(state: TradingState, flatten: bool) -> int:
    """Rank of what a state forbids. A halt that flattens lets exits through, so that one which does not is graver."""
    return {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2 if flatten else 3}[state]


def gravest(standings: Iterable[Standing]) -> Effective:
    """The gravest of the states that apply; ACTIVE where none does."""
    ranked = sorted(standings, key=lambda row: gravity(row.state, row.flatten), reverse=True)
    if not ranked:
        return UNRESTRICTED
    return Effective(ranked[0].state, ranked[0].flatten, tuple(ranked))


def permits(effective: Effective, intent: Intent) -> bool:
    """Whether an order may be sent. Cancels are always allowed: nothing asks this for them."""
    if effective.state is TradingState.ACTIVE:
        return True
    return intent is Intent.EXIT and (effective.state is TradingState.REDUCING or effective.flatten)


def held_back(effective: Effective) -> Reason:
    """The reason to give for an order that what stands does not permit."""
    return Reason.TRADING_HALTED if effective.state is TradingState.HALTED else Reason.TRADING_REDUCING


def held_without_stops(open_trades: int) -> str:
    """What a halt without `flatten` means for trades that are open: their stops are exits, and not sent either."""
    if not open_trades:
        return ""
    trades, their = (
        ("1 open trade is", "its stop") if open_trades == 1 else (f"{open_trades} open trades are", "their stops")
    )
    return f"{trades} held without {their} until this is lifted"


def imposed(standing: Standing | None, wanted: Standing) -> Standing | None:
    """What should stand once `wanted` is imposed over what stands for the same scope and key; None for no change.

    Nothing is weakened: the graver state stays, and so does a cause that only an admin may lift, or a user could shed
    it with a kill switch of their own. Over a halt, a flatten request adds the flattening, from whoever could lift
    that halt; a defect ends it.
    """
    if wanted.state is TradingState.ACTIVE or standing is None:
        return None if wanted.state is TradingState.ACTIVE else wanted
    lower = standing.cause in ADMIN_LIFTS and wanted.cause not in ADMIN_LIFTS
    stricter = wanted.cause in ADMIN_LIFTS and standing.cause not in ADMIN_LIFTS
    graver = gravity(wanted.state, False) > gravity(standing.state, False)
    state = wanted.state if graver else standing.state
    flatten = state is TradingState.HALTED and _flattens(standing, wanted, lower)
    tighter = graver or (standing.flatten and not flatten)
    cause = wanted.cause if stricter or (tighter and not lower) else standing.cause
    if (state, flatten, cause) == (standing.state, standing.flatten, standing.cause):
        return None
    detail = wanted.detail if cause is wanted.cause else f"{standing.detail}; {wanted.cause}: {wanted.detail}"
    return replace(wanted, state=state, flatten=flatten, cause=cause, detail=detail[:DETAIL_LENGTH_MAX])


def _flattens(standing: Standing, wanted: Standing, lower: bool) -> bool:
    if standing.state is not TradingState.HALTED:
        return wanted.flatten
    if wanted.state is not TradingState.HALTED or lower:
        return standing.flatten
    return wanted.flatten or (standing.flatten and wanted.cause not in DEFECTS)
