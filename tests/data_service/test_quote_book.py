"""The quote book: asks once for all that wait, serves nothing stale, and lets nothing past the gate."""

import asyncio
from decimal import Decimal

import pytest_asyncio
from live_world import NOW_S, live_world, path, raw

from data_service.quote_book import ASKED_WITHIN_S, REFUSALS_KEPT_MAX
from tests.support.upstream_server import HTML


@pytest_asyncio.fixture
async def world():
    async with live_world() as made:
        yield made


async def last(world, symbol: str = "ACME") -> Decimal | None:
    held, _ = await world.book.quotes([symbol])
    return held[symbol].last if symbol in held else None


async def test_a_quote_is_kept_for_its_time_and_then_asked_for_again(world):
    world.says("ACME", 100.0)
    assert await last(world) == Decimal("100.00")
    world.passes(2.0)
    world.says("ACME", 101.0)
    assert await last(world) == Decimal("100.00")
    world.passes(0.1)
    assert await last(world) == Decimal("101.00")
    assert world.server.paths() == [path("ACME")] * 2


async def test_everybody_who_waits_is_served_by_one_request_each(world):
    """The first asks for its share; all who came meanwhile are asked for together, not one after the other."""
    for number in range(20):
        world.says(f"S{number}", 100.0)
    world.yahoo.let_go.clear()
    first = asyncio.create_task(world.book.quotes(["S0"]))
    await world.yahoo.asked.wait()
    others = [asyncio.create_task(world.book.quotes([f"S{number}", "S0"])) for number in range(20)]
    await asyncio.sleep(0)
    calls = 0
    quotes = world.yahoo.quotes

    async def counted(symbols):
        nonlocal calls
        calls += 1
        return await quotes(symbols)

    world.yahoo.quotes = counted
    world.yahoo.let_go.set()
    assert set((await first)[0]) == {"S0"}
    for number, (held, missing) in enumerate(await asyncio.gather(*others)):
        assert (set(held), missing) == ({f"S{number}", "S0"}, {})
    assert calls == 1
    assert sorted(world.server.paths()) == sorted(path(f"S{number}") for number in range(20))


async def test_a_waiter_that_goes_away_takes_no_answer_from_the_others(world):
    world.says("ACME", 100.0)
    world.says("BETA", 50.0)
    world.yahoo.let_go.clear()
    first = asyncio.create_task(world.book.quotes(["ACME"]))
    await world.yahoo.asked.wait()
    second = asyncio.create_task(world.book.quotes(["BETA"]))
    await asyncio.sleep(0)
    first.cancel()
    world.yahoo.let_go.set()
    assert set((await second)[0]) == {"BETA"}
    assert set((await world.book.quotes(["ACME"]))[0]) == {"ACME"}


async def test_a_quote_that_grows_old_while_another_is_asked_for_is_still_an_answer(world):
    world.says("ACME", 100.0)
    await world.book.quotes(["ACME"])
    world.yahoo.asked.clear()
    world.yahoo.let_go.clear()
    world.says("BETA", 50.0)
    asking = asyncio.create_task(world.book.quotes(["ACME", "BETA"]))
    await world.yahoo.asked.wait()
    world.passes(2.5)
    world.yahoo.let_go.set()
    held, missing = await asking
    assert (set(held), missing) == ({"ACME", "BETA"}, {})


async def test_a_provider_that_fails_leaves_the_last_quote_until_it_is_too_old(world):
    world.says("ACME", 100.0)
    await world.book.quotes(["ACME"])
    world.server.everywhere = HTML
    world.passes(30)
    assert await last(world) == Decimal("100.00")
    world.passes(31)
    held, missing = await world.book.quotes(["ACME"])
    assert not held
    assert missing["ACME"].startswith("yahoo: ")


async def test_after_the_session_a_quote_is_not_served_for_days_because_nobody_answers(world):
    world.says("ACME", 100.0)
    await world.book.quotes(["ACME"])
    world.server.everywhere = HTML
    world.running = False
    world.passes(30)
    assert await last(world) == Decimal("100.00")
    world.passes(31)
    assert await last(world) is None


