"""Which registered model serves which plan, and how it came to: one small pointer file and one append-only history.

A plan is the horizon in sessions as a string, or `intraday`. `current.<environment>.json` maps it to its slot;
`history.<environment>.jsonl` has a line per change. The line is written first: no change is ever unrecorded. Where a
crash comes between the two, the pointer file is the truth.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from contracts.common import Environment
from ml_service.files import append_line, locked, read_bounded, read_tail, replace_file

POINTER_BYTES_MAX = 64_000
HISTORY_BYTES_MAX = 1_000_000
REASON_CHARS_MAX = 500
INTRADAY = "intraday"
VERSION = re.compile(r"[0-9a-f]{64}")
_PLAN = re.compile(rf"[1-9][0-9]?|{INTRADAY}")


class PointerError(Exception):
    """The pointer or history file cannot be read or changed; the message says why."""


class Event(StrEnum):
    """What happened to a plan's slot."""

    PROMOTED = "promoted"
    DEMOTED = "demoted"
    SHADOW_STARTED = "shadow_started"
    SHADOW_DROPPED = "shadow_dropped"


@dataclass(frozen=True)
class Slot:
    """The models of one plan, as full versions: `current` answers; `shadow` is served silently beside it since the day
    `shadow_since`; `previous` comes back where `current` is demoted."""

    current: str | None = None
    shadow: str | None = None
    shadow_since: date | None = None
    previous: str | None = None

    def to_json(self) -> dict[str, str | None]:
        since = self.shadow_since.isoformat() if self.shadow_since else None
        return asdict(self) | {"shadow_since": since}

    @staticmethod
    def from_json(data: Any) -> "Slot":
        """Raises ValueError, TypeError. A bare version is a slot of an earlier release, which had nothing else."""
        fields = {"current": data} if isinstance(data, str) else dict(data)
        since = fields.pop("shadow_since", None)
        slot = Slot(**fields, shadow_since=None if since is None else date.fromisoformat(since))
        for version in (slot.current, slot.shadow, slot.previous):
            if version is not None and not VERSION.fullmatch(version):
                raise ValueError("a version is 64 hexadecimal digits")
        return slot


@dataclass(frozen=True)
class Change:
    """A new slot for a plan. `version`: whom it is about; `by`: "operator", "training" or "rule:…"."""

    event: Event
    version: str
    by: str
    reason: str
    slot: Slot


@dataclass(frozen=True)
class Entry:
    """One line of the history: a change, when it was made, and the slot before it."""

    at: datetime
    plan: str
    change: Change
    before: Slot

    def to_json(self) -> dict[str, Any]:
        change = self.change
        return {
            "at": self.at.isoformat(),
            "plan": self.plan,
            "event": change.event.value,
            "version": change.version,
            "by": change.by,
            "reason": change.reason,
            "before": self.before.to_json(),
            "after": change.slot.to_json(),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Entry":
        """Raises ValueError, TypeError, KeyError."""
        change = Change(
            Event(data["event"]), data["version"], data["by"], data["reason"], Slot.from_json(data["after"])
        )
        return Entry(datetime.fromisoformat(data["at"]), data["plan"], change, Slot.from_json(data["before"]))


class Pointers:
    """The slots under one registry folder. Any number of readers and writers, in any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, environment: Environment) -> Path:
        """The pointer file."""
        return self.root / f"current.{environment.value}.json"

    def history_path(self, environment: Environment) -> Path:
        """The history file."""
        return self.root / f"history.{environment.value}.jsonl"

    def slots(self, environment: Environment) -> dict[str, Slot]:
        """Plan → slot. Raises PointerError where the file is there and cannot be read."""
        path = self.path(environment)
        try:
            entries = json.loads(read_bounded(path, POINTER_BYTES_MAX))
            return {_plan(plan): Slot.from_json(slot) for plan, slot in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PointerError(f"{path.name} is unreadable") from error

    def history(self, environment: Environment) -> list[Entry]:
        """The newest changes, oldest first, of the last megabyte. A torn line is left out. Raises PointerError."""
        try:
            lines = read_tail(self.history_path(environment), HISTORY_BYTES_MAX).splitlines()
        except OSError as error:
            raise PointerError(f"{self.history_path(environment).name} cannot be read: {error.strerror}") from error
        return [entry for entry in map(_entry, lines) if entry is not None]

    def change(
        self, environment: Environment, plan: str, at: datetime, decide: Callable[[Slot], Change | str]
    ) -> Change | str:
        """Let `decide` see the plan's slot and make its change, alone: no other change comes in between.

        `decide` answers with a change, or with why there is none, which is returned. `at` is an aware instant.
        Raises PointerError; ValueError for a plan or an instant that is none. What `decide` raises goes through.
        """
        if at.tzinfo is None:
            raise ValueError("the instant of a change needs its zone")
        _plan(plan)
        try:
            with locked(self.root / ".lock"):
                slots = self.slots(environment)
                before = slots.get(plan, Slot())
                change = decide(before)
                if isinstance(change, Change):
                    change = replace(change, reason=change.reason[:REASON_CHARS_MAX])
                    line = json.dumps(Entry(at, plan, change, before).to_json(), sort_keys=True, ensure_ascii=False)
                    append_line(self.history_path(environment), line.encode())
                    self._write(environment, slots | {plan: change.slot})
                return change
        except OSError as error:
            raise PointerError(f"{self.path(environment).name} cannot be changed: {error}") from error

    def _write(self, environment: Environment, slots: dict[str, Slot]) -> None:
        data = {plan: slot.to_json() for plan, slot in slots.items()}
        replace_file(self.path(environment), json.dumps(data, sort_keys=True, indent=1).encode() + b"\n")


def _plan(text: str) -> str:
    if not _PLAN.fullmatch(text):
        raise ValueError(f"a plan is 1 to 99 sessions or {INTRADAY}")
    return text


def _entry(line: bytes) -> Entry | None:
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
