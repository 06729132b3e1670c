"""The generated market: deterministic, exact in its aggregates, within ticks and bands, and blind to the future."""

from datetime import date

import numpy as np
import pytest
from data_market import at_s, disturbed_after
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.market import Interval, Quote
from data_service.providers.simulated import SimulatedMarket
from data_service.simulator import history
from data_service.simulator.model import session_noise
from data_service.ticks import tick_paise
from data_service.views import Missing

ALWAYS_S = at_s("2030-01-01 00:00")
FROM, THROUGH = date(2019, 1, 1), date(2019, 12, 31)
SYMBOLS = ("RELIANCE", "M&M", "VTL")


def prices(bars):
    return [getattr(bars, name).tolist() for name in ("start", "end", "open", "high", "low", "close", "volume")]


def whole(market, symbol, interval, as_of_s=ALWAYS_S):
    return market.bars(symbol, interval, FROM, THROUGH, as_of_s)


def test_same_seed_same_market_other_seed_another(simulated, universe, calendar, tmp_path):
    again = SimulatedMarket(universe, calendar, seed=7, edge=1.0, folder=tmp_path)
    other = SimulatedMarket(universe, calendar, seed=8, edge=1.0, folder=tmp_path)
    assert prices(whole(again, "TCS", Interval.DAY_1)) == prices(whole(simulated, "TCS", Interval.DAY_1))
    assert prices(whole(other, "TCS", Interval.DAY_1)) != prices(whole(simulated, "TCS", Interval.DAY_1))


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_daily_bars_are_the_exact_sum_of_the_minutes(simulated, calendar, symbol):
    days, minutes = whole(simulated, symbol, Interval.DAY_1), whole(simulated, symbol, Interval.MIN_1)
    assert len(days) == len(calendar.all)
    for place, of in enumerate(calendar.all):
        inside = minutes.start // 86400 == of.open_s // 86400
        assert days.open[place] == minutes.open[inside][0]
        assert days.high[place] == minutes.high[inside].max()
        assert days.low[place] == minutes.low[inside].min()
        assert days.close[place] == minutes.close[inside][-1]
        assert days.volume[place] == minutes.volume[inside].sum()
        assert days.end[place] == minutes.end[inside][-1]


def test_five_minute_bars_are_the_exact_sum_of_the_minutes(simulated):
    fives, minutes = whole(simulated, "INFY", Interval.MIN_5), whole(simulated, "INFY", Interval.MIN_1)
    assert (fives.end - fives.start == 300).all()
    for place in range(0, len(fives), 7):
        inside = (minutes.start >= fives.start[place]) & (minutes.end <= fives.end[place])
        assert fives.open[place] == minutes.open[inside][0]
        assert fives.high[place] == minutes.high[inside].max()
        assert fives.low[place] == minutes.low[inside].min()
        assert fives.close[place] == minutes.close[inside][-1]
        assert fives.volume[place] == minutes.volume[inside].sum()


def test_every_price_is_on_its_tick_within_its_band_and_ordered(simulated):
    for symbol in SYMBOLS:
        days, minutes = whole(simulated, symbol, Interval.DAY_1), whole(simulated, symbol, Interval.MIN_1)
        previous = np.array(
            [simulated.quote(symbol, int(end)).previous_close * 100 for end in days.end], dtype=np.int64
        )
        assert previous[1:].tolist() == days.close[:-1].tolist()
        tick = tick_paise(previous, date(2019, 1, 1))
        assert (days.high * 100 <= previous * 110).all()
        assert (days.low * 100 >= previous * 90).all()
        for bars, size in ((days, tick), (minutes, 5)):
            assert (bars.low <= np.minimum(bars.open, bars.close)).all()
            assert (bars.high >= np.maximum(bars.open, bars.close)).all()
            assert (bars.close % size == 0).all()
            assert (bars.high % size == 0).all()
            assert (bars.volume >= 0).all()


def test_wild_noise_stays_within_the_bands(universe, calendar, tmp_path):
    wild = disturbed_after(calendar.all[3].open_s, 3.0)
    market = SimulatedMarket(universe, calendar, seed=7, edge=1.0, folder=tmp_path, noise=wild)
    days = whole(market, "SBIN", Interval.DAY_1)
    assert days.close[4] > days.close[3]
    assert (days.close <= days.high).all()
    assert (days.high[1:] * 100 <= days.close[:-1] * 110).all()
    assert (days.low[1:] * 100 >= days.close[:-1] * 90).all()


