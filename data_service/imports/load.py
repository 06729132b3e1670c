"""Imports one file into the store: all of it, or, on request, its good rows."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from contracts.market import Interval
from data_service.imports.checked import read_checked
from data_service.imports.formats import ACTIONS
from data_service.imports.source import BadRow
from data_service.ingest import Gate, Ingested
from data_service.instruments import load_reference
from data_service.sessions import Sessions, ist_instant
from data_service.store.stores import Stores


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one file. `imported` is False where bad rows kept all of it out."""

    kind: str
    interval: Interval | None
    imported: bool
    result: Ingested
    bad: list[BadRow]
    notes: list[str]


def import_file(
    stores: Stores,
    sessions: Sessions,
    path: Path,
    *,
    now_s: int,
    kind: str | None = None,
    interval: Interval | None = None,
    said_on: date | None = None,
    skip_bad_rows: bool = False,
) -> Imported:
    """Read, check and store one file; with any bad row nothing is stored unless `skip_bad_rows`.

    Bars that are readable but not to be believed are quarantined one by one (data_service.checks). `now_s` is the
    present in seconds since the epoch.

    Raises ImportRefusedError (unreadable or unknown file), StoreError (damaged store), OSError.
    """
    checked = read_checked(path, sessions, said_on=said_on or ist_instant(now_s).date(), kind=kind, interval=interval)
    if checked.bad and not skip_bad_rows:
        return Imported(checked.kind, checked.interval, False, Ingested(), checked.bad, checked.notes)
    if checked.interval is None:
        actions = stores.facts.upsert_actions(checked.rows)
        if checked.kind == ACTIONS:
            stores.facts.note_actions_told(ist_instant(now_s).date())
        result = Ingested(actions + stores.facts.upsert_instruments(checked.instruments))
    else:
        result = Gate(stores, sessions, load_reference()).ingest(checked.interval, checked.rows, now_s)
        stores.facts.upsert_instruments(checked.instruments)
    return Imported(checked.kind, checked.interval, True, result, checked.bad, checked.notes)
