"""Answers that are kept: fetched once however many ask, anew when they are old, and never where they failed."""

import asyncio

import pytest

from backend.errors import UpstreamError
from backend.services.kept_answers import KeptAnswers


class Source:
    """Counts how often it is asked; answers once it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        mine = self.asked
        self.begun.set()
        await self.go.wait()
        if self.fails:
            raise UpstreamError("gone")
        return mine


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_whoever_asks_at_once_shares_one_answer() -> None:
    kept, source = KeptAnswers[int](10, 4), Source()
    waiting = [asyncio.create_task(kept.get("a", source)) for _ in range(5)]
    source.go.set()
    assert await asyncio.gather(*waiting) == [1] * 5
    assert await kept.get("b", source) == 2


async def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    kept, source = KeptAnswers[int](10, 4), Source()
    first = asyncio.create_task(kept.get("a", source))
    second = asyncio.create_task(kept.get("a", source))
    await source.begun.wait()
    first.cancel()
    source.go.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_answer_is_kept_for_its_time() -> None:
    clock, source = Clock(), Source()
    kept = KeptAnswers[int](10, 4, monotonic=clock)
    source.go.set()
    assert await kept.get("a", source) == 1
    clock.seconds = 9.9
    assert await kept.get("a", source) == 1
    clock.seconds = 10.0
    assert await kept.get("a", source) == 2


async def test_a_failure_is_told_and_not_kept() -> None:
    kept, source = KeptAnswers[int](10, 4), Source()
    source.fails = True
    source.go.set()
    for asked in (1, 2):
        with pytest.raises(UpstreamError):
            await kept.get("a", source)
        assert source.asked == asked


async def test_the_oldest_make_room() -> None:
    kept, source = KeptAnswers[int](10, 2), Source()
    source.go.set()
    for key in ("a", "b", "c"):
        await kept.get(key, source)
    assert await kept.get("c", source) == 3
    assert await kept.get("a", source) == 4
