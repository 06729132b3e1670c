"""Several writers share one folder: what one reads before it writes must not be older than the other's last word."""

import fcntl
import weakref
from datetime import date, timedelta
from threading import Thread

import polars as pl
import pytest
from data_market import at_s, frame, short_calendar

from contracts.market import Interval
from data_service.adjust import factors_of
from data_service.files import exclusive
from data_service.instruments import InstrumentMaster
from data_service.store.facts import Facts
from data_service.store.frames import Decoder
from data_service.store.schemas import ACTION_SCHEMA, INSTRUMENT_SCHEMA, QUARANTINE_SCHEMA
from data_service.store.stores import embedded

DAY = date(2024, 3, 18)


class Watched(Facts):
    """Facts that note at each reading whether the folder's lock is held."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.held: list[bool] = []

    def _note(self) -> None:
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.held.append(True)
            else:
                self.held.append(False)

    def instruments(self) -> pl.DataFrame:
        self._note()
        return super().instruments()

    def findings(self) -> pl.DataFrame:
        self._note()
        return super().findings()


def instrument(**fields) -> pl.DataFrame:
    return pl.DataFrame([{"symbol": "ACME", "known_on": DAY, "source": "nse", **fields}], schema=INSTRUMENT_SCHEMA)


def finding(close: int, found_at: int) -> pl.DataFrame:
    bar = {"symbol": "ACME", "start": at_s("2024-03-18 09:15"), "close": close, "source": "nse", "interval": "1d"}
    said = {"reason": "outlier", "detail": f"close {close}", "found_at": found_at, "quarantined": True}
    return pl.DataFrame([bar | said], schema=QUARANTINE_SCHEMA)


def bonus(subject: str, before: int, after: int) -> pl.DataFrame:
    row = {"symbol": "ACME", "ex_date": DAY, "known_on": DAY, "kind": "bonus", "subject": subject, "source": "nse"}
    return pl.DataFrame([row | {"shares_before": before, "shares_after": after}], schema=ACTION_SCHEMA)


@pytest.mark.parametrize(
    "write",
    [lambda facts: facts.upsert_instruments(instrument(name="Acme")), lambda facts: facts.add_findings(finding(1, 1))],
    ids=["instruments", "findings"],
)
def test_what_is_written_over_is_read_while_nobody_else_can_write(tmp_path, write):
    facts = Watched(tmp_path)
    write(facts)
    assert facts.held
    assert all(facts.held)


def test_the_note_of_a_day_waits_for_whoever_clears_away_half_written_files(tmp_path):
    facts = Facts(tmp_path)
    note = Thread(target=facts.note_actions_told, args=(DAY,))
    with exclusive(tmp_path):
        note.start()
        note.join(0.2)
        assert note.is_alive()
        assert facts.actions_told() is None
    note.join()
    assert facts.actions_told() == DAY


def test_a_corrected_ratio_takes_the_place_of_the_one_before(tmp_path):
    facts = Facts(tmp_path)
    facts.upsert_actions(bonus("Bonus 1:1", 1, 2))
    facts.upsert_actions(bonus("Bonus 1:2", 2, 3))
    assert facts.actions()["subject"].to_list() == ["Bonus 1:2"]
    assert factors_of(facts.actions(), DAY).factor.tolist() == [pytest.approx(2 / 3)]


def test_a_split_and_a_bonus_of_one_day_both_stay(tmp_path):
    facts = Facts(tmp_path)
    split = bonus("Split 10 to 5", 1, 2).with_columns(kind=pl.lit("split"))
    facts.upsert_actions(pl.concat([bonus("Bonus 1:1", 1, 2), split]))
    facts.upsert_actions(split)
    assert factors_of(facts.actions(), DAY).factor.tolist() == [0.25]


def test_an_action_put_off_is_forgotten_on_its_first_day_and_nothing_else_is(tmp_path):
    facts, ahead = Facts(tmp_path), timedelta(days=60)
    first, second = (bonus("Bonus 1:1", 1, 2).with_columns(ex_date=DAY + timedelta(days=days)) for days in (7, 14))
    renamed = first.with_columns(kind=pl.lit("rename"), subject=pl.lit("ACME is NEW"), new_symbol=pl.lit("NEW"))
    own = first.with_columns(source=pl.lit("file"), subject=pl.lit("factor 0.5"))
    today, beyond = bonus("Bonus", 1, 2), bonus("Bonus", 1, 2).with_columns(ex_date=DAY + timedelta(days=61))
    facts.upsert_actions(pl.concat([today, first, renamed, own, beyond]))
    counts = facts.replace_actions(second, "nse", DAY, DAY + ahead)
    expected = pl.concat([today, second, renamed, own, beyond])
    assert (counts.new, len(facts.actions())) == (1, 5)
    assert sorted(facts.actions().rows(), key=str) == sorted(expected.rows(), key=str)
    facts.replace_actions(second, "nse", DAY + timedelta(days=14), DAY + ahead + timedelta(days=14))
    assert len(facts.actions()) == 4, "the day itself is over, what lies beyond is not told any more"


def test_of_a_bar_found_wrong_again_the_newest_values_wait_for_another_look(tmp_path):
    facts = Facts(tmp_path)
    facts.add_findings(finding(900, 10))
    facts.add_findings(finding(910, 20))
    assert facts.findings().select("close", "found_at").rows() == [(910, 10)]


def test_of_a_part_that_is_written_every_minute_only_one_state_is_in_memory(tmp_path):
    calendar, stores = short_calendar(), embedded(tmp_path)
    part = Interval.MIN_1, 2019
    decoder = Decoder(calendar, InstrumentMaster(pl.DataFrame(schema=INSTRUMENT_SCHEMA), {}))
    states = []
    for minute in range(3):
        stores.bars.upsert(part[0], frame([("AAA", calendar.all[0].open_s + 60 * minute, 100, 100, 100, 100, 5)]))
        decoded = decoder.year(stores.bars, part, stores.bars.stamps()[part])
        assert len(decoded.bars) == minute + 1
        assert decoder.year(stores.bars, part, stores.bars.stamps()[part]) is decoded
        states.append(weakref.ref(decoded))
        del decoded
    assert [state() is None for state in states] == [True, True, False]
