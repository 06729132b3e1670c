"""Corporate actions, pure: what they make of shares, prices and rupees, so that value and P&L go on unbroken."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import prod

from backend.domain.money import round_paise

LEVELS_FOLLOW_FRACTION = Decimal("0.02")
"""From this part of the price on, a dividend is extraordinary and the levels of open trades follow it: the threshold at
which NSE Clearing adjusts derivatives for a dividend (its "Adjustments for corporate actions": 2 % of market value)."""

_LEVEL_MIN = Decimal("0.05")

PRICE_APART_MAX = Decimal("1.25")
"""The first price on an ex-date and the one told by split and bonus are less than this apart: the widest daily band is
20 %, and on NSE's ex-dates of 2019 to 2024 the opens were between 0.94 and 1.11 of it, the extremes 0.92 and 1.20."""

ONE = Fraction(1)


class ActionKind(StrEnum):
    """What a company did to its shares; the values are those of the wire."""

    SPLIT = "split"
    BONUS = "bonus"
    DIVIDEND = "dividend"
    RIGHTS = "rights"
    DEMERGER = "demerger"
    MERGER = "merger"
    CAPITAL_REDUCTION = "capital_reduction"
    RENAME = "rename"
    OTHER = "other"


RESCALING = frozenset({ActionKind.SPLIT, ActionKind.BONUS})
"""Kinds whose ratio alone says what becomes of shares and prices."""

FLAGGED = frozenset({ActionKind.RIGHTS, ActionKind.DEMERGER, ActionKind.MERGER, ActionKind.CAPITAL_REDUCTION})
"""Kinds after which no arithmetic makes the prices comparable: a person looks."""

_TURN = {
    kind: turn
    for turn, kind in enumerate(
        (ActionKind.DIVIDEND, ActionKind.SPLIT, ActionKind.BONUS, *sorted(FLAGGED), ActionKind.RENAME, ActionKind.OTHER)
    )
}


@dataclass(frozen=True, slots=True)
class CorporateAction:
    """One action of a company. Who held the share at the close before `ex_date` takes part.

    Of `shares_before` shares become `shares_after`; `amount` is a dividend in rupees per share; `close_before` is the
    last price before the ex-date in rupees, on the scale of then, None where it is not known.
    """

    symbol: str
    ex_date: date
    kind: ActionKind
    shares_before: int = 1
    shares_after: int = 1
    amount: Decimal = Decimal(0)
    new_symbol: str = ""
    close_before: Decimal | None = None

    @property
    def key(self) -> str:
        """The action's name: no two of a kind happen to a share on one day."""
        return f"{self.symbol}:{self.ex_date.isoformat()}:{self.kind}"

    @property
    def symbol_after(self) -> str:
        return self.new_symbol if self.kind is ActionKind.RENAME else self.symbol

    @property
    def flagged(self) -> bool:
        """Whether nothing can be computed from it: by its kind, or because its figures are missing."""
        unnamed = self.kind is ActionKind.RENAME and not self.new_symbol
        return self.kind in FLAGGED or unnamed or min(self.shares_before, self.shares_after) < 1

    @property
    def turn(self) -> int:
        """Rank among the actions of one day: a dividend is paid on the shares from before a split of that day."""
        return _TURN[self.kind]

    def price_after(self, price: Decimal) -> Decimal:
        """`price` rupees per share on the new scale, unrounded."""
        return price * self.shares_before / self.shares_after

    @property
    def fraction_price(self) -> Decimal:
        """Rupees per new share at which a fraction is paid out: the last price before the ex-date, on the new scale.

        Raises:
            ValueError: that price is not known.
        """
        if self.close_before is None:
            raise ValueError(f"the price before {self.key} is not known")
        return self.price_after(self.close_before)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a holding becomes: whole shares, the fraction of a share that is paid out, and all rupees paid, in paise."""

    shares: int
    fraction: Fraction
    cash: Decimal


def entitlement(action: CorporateAction, shares: int) -> Entitlement:
    """What `action` makes of `shares` held at the close before its ex-date. Short shares get, and owe, no cash.

    Raises:
        ValueError: a fraction would be paid out, and the price before is not known.
    """
    if action.kind is ActionKind.DIVIDEND:
        return Entitlement(shares, Fraction(0), max(shares, 0) * action.amount)
    if action.kind not in RESCALING:
        return Entitlement(shares, Fraction(0), Decimal(0))
    exact = Fraction(abs(shares) * action.shares_after, action.shares_before)
    whole = int(exact)
    if shares < 0 or exact == whole:
        return Entitlement(-whole if shares < 0 else whole, Fraction(0), Decimal(0))
    fraction = exact - whole
    paid = action.fraction_price * fraction.numerator / fraction.denominator
    return Entitlement(whole, fraction, round_paise(paid))


@dataclass(frozen=True, slots=True)
class Levels:
    """A trade's plan: shares ordered, and the prices it was made at and is left at, rupees per share."""

    quantity: int
    reference: Decimal
    target: Decimal
    stop: Decimal


