"""Which strategies there are, and what each mode's record with each of them is: from the models' cards and the public
scoreboard."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from backend.domain.modes import Mode
from backend.errors import InvalidRequestError, SaudaError
from backend.services.ml_service_client import MlServiceClient
from backend.services.model_cards import Interval, ModeCard, ModelCard
from contracts.scoreboard import ModeScore, ScoreboardReply

log = structlog.get_logger()

RECORD_TIMEOUT_S = 1.0
CERTIFIED, HELD, INSUFFICIENT, REFUSED = "certified", "held", "insufficient_evidence", "refused"


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """What a mode would have taken of a strategy's out-of-sample predictions, and how those plans ended.

    `state`: certified (the mode may trade on it), held (it may not for now), insufficient_evidence or refused;
    `reason` says why it is not certified. `hit_rate` and `net_return` are fractions, `trades` and `episodes` counts.
    """

    state: str
    reason: str | None
    trades: int
    episodes: int
    hit_rate: Interval | None
    net_return: Interval | None


@dataclass(frozen=True, slots=True)
class StrategyRecord:
    """One strategy of one current model; `plan` is the sessions of its horizon, or `intraday`."""

    strategy: str
    plan: str
    model_version: str
    modes: Mapping[Mode, ModeRecord]


async def strategy_records(ml_service: MlServiceClient) -> tuple[StrategyRecord, ...]:
    """Every strategy of every current model, by plan and name.

    Raises:
        UpstreamError, SaudaError: as MlServiceClient.
    """
    return await records_of(ml_service, await ml_service.current_cards())


async def records_of(ml_service: MlServiceClient, cards: Mapping[str, ModelCard]) -> tuple[StrategyRecord, ...]:
    """The cards' record, with what the monitor has held since. Raises as strategy_records."""
    boards = await asyncio.gather(*(ml_service.scoreboard(card.manifest.horizon_sessions) for card in cards.values()))
    return with_holds(cards, dict(zip(cards, boards, strict=True)))


def with_holds(cards: Mapping[str, ModelCard], boards: Mapping[str, ScoreboardReply]) -> tuple[StrategyRecord, ...]:
    """Every strategy of the cards, by plan and name, with what its plan's scoreboard holds."""
    held = {
        (plan, score.strategy, score.mode): score
        for plan, board in boards.items()
        for score in board.modes
        if score.state == HELD
    }
    return tuple(
        StrategyRecord(
            name,
            plan,
            card.version,
            {
                mode: _record(strategy.modes[mode.value], held.get((plan, name, mode.value)))
                for mode in Mode
                if mode.value in strategy.modes
            },
        )
        for plan, card in sorted(cards.items())
        for name, strategy in sorted(card.manifest.strategies.items())
    )


def _record(card: ModeCard, held: ModeScore | None) -> ModeRecord:
    if not card.certified:
        state, reason = (INSUFFICIENT if card.verdict == INSUFFICIENT else REFUSED), card.verdict
    elif held is not None:
        state, reason = HELD, held.reason
    else:
        state, reason = CERTIFIED, None
    return ModeRecord(state, reason, card.candidates, card.episodes, card.hit_rate, card.net)


async def records_or_note(ml_service: MlServiceClient) -> tuple[tuple[StrategyRecord, ...], str | None]:
    """The records for an answer that stands without them, and why there are none; waits RECORD_TIMEOUT_S at most."""
    try:
        async with asyncio.timeout(RECORD_TIMEOUT_S):
            return await strategy_records(ml_service), None
    except (SaudaError, TimeoutError) as error:
        log.warning("strategy_records_missing", error=repr(error))
        return (), "The prediction service did not answer: the strategies' record is not shown now."


async def require_strategies(ml_service: MlServiceClient, wanted: list[str]) -> None:
    """Check that each is a strategy of a current model; while ml_service does not answer, none is refused.

    Raises:
        InvalidRequestError: one is not; the detail names it and those there are.
    """
    if not wanted:
        return
    try:
        async with asyncio.timeout(RECORD_TIMEOUT_S):
            cards = await ml_service.current_cards()
    except (SaudaError, TimeoutError) as error:
        log.warning("strategies_not_checked", error=repr(error))
        return
    known = sorted({name for card in cards.values() for name in card.manifest.strategies})
    unknown = [name for name in wanted if name not in known]
    if known and unknown:
        raise InvalidRequestError(
            f"No such strategies: {', '.join(unknown)}. There are {', '.join(known)}.", code="unknown_strategy"
        )
