"""Verifying the audit log: every hash computed again from what stands there, and the chain followed to its head.

The owner of the database can change an entry and chain all later ones anew: only an anchor (number and hash), noted
where that owner does not write, tells it. `keep_anchoring` logs one a day; logs go elsewhere.
"""

import asyncio
import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from backend.db import OPERATOR_ROLE, Sessions, acting_as
from backend.models import AuditHead

BATCH_ROWS = 1000
ANCHOR_EVERY_S = 86_400.0
ANCHOR_RETRY_S = 60.0
GENESIS = hashlib.sha256(b"sauda").digest()
"""The hash before the first entry (migration 0006)."""

# As the trigger of migration 0006 computes it, from the columns as they stand now.
_ENTRIES = text("""
    SELECT id, previous_hash, hash, sha256(previous_hash || convert_to(json_build_array(
               id, extract(epoch FROM at), actor, actor_id, ip, action, subject_id,
               target, before, after, reason)::text, 'UTF8')) AS again
      FROM audit_log WHERE id > :after AND id <= :until ORDER BY id LIMIT :rows
""")
# In one statement, so that whoever writes meanwhile is in all of it or in none.
_ENDS = text("""
    SELECT h.entry_id, h.hash, (SELECT min(id) FROM audit_log) AS lowest, (SELECT max(id) FROM audit_log) AS highest
      FROM audit_head h
""")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Anchor:
    """An entry's number and hash, as somebody noted them."""

    entry_id: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.entry_id}:{self.hash.hex()}"


def read_anchor(given: str) -> Anchor:
    """An anchor as `str` writes it.

    Raises:
        ValueError: it is none.
    """
    number, _, digest = given.strip().partition(":")
    if not (number.isascii() and number.isdecimal() and len(digest) == 64 and set(digest) <= set(string.hexdigits)):
        raise ValueError("an anchor is a number, a colon and a hash of 64 hexadecimal digits")
    return Anchor(int(number), bytes.fromhex(digest))


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many entries hold, in order from the first; `broken` says what is wrong with the next, None where nothing is.

    `head` is the newest entry, to be noted as an anchor.
    """

    entries: int
    head: Anchor
    broken: str | None


async def head_of(sessions: Sessions) -> Anchor:
    """The newest entry; number 0 in an empty log. `sessions` work as the operator."""
    async with sessions() as session:
        row = (await session.execute(select(AuditHead.entry_id, AuditHead.hash))).one()
    return Anchor(row.entry_id, row.hash)


async def verify(
    sessions: Sessions, expected: Anchor | None = None, progress: Callable[[int], None] = lambda _: None
) -> Verdict:
    """Follow the chain from the first entry to the head as it stood at the start, while others go on writing.

    Args:
        expected: an entry as it was noted earlier, elsewhere.
        progress: hears how many entries hold so far, after each batch.
    """
    last, at = GENESIS, 0
    async with sessions() as session:
        ends = (await session.execute(_ENDS)).one_or_none()
    if ends is None:
        return Verdict(0, Anchor(0, GENESIS), "the head is gone")
    head = Anchor(ends.entry_id, ends.hash)
    if ends.lowest is not None and ends.lowest < 1:
        return Verdict(0, head, f"entry {ends.lowest} stands before the first")
    if ends.highest is not None and ends.highest > head.entry_id:
        return Verdict(0, head, f"entry {ends.highest} stands beyond the head, {head.entry_id}")
    while at < head.entry_id:
        async with sessions() as session:
            rows = (await session.execute(_ENTRIES, {"after": at, "until": head.entry_id, "rows": BATCH_ROWS})).all()
        for row in rows:
            broken = _broken(row.id, at + 1, row.previous_hash == last, row.hash == row.again)
            if broken is None and expected is not None and row.id == expected.entry_id:
                broken = None if row.hash == expected.hash else f"entry {row.id} is not what was noted of it"
            if broken is not None:
                return Verdict(at, head, broken)
            last, at = row.hash, row.id
        if not rows:
            return Verdict(at, head, f"entry {at + 1} is missing, and all after it: the head is {head.entry_id}")
        progress(at)
    if last != head.hash:
        return Verdict(at, head, f"entry {at} is not the one that the head tells of")
    if expected is not None and expected.entry_id > at:
        return Verdict(at, head, f"entry {expected.entry_id} was noted and is missing: the log ends at {at}")
    return Verdict(at, head, None)


def _broken(found_id: int, due_id: int, chained: bool, unchanged: bool) -> str | None:
    if found_id != due_id:
        return f"entry {due_id} is missing"
    if not chained:
        return f"entry {found_id} does not follow the one before it: one of them was replaced"
    return None if unchanged else f"entry {found_id} was changed"


async def keep_anchoring(sessions: Sessions) -> None:
    """Log the head at the start and once a day until it is cancelled; `sessions` are the API's."""
    with acting_as(OPERATOR_ROLE):
        while True:
            try:
                head = await head_of(sessions)
                log.info("audit_anchor", anchor=str(head))
                pause = ANCHOR_EVERY_S
            except (SQLAlchemyError, OSError) as error:
                log.warning("audit_anchor_failed", error=repr(error))
                pause = ANCHOR_RETRY_S
            await asyncio.sleep(pause)
