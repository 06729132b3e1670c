"""Fetches the day's corporate actions and instruments: without today's actions no price is on a known scale."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from data_service.chain import Chain, NoAnswerError
from data_service.sessions import ist_date
from data_service.store.base import Upserted
from data_service.store.stores import Stores

log = structlog.get_logger(__name__)

DEADLINE_S = 60.0
BACK, AHEAD = timedelta(days=14), timedelta(days=60)
"""Actions are announced weeks before their ex-date, and corrected for days after it."""

RETRY_S = 300.0
AGAIN_S = 3600.0


async def fetch_actions(chain: Chain, stores: Stores, now: datetime) -> tuple[str, Upserted]:
    """Store the actions around today and note that today's are told; the provider's name and what was new.

    What the provider told of later days and tells no more is forgotten.

    Raises NoAnswerError (also where not one share has an action in all these days: that is no answer of a market),
    StoreError, OSError.
    """
    today = ist_date(now)
    name, actions = await chain.actions(today - BACK, today + AHEAD, DEADLINE_S)
    if actions.is_empty():
        raise NoAnswerError(f"{name} tells no action of any share from {today - BACK} through {today + AHEAD}")
    counts = await asyncio.to_thread(stores.facts.replace_actions, actions, name, today, today + AHEAD)
    await asyncio.to_thread(stores.facts.note_actions_told, today)
    return name, counts


async def keep_facts_fresh(
    chain: Chain,
    stores: Stores,
    clock: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Fetch actions and instruments every hour, and sooner again where nobody answered. Ends only by cancellation."""
    while True:
        wait_s = AGAIN_S
        try:
            name, counts = await fetch_actions(chain, stores, clock())
            log.info("actions_told", provider=name, new=counts.new, changed=counts.changed)
            _, instruments = await chain.instruments(DEADLINE_S)
            await asyncio.to_thread(stores.facts.upsert_instruments, instruments)
        except NoAnswerError as error:
            log.warning("facts_not_told", error=str(error))
            wait_s = RETRY_S
        except Exception:
            log.exception("facts_failed")
            wait_s = RETRY_S
        await sleep(wait_s)
