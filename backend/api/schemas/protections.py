"""Protections on the wire: a user's rules, the same shape in requests and replies, and what they bar now."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, PlainSerializer

from backend.api.schemas.common import Body, Reply
from backend.domain.protections import (
    COUNT_MAX,
    DRAWDOWN_FRACTION_LEAST,
    LOOKBACK_SESSIONS_MAX,
    PAUSE_SESSIONS_MAX,
    RETURN_FRACTION_LEAST,
    Block,
    Cooldown,
    LowProfit,
    MaxDrawdown,
    Protections,
    StoplossGuard,
)

_COOLDOWN, _GUARD, _DRAWDOWN, _LOW_PROFIT = Cooldown(), StoplossGuard(), MaxDrawdown(), LowProfit()

LookbackSessions = Annotated[
    int, Field(strict=True, ge=1, le=LOOKBACK_SESSIONS_MAX, description="Trades closed in that many sessions count.")
]
PauseSessions = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=PAUSE_SESSIONS_MAX,
        description="Whole sessions without entries after the one that set the rule off.",
    ),
]
Count = Annotated[int, Field(strict=True, ge=1, le=COUNT_MAX)]
_AS_NUMBER = PlainSerializer(float, return_type=float)
DrawdownFraction = Annotated[Decimal, Field(ge=DRAWDOWN_FRACTION_LEAST, le=1, decimal_places=4), _AS_NUMBER]
ReturnFraction = Annotated[Decimal, Field(ge=RETURN_FRACTION_LEAST, le=1, decimal_places=4), _AS_NUMBER]


class CooldownRule(Body):
    """After a trade closed, its symbol is not entered; `stops_only`: after a stop alone."""

    pause_sessions: PauseSessions = _COOLDOWN.pause_sessions
    stops_only: Annotated[bool, Field(strict=True)] = _COOLDOWN.stops_only


class StoplossGuardRule(Body):
    """As many losing stops bar every entry; `symbol_stops_min` of one symbol's own bar that symbol."""

    lookback_sessions: LookbackSessions = _GUARD.lookback_sessions
    stops_min: Count = _GUARD.stops_min
    symbol_stops_min: Count | None = _GUARD.symbol_stops_min
    pause_sessions: PauseSessions = _GUARD.pause_sessions


class MaxDrawdownRule(Body):
    """A fall of realized P&L from its peak by more than a fraction of the funds before bars every entry."""

    lookback_sessions: LookbackSessions = _DRAWDOWN.lookback_sessions
    trades_min: Count = _DRAWDOWN.trades_min
    drawdown_fraction_max: DrawdownFraction = _DRAWDOWN.drawdown_fraction_max
    pause_sessions: PauseSessions = _DRAWDOWN.pause_sessions


class LowProfitRule(Body):
    """A symbol whose trades returned less than a fraction of what they used is not entered."""

    lookback_sessions: LookbackSessions = _LOW_PROFIT.lookback_sessions
    trades_min: Count = _LOW_PROFIT.trades_min
    return_fraction_min: ReturnFraction = _LOW_PROFIT.return_fraction_min
    pause_sessions: PauseSessions = _LOW_PROFIT.pause_sessions


class ProtectionRules(Body):
    """A rule or number left out is the default's; null switches a rule off."""

    cooldown: CooldownRule | None = CooldownRule()
    stoploss_guard: StoplossGuardRule | None = StoplossGuardRule()
    max_drawdown: MaxDrawdownRule | None = MaxDrawdownRule()
    low_profit: LowProfitRule | None = LowProfitRule()

    def rules(self) -> Protections:
        return Protections(
            cooldown=Cooldown(**_fields(self.cooldown)) if self.cooldown else None,
            stoploss_guard=StoplossGuard(**_fields(self.stoploss_guard)) if self.stoploss_guard else None,
            max_drawdown=MaxDrawdown(**_fields(self.max_drawdown)) if self.max_drawdown else None,
            low_profit=LowProfit(**_fields(self.low_profit)) if self.low_profit else None,
        )

    @classmethod
    def of(cls, rules: Protections) -> "ProtectionRules":
        return cls.model_validate(rules, from_attributes=True)


def _fields(rule: Body) -> dict[str, Any]:
    """The rule's own values: a dump would turn its fractions into floats."""
    return {name: getattr(rule, name) for name in type(rule).model_fields}


class ActiveProtection(Reply):
    """`symbol` is null where every entry is barred; from the session of `until` on entries are made again."""

    rule: str
    symbol: str | None
    until: date
    detail: str

    @classmethod
    def of(cls, block: Block) -> "ActiveProtection":
        return cls(rule=block.rule.value, symbol=block.symbol, until=block.until, detail=block.detail)
