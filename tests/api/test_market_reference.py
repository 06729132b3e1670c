"""Bars with their sources and flags, actions, universes and findings, passed on from a real data_service."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest

from backend.api.app import create_api
from backend.api.schemas.market import BarsView
from backend.domain.calendar import IST
from backend.services.market_data_client import MarketDataClient
from contracts.common import Environment
from contracts.market import ActionKind, Interval
from data_service.config import Settings
from data_service.imports.load import import_file
from data_service.ingest import Gate
from data_service.instruments import load_reference
from data_service.main import create_app
from data_service.sessions import load_sessions
from data_service.store.schemas import ACTION_SCHEMA, BAR_SCHEMA
from data_service.store.stores import embedded
from tests.api.conftest import Gateway
from tests.api.test_problems import problem_of
from tests.support.market_server import serving

DAILY = """symbol,date,open,high,low,close,volume
TCS,2024-03-13,200,210,190,205,5000
TCS,2024-03-14,210,215,180,190,5000
TCS,2024-03-15,195,205,190,200,5000
"""
MINUTES = """symbol,start,open,high,low,close,volume
TCS,2024-03-15T09:15:00+05:30,195,196,194,195.5,100
TCS,2024-03-15T09:16:00+05:30,195.5,197,195,196,200
TCS,2024-03-15T09:17:00+05:30,196,198,195,197,300
TCS,2024-03-15T09:18:00+05:30,197,197,193,194,400
"""
NOW = datetime(2024, 3, 18, 9, 10, tzinfo=IST)
THURSDAY_S, FRIDAY_S = (int(datetime(2024, 3, day, 9, 15, tzinfo=IST).timestamp()) for day in (14, 15))
IMPOSSIBLE = [
    ("INFY", THURSDAY_S, 20_000, 19_000, 21_000, 20_000, 5000, "yahoo"),
    ("INFY", FRIDAY_S, -100, 100, 100, 100, 5000, "yahoo"),
]


def action(symbol: str, ex_date: date, kind: ActionKind, known_on: date) -> dict[str, object]:
    row = dict.fromkeys(ACTION_SCHEMA) | {"symbol": symbol, "ex_date": ex_date, "kind": kind.value}
    return row | {"known_on": known_on, "subject": kind.value, "source": "nse"}


ACTIONS = [
    action("TCS", date(2024, 3, 14), ActionKind.DEMERGER, date(2024, 3, 1)),
    action("INFY", date(2024, 3, 20), ActionKind.DIVIDEND, date(2024, 3, 15)) | {"amount_paise": 550},
    action("TCS", date(2024, 3, 21), ActionKind.DIVIDEND, date(2024, 3, 19)) | {"amount_paise": 100},
]


@pytest.fixture(scope="module")
async def client(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway before a data_service with the bars of one share, and the impossible ones of another."""
    folder: Path = tmp_path_factory.mktemp("recorded")
    settings = Settings(environment=Environment.PAPER, data_dir=folder)
    stores = embedded(settings.recorded_dir)
    for name, content in (("daily", DAILY), ("minutes", MINUTES)):
        (folder / f"{name}.csv").write_text(content)
        import_file(stores, load_sessions(), folder / f"{name}.csv", now_s=int(NOW.timestamp()))
    bad = pl.DataFrame(IMPOSSIBLE, schema=BAR_SCHEMA, orient="row")
    Gate(stores, load_sessions(), load_reference()).ingest(Interval.DAY_1, bad, int(NOW.timestamp()))
    stores.facts.upsert_actions(pl.DataFrame(ACTIONS, schema=ACTION_SCHEMA))

    async def clock() -> datetime:
        return NOW

    with serving(create_app(settings, lambda: NOW)) as url:
        async with httpx.AsyncClient() as http:
            trading = replace(gateway.trading, market_data=MarketDataClient(http, url, 5), clock=clock)
            app = create_api(replace(gateway.state, trading=trading, environment=Environment.PAPER))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as made:
                yield made