def test_continuous_trading_ends_earlier_where_there_is_a_closing_auction(simulated, calendar):
    day = calendar.all[-1].day
    assert len(simulated.bars("TCS", Interval.MIN_1, day, day, ALWAYS_S)) == 360
    assert len(simulated.bars("VTL", Interval.MIN_1, day, day, ALWAYS_S)) == 375


def test_quote_within_and_around_a_session(simulated):
    early = simulated.quote("TCS", at_s("2019-01-03 09:15:59"))
    assert isinstance(early, Missing)
    assert "first minute" in early.reason
    within = simulated.quote("TCS", at_s("2019-01-03 10:30:30"))
    assert within.as_of.isoformat() == "2019-01-03T10:30:30+05:30"
    assert within.bar_end.isoformat() == "2019-01-03T10:30:00+05:30"
    assert within.last == within.bar_close
    assert within.low <= within.last <= within.high
    assert within.lower_band <= within.bid < within.ask <= within.upper_band
    night = simulated.quote("TCS", at_s("2019-01-03 22:00"))
    assert night.as_of.isoformat() == "2019-01-03T15:30:00+05:30"
    assert isinstance(simulated.quote("TCS", at_s("2018-12-31 12:00")), Missing)
    assert isinstance(simulated.quote("NOSUCH", at_s("2019-01-03 12:00")), Missing)


def test_a_quote_is_the_session_so_far(simulated):
    as_of_s = at_s("2019-01-04 13:07:20")
    quote = simulated.quote("M&M", as_of_s)
    minutes = simulated.bars("M&M", Interval.MIN_1, date(2019, 1, 4), date(2019, 1, 4), as_of_s)
    assert len(minutes) == 232
    assert quote.high * 100 == int(minutes.high.max())
    assert quote.low * 100 == int(minutes.low.min())
    assert quote.volume == int(minutes.volume.sum())
    assert quote.last * 100 == int(minutes.close[-1])


def everything(market: SimulatedMarket, as_of_s: int) -> str:
    answers = [market.instruments(as_of_s), market.days(as_of_s)]
    for symbol in SYMBOLS:
        quote = market.quote(symbol, as_of_s)
        answers.append(quote.model_dump_json() if isinstance(quote, Quote) else quote)
        for interval in Interval:
            bars = whole(market, symbol, interval, as_of_s)
            answers.append(bars if isinstance(bars, Missing) else prices(bars))
    return repr(answers)


@settings(max_examples=12, deadline=None)
@given(
    place=st.integers(min_value=0, max_value=29),
    second=st.integers(min_value=-4000, max_value=30_000),
    amount=st.sampled_from([-2.0, 0.3, 4.0]),
)
def test_nothing_after_as_of_shows(simulated, universe, calendar, tmp_path_factory, place, second, amount):
    as_of_s = calendar.all[place].open_s + second
    noise = disturbed_after(as_of_s, amount)
    folder = tmp_path_factory.mktemp("disturbed")
    disturbed = SimulatedMarket(universe, calendar, seed=7, edge=1.0, folder=folder, noise=noise)
    assert everything(disturbed, as_of_s) == everything(simulated, as_of_s)


def test_the_disturbance_is_real(simulated, universe, calendar, tmp_path):
    as_of_s = at_s("2019-01-04 12:00")
    noise = disturbed_after(as_of_s, 0.3)
    disturbed = SimulatedMarket(universe, calendar, seed=7, edge=1.0, folder=tmp_path, noise=noise)
    assert everything(disturbed, as_of_s + 60) != everything(simulated, as_of_s + 60)


def test_a_restart_reads_the_cache_and_a_damaged_cache_is_rebuilt(universe, calendar, tmp_path):
    generated: list[date] = []

    def counted(seed, of, shares):
        generated.append(of.day)
        return session_noise(seed, of, shares)

    def load():
        return history.load_or_generate(tmp_path, universe, calendar, 7, 1.0, counted)

    first = load()
    assert len(generated) == len(calendar.all)
    load()
    assert len(generated) == len(calendar.all)
    cache = next(tmp_path.glob("history-*.npz"))
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(bytes(content))
    rebuilt = load()
    assert len(generated) == 2 * len(calendar.all)
    assert (rebuilt.close == first.close).all()
    cache.write_bytes(cache.read_bytes()[:1000])
    load()
    assert len(generated) == 3 * len(calendar.all)


def test_the_cache_is_of_one_market_only(universe, calendar):
    keys = {history.cache_key(universe, calendar, seed, edge) for seed in (7, 8) for edge in (0.0, 1.0)}
    assert len(keys) == 4