def levels_after(action: CorporateAction, levels: Levels) -> Levels:
    """A trade's plan after `action`: on the new scale, or lowered by an extraordinary dividend.

    Raises:
        ValueError: a dividend whose weight cannot be told, as the price before is not known.
    """
    if action.kind in RESCALING:
        quantity = levels.quantity * action.shares_after // action.shares_before
        prices = (action.price_after(price) for price in (levels.reference, levels.target, levels.stop))
        return Levels(quantity, *prices)
    if action.kind is ActionKind.DIVIDEND and _is_extraordinary(action):
        lowered = (max(p - action.amount, _LEVEL_MIN) for p in (levels.reference, levels.target, levels.stop))
        return Levels(levels.quantity, *lowered)
    return levels


def _is_extraordinary(action: CorporateAction) -> bool:
    if action.close_before is None:
        raise ValueError(f"the price before {action.key} is not known")
    return action.amount >= LEVELS_FOLLOW_FRACTION * action.close_before


def ratio_of(actions: Iterable[CorporateAction]) -> Fraction:
    """New shares per old one after all splits and bonuses of `actions`; 0 where the figures of one are not known."""
    parts = [a for a in actions if a.kind in RESCALING]
    return prod((Fraction(0) if a.flagged else Fraction(a.shares_after, a.shares_before) for a in parts), start=ONE)


def price_told(actions: Sequence[CorporateAction], close_before: Decimal) -> Decimal:
    """Where a share that closed at `close_before` rupees should trade after `actions`, unrounded."""
    for action in actions:
        close_before = action.price_after(close_before)
    return close_before


def bears_out(price: Decimal, told: Decimal) -> bool:
    """Whether the first price seen after an action, in rupees, can be that of a share told to trade at `told`."""
    return told / PRICE_APART_MAX <= price <= told * PRICE_APART_MAX


def merged(told: Iterable[tuple[str, CorporateAction]]) -> list[CorporateAction]:
    """What (source, action) pairs say together: one action per key, by ex-date and turn.

    A source's own dividends of one day and share are paid together; what several sources tell is one event, also where
    one calls a split what another tells as split and bonus. Where sources contradict each other the action is
    `flagged`. Actions told under a name that the share took on their very ex-date are those of the old name's holders.
    """
    pairs = list(told)
    was = {(a.ex_date, a.new_symbol): a.symbol for _, a in pairs if a.kind is ActionKind.RENAME and a.new_symbol}
    events: dict[tuple[date, str, str], dict[str, list[CorporateAction]]] = {}
    for source, action in pairs:
        symbol = was.get((action.ex_date, action.symbol), action.symbol)
        symbol = action.symbol if action.kind is ActionKind.RENAME else symbol
        event = "scale" if action.kind in RESCALING else action.kind.value
        of_event = events.setdefault((action.ex_date, symbol, event), {})
        of_event.setdefault(source, []).append(replace(action, symbol=symbol))
    found = [action for by_source in events.values() for action in _agreed(by_source)]
    return sorted(found, key=lambda action: (action.ex_date, action.turn, action.symbol))


def _agreed(by_source: Mapping[str, list[CorporateAction]]) -> list[CorporateAction]:
    """One event of a share, from the source that tells most of it; flagged where another tells it otherwise."""
    told = {source: _of_one_source(actions) for source, actions in sorted(by_source.items())}
    most = max(told.values(), key=lambda actions: (len(actions), any(a.kind is ActionKind.BONUS for a in actions)))
    meant = {(ratio_of(a), sum(x.amount for x in a), frozenset(x.new_symbol for x in a)) for a in told.values()}
    return most if len(meant) == 1 else [_contradicted(action) for action in most]


def _of_one_source(actions: Sequence[CorporateAction]) -> list[CorporateAction]:
    found: dict[str, CorporateAction] = {}
    for action in actions:
        known = found.get(action.key)
        if known is None:
            found[action.key] = action
        elif action.kind is ActionKind.DIVIDEND:
            found[action.key] = replace(known, amount=known.amount + action.amount)
        elif known != action:
            found[action.key] = _contradicted(known)
    return list(found.values())


def _contradicted(action: CorporateAction) -> CorporateAction:
    return replace(action, shares_before=0, new_symbol="")