async def test_bars_say_whose_word_they_are_and_where_no_factor_helps(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/market/bars", params={"symbol": "TCS"})
    view = BarsView.model_validate_json(reply.content)
    assert [str(bar.close) for bar in view.bars] == ["205.00", "190.00", "200.00"]
    assert view.environment is Environment.PAPER
    assert view.sources == ["file"]
    assert view.as_of == datetime(2024, 3, 15, 15, 30, tzinfo=IST)
    assert [(flag.kind, flag.ex_date) for flag in view.unadjusted] == [("demerger", date(2024, 3, 14))]
    later = (await client.get("/v1/market/bars", params={"symbol": "TCS", "from": "2024-03-14"})).json()
    assert later["unadjusted"] == []  # nothing before the ex-date to compare with


async def test_unchanged_bars_are_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/v1/market/bars", params={"symbol": "TCS"})
    assert first.headers["cache-control"] == "public, max-age=1"
    again = await client.get("/v1/market/bars?symbol=TCS", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await client.get(
        "/v1/market/bars?symbol=TCS&to=2024-03-14", headers={"If-None-Match": first.headers["etag"]}
    )
    assert other.status_code == 200
    assert other.headers["etag"] != first.headers["etag"]


async def test_bars_of_the_new_intervals(client: httpx.AsyncClient) -> None:
    asked = {"symbol": "TCS", "interval": "3m", "from": "2024-03-15", "to": "2024-03-15"}
    bar, _ = (await client.get("/v1/market/bars", params=asked)).json()["bars"]
    assert (bar["start"], bar["open"], bar["high"], bar["low"]) == (
        "2024-03-15T09:15:00+05:30",
        "195.00",
        "198.00",
        "194.00",
    )
    assert (bar["close"], bar["volume"]) == ("197.00", 600)


@pytest.mark.parametrize(
    ("interval", "days"),
    [("1m", 10), ("3m", 30), ("5m", 60), ("10m", 120), ("15m", 180), ("30m", 365), ("1h", 730), ("1d", 3700)],
)
async def test_each_interval_has_its_most_days(client: httpx.AsyncClient, interval: str, days: int) -> None:
    last = date(2024, 3, 15)
    asked = {"symbol": "TCS", "interval": interval, "to": last.isoformat()}
    fitting = asked | {"from": date.fromordinal(last.toordinal() - days + 1).isoformat()}
    assert (await client.get("/v1/market/bars", params=fitting)).status_code == 200
    longer = asked | {"from": date.fromordinal(last.toordinal() - days).isoformat()}
    assert problem_of(await client.get("/v1/market/bars", params=longer)).code == "too_many_bars"


async def test_actions_are_those_that_are_known_by_now(client: httpx.AsyncClient) -> None:
    days = {"from": "2024-03-01", "to": "2024-03-31"}
    found = (await client.get("/v1/market/actions", params=days)).json()
    assert [(a["symbol"], a["kind"], a["amount"]) for a in found["actions"]] == [
        ("TCS", "demerger", None),
        ("INFY", "dividend", "5.50"),
    ]
    assert (found["environment"], found["as_of"]) == ("paper", NOW.isoformat())
    one = (await client.get("/v1/market/actions", params=days | {"symbol": "INFY"})).json()
    assert [a["symbol"] for a in one["actions"]] == ["INFY"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("from=2023-01-01&to=2024-01-05", 200),
        ("from=2023-01-01&to=2024-01-06", 422),
        ("from=2023-01-01&to=2024-01-06&symbol=TCS", 200),
        ("from=2024-01-02&to=2024-01-01", 422),
        ("from=0001-01-01&to=2024-01-01", 422),
        ("from=2024-01-01", 422),
        ("from=2024-01-01&to=2024-01-02&symbol=tcs", 422),
    ],
)
async def test_the_days_of_actions_are_bounded(client: httpx.AsyncClient, query: str, status: int) -> None:
    assert (await client.get(f"/v1/market/actions?{query}")).status_code == status


async def test_universes(client: httpx.AsyncClient) -> None:
    default = (await client.get("/v1/market/universe")).json()
    assert default["members"] == ["RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK"]
    assert (default["environment"], default["name"]) == ("paper", "default")
    top = (await client.get("/v1/market/universe?name=top&n=3")).json()
    assert top["members"] == ["TCS"]
    index = (await client.get("/v1/market/universe?name=nifty50")).json()
    assert len(index["members"]) == 50
    for query in ("name=best", "n=0", "n=501", "m=1"):
        assert problem_of(await client.get(f"/v1/market/universe?{query}")).code == "validation_failed"


async def test_what_was_found_wrong_is_public_in_pages(client: httpx.AsyncClient) -> None:
    first = (await client.get("/v1/quality?limit=1")).json()
    assert first["environment"] == "paper"
    assert first["counts"].items() >= {"ohlc_inconsistent": 1, "non_positive": 1}.items()
    assert len(first["findings"]) == 1
    rest = (await client.get(f"/v1/quality?limit=200&cursor={first['next_cursor']}")).json()
    assert rest["next_cursor"] is None
    found = first["findings"] + rest["findings"]
    assert len(found) == sum(first["counts"].values())
    impossible = [f for f in found if f["reason"] in ("ohlc_inconsistent", "non_positive")]
    assert {(f["symbol"], f["interval"], f["quarantined"]) for f in impossible} == {("INFY", "1d", True)}
    one = (await client.get("/v1/quality", params={"symbol": "INFY", "reason": "ohlc_inconsistent"})).json()
    assert [f["reason"] for f in one["findings"]] == ["ohlc_inconsistent"]
    for query in ("limit=201", "limit=0", "cursor=x", "symbol=tcs", "reason=%20", "x=1"):
        assert problem_of(await client.get(f"/v1/quality?{query}")).code == "validation_failed"