async def test_what_is_missing_is_not_asked_for_at_once_again(world):
    assert (await world.book.quotes(["NONE"]))[1]["NONE"].startswith("yahoo: ")
    asked = len(world.server.asked)
    assert "NONE" in (await world.book.quotes(["NONE"]))[1]
    assert len(world.server.asked) == asked
    world.passes(2.1)
    world.says("NONE", 10.0)
    assert await last(world, "NONE") == Decimal("10.00")


async def test_a_refused_quote_is_not_served_and_is_written_down(world):
    world.says("ACME", 100.0, as_of_s=NOW_S - 61)
    held, missing = await world.book.quotes(["ACME"])
    assert not held
    assert missing["ACME"] == "yahoo: stale"
    assert [(refusal.quote.symbol, refusal.reason, refusal.at_s) for refusal in world.book.refusals] == [
        ("ACME", "stale", NOW_S)
    ]
    assert world.accepted == []
    assert 'sauda_data_quotes_rejected_total{provider="yahoo",reason="stale"} 1.0' in world.metrics.render().decode()


async def test_a_streams_quote_is_served_without_asking(world):
    assert world.book.offer(raw(last="99.95")) is None
    assert await last(world) == Decimal("99.95")
    assert world.server.asked == []
    assert [quote.last for quote in world.accepted] == [Decimal("99.95")]


async def test_a_streams_quote_goes_through_the_gate(world):
    assert world.book.offer(raw(last="0")) == "non_positive"
    assert world.book.offer(raw(as_of_s=NOW_S - 3600)) == "stale"
    assert world.book.offer(raw(bid=Decimal(101), ask=Decimal(100))) == "crossed"
    world.book.offer(raw(volume=500))
    assert world.book.offer(raw(volume=400, as_of_s=NOW_S + 1)) == "volume_fell"
    assert world.book.offer(raw(as_of_s=NOW_S - 1)) == "went_back"
    assert await last(world) == Decimal("100.00")
    assert len(world.accepted) == 1


async def test_an_older_answer_does_not_replace_a_newer_tick(world):
    world.says("ACME", 100.0, as_of_s=NOW_S - 20)
    world.yahoo.let_go.clear()
    asking = asyncio.create_task(world.book.quotes(["ACME"]))
    await world.yahoo.asked.wait()
    assert world.book.offer(raw(last="103.00")) is None
    world.yahoo.let_go.set()
    held, missing = await asking
    assert (held["ACME"].last, missing) == (Decimal("103.00"), {})
    assert [refusal.reason for refusal in world.book.refusals] == ["went_back"]


async def test_a_feed_that_stands_still_is_found_out(world):
    world.says("ACME", 100.0)
    await world.book.quotes(["ACME"])
    for _ in range(32):
        world.passes(31)
        world.says("ACME", 100.0)
        await last(world)
    assert await last(world) is None
    assert world.book.refusals[-1].reason == "frozen"


async def test_only_the_shares_asked_for_lately_are_kept_fresh(world):
    for symbol in ("ACME", "BETA"):
        world.says(symbol, 100.0)
    await world.book.quotes(["ACME"])
    world.passes(ASKED_WITHIN_S)
    await world.book.quotes(["BETA"])
    assert world.book.watched == ["ACME", "BETA"]
    world.passes(3)
    world.server.asked.clear()
    await world.book.refresh()
    assert world.server.paths() == [path("BETA")]
    assert world.book.watched == ["BETA"]


async def test_refusals_are_bounded(world):
    for number in range(REFUSALS_KEPT_MAX + 5):
        world.book.offer(raw(symbol=f"S{number}", last="-1"))
    assert len(world.book.refusals) == REFUSALS_KEPT_MAX
    assert world.book.refusals[0].quote.symbol == "S5"


async def test_a_provider_that_cannot_be_reached_is_no_error(world):
    await world.server.stop()
    held, missing = await world.book.quotes(["ACME"])
    assert not held
    assert missing["ACME"].startswith("yahoo: ")
    await world.server.start()
