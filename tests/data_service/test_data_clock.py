"""The simulated clock: pure mapping, no going back, and a restart that continues."""

from datetime import date

import pytest
from data_market import at, session, short_calendar
from hypothesis import given
from hypothesis import strategies as st

from data_service.clock import Identity, ProgressFile, SimulatedClock, Timeline
from data_service.errors import ConfigError
from data_service.sessions import Sessions

IDENTITY = Identity(7, 1.0, date(2019, 1, 1))
FULL_SESSION_S = 375 * 60 + 60 + 600


class Monotonic:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def progress(folder, identity=IDENTITY) -> ProgressFile:
    return ProgressFile(folder / "clock.json", identity)


def test_begins_a_minute_before_the_first_session_on_or_after_the_start():
    timeline = Timeline(short_calendar(), date(2019, 1, 5))
    assert timeline.instant(0) == at("2019-01-07 09:14")
    assert timeline.instant(60) == at("2019-01-07 09:15")


def test_skips_the_time_between_sessions_and_stops_at_the_end():
    timeline = Timeline(Sessions([session(date(2019, 1, 4)), session(date(2019, 1, 7))]), date(2019, 1, 1))
    assert timeline.instant(FULL_SESSION_S - 1) == at("2019-01-04 15:39:59")
    assert timeline.instant(FULL_SESSION_S) == at("2019-01-07 09:14")
    assert timeline.instant(timeline.length_s + 1e9) == at("2019-01-07 15:40")


@given(st.lists(st.floats(min_value=-10, max_value=1e7), min_size=2))
def test_never_goes_back(moments):
    timeline = Timeline(short_calendar(), date(2019, 1, 1))
    instants = [timeline.instant(moment) for moment in sorted(moments)]
    assert instants == sorted(instants)


def test_start_after_the_calendar_is_refused():
    with pytest.raises(ConfigError, match="SIM_START=2030-01-01"):
        Timeline(short_calendar(), date(2030, 1, 1))


def test_runs_at_its_speed(tmp_path):
    monotonic = Monotonic()
    clock = SimulatedClock(Timeline(short_calendar(), IDENTITY.start), 60.0, progress(tmp_path), monotonic)
    assert clock() == at("2019-01-01 09:14")
    monotonic.now_s += 2
    assert clock() == at("2019-01-01 09:16")


@given(steps_s=st.lists(st.floats(min_value=0, max_value=120), max_size=12), speed=st.sampled_from([1.0, 60.0, 3000.0]))
def test_a_killed_clock_continues_ahead_by_at_most_ten_real_seconds(tmp_path_factory, steps_s, speed):
    folder, monotonic = tmp_path_factory.mktemp("clock"), Monotonic()
    timeline = Timeline(short_calendar(), IDENTITY.start)
    clock = SimulatedClock(timeline, speed, progress(folder), monotonic)
    served = [clock()]
    for step_s in steps_s:
        monotonic.now_s += step_s
        served.append(clock())
    reached_s = min(sum(steps_s) * speed, timeline.length_s)
    restarted = SimulatedClock(timeline, speed, progress(folder), Monotonic())
    assert served == sorted(served)
    assert served[-1] <= restarted() <= timeline.instant(reached_s + 10 * speed + 1e-3)


def test_progress_is_reserved_before_it_is_served(tmp_path):
    monotonic, file = Monotonic(), progress(tmp_path)
    clock = SimulatedClock(Timeline(short_calendar(), IDENTITY.start), 60.0, file, monotonic)
    for _ in range(30):
        monotonic.now_s += 3
        instant = clock()
        assert Timeline(short_calendar(), IDENTITY.start).instant(progress(tmp_path).read()) >= instant


def test_progress_of_another_market_is_refused_with_the_fix(tmp_path):
    progress(tmp_path).write(5.0)
    with pytest.raises(ConfigError, match=r"use another DATA_DIR, or set SIM_SEED"):
        progress(tmp_path, Identity(8, 1.0, IDENTITY.start)).read()


@pytest.mark.parametrize("content", [b"", b"{", b'{"reserved_s": 1}', b"[]", b'{"market": {}, "reserved_s": "x"}'])
def test_damaged_progress_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "clock.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"clock\.json is damaged"):
        progress(tmp_path).read()


def test_stands_still_at_the_end(tmp_path):
    monotonic = Monotonic()
    clock = SimulatedClock(Timeline(short_calendar(), IDENTITY.start), 1e5, progress(tmp_path), monotonic)
    assert not clock.at_end
    monotonic.now_s += 1e6
    last = clock()
    monotonic.now_s += 1e6
    assert clock() == last
    assert clock.at_end
