"""A day whose corporate actions nobody has told is not a day without any."""

from datetime import date, datetime, timedelta

import polars as pl
import pytest
from data_market import at, at_s, daily, filled_store, short_calendar
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from contracts.common import Environment
from contracts.market import Interval
from data_service.chain import NoAnswerError
from data_service.config import Settings
from data_service.errors import install_handlers
from data_service.fresh_facts import AGAIN_S, RETRY_S, keep_facts_fresh
from data_service.imports.load import import_file
from data_service.main import recorded_market
from data_service.reference_routes import reference_router
from data_service.store.facts import FACTOR_SCHEMA, factor_actions
from data_service.store.schemas import INSTRUMENT_SCHEMA
from data_service.store.stores import embedded

CALENDAR = short_calendar()
TODAY = CALENDAR.all[5].day
NOW = at(f"{TODAY} 08:30")
SPLIT = factor_actions(pl.DataFrame([("AAA", TODAY, 0.5)], schema=FACTOR_SCHEMA, orient="row"))


class Feed:
    """A chain whose answers the test chooses; `asked` are the days asked for."""

    def __init__(self, *answers: pl.DataFrame | Exception) -> None:
        self.answers, self.asked = list(answers), list[tuple[date, date]]()

    async def actions(self, from_: date, through: date, deadline_s: float) -> tuple[str, pl.DataFrame]:
        self.asked.append((from_, through))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return "nse", answer

    async def instruments(self, deadline_s: float) -> tuple[str, pl.DataFrame]:
        return "nse", pl.DataFrame(schema=INSTRUMENT_SCHEMA)


class DoneError(Exception):
    """The rounds the test wants are over."""


async def rounds(feed: Feed, stores, count: int) -> list[float]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == count:
            raise DoneError

    with pytest.raises(DoneError):
        await keep_facts_fresh(feed, stores, lambda: NOW, sleep)
    return waits


async def test_actions_around_today_are_stored_and_asked_for_again(tmp_path):
    stores, feed = embedded(tmp_path), Feed(NoAnswerError("down"), RuntimeError("a defect"), SPLIT, SPLIT)
    assert await rounds(feed, stores, 2) == [RETRY_S, RETRY_S]
    assert stores.facts.actions_told() is None
    assert await rounds(feed, stores, 2) == [AGAIN_S, AGAIN_S]
    assert stores.facts.actions_told() == TODAY
    assert stores.facts.actions()["symbol"].to_list() == ["AAA"]
    assert all(from_ < TODAY < through for from_, through in feed.asked)


async def test_an_action_that_the_feed_tells_no_more_is_called_off(tmp_path):
    tomorrow = SPLIT.with_columns(ex_date=TODAY + timedelta(days=1), source=pl.lit("nse"))
    stores, feed = embedded(tmp_path), Feed(tomorrow, SPLIT)
    await rounds(feed, stores, 1)
    assert stores.facts.actions()["ex_date"].to_list() == [TODAY + timedelta(days=1)]
    await rounds(feed, stores, 1)
    assert stores.facts.actions()["ex_date"].to_list() == [TODAY]


async def test_no_action_of_any_share_in_ten_weeks_is_no_word_about_today(tmp_path):
    stores, feed = embedded(tmp_path), Feed(SPLIT.clear(), SPLIT)
    assert await rounds(feed, stores, 1) == [RETRY_S]
    assert stores.facts.actions_told() is None
    assert await rounds(feed, stores, 1) == [AGAIN_S]
    assert stores.facts.actions_told() == TODAY


@pytest.fixture
async def client(tmp_path):
    settings = Settings(environment=Environment.PAPER, data_dir=tmp_path)
    stores = filled_store(settings.recorded_dir, {Interval.DAY_1: [daily("AAA", CALENDAR.all[4].day, 100)]})
    market = recorded_market(settings, stores, CALENDAR, lambda: NOW)
    market.expects_actions = True
    app = FastAPI()
    install_handlers(app)
    app.include_router(reference_router(market))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        yield http, stores, tmp_path


async def asked(http, through: date, as_of: datetime | None = None):
    params = {"from": str(TODAY), "through": str(through)} | ({"as_of": as_of.isoformat()} if as_of else {})
    return await http.get("/v1/actions", params=params)


async def test_todays_actions_are_refused_until_somebody_told_them(client):
    http, stores, _ = client
    refused = await asked(http, TODAY)
    assert (refused.status_code, refused.json()["code"]) == (503, "actions_unknown")
    stores.facts.note_actions_told(TODAY - timedelta(days=1))
    assert (await asked(http, TODAY)).status_code == 503, "yesterday's word is not today's"
    assert (await asked(http, TODAY, NOW - timedelta(days=1))).status_code == 200, "of yesterday it is enough"
    stores.facts.upsert_actions(SPLIT)
    stores.facts.note_actions_told(TODAY)
    told = await asked(http, TODAY)
    assert [action["symbol"] for action in told.json()["actions"]] == ["AAA"]


async def test_a_feed_imported_by_hand_is_a_word_too(client):
    http, stores, folder = client
    path = folder / "actions.csv"
    path.write_text(f"symbol,series,isin,comp,exDate,recDate,faceVal,subject\nAAA,EQ,,A,{TODAY},-,10,Bonus 1:1\n")
    import_file(stores, CALENDAR, path, now_s=at_s(f"{TODAY} 08:00"))
    assert (await asked(http, TODAY)).status_code == 200
