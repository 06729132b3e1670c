"""The sandbox over real HTTP: logins, orders, portfolio and money, in Kite Connect's envelopes and words."""

from datetime import timedelta
from hashlib import sha256

import httpx
import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend.domain.calendar import IST
from backend.models import SandboxSession
from backend.sandbox.pulse import Pulse
from backend.services.audit_service import Actor
from backend.services.sandbox_key_service import end_key, make_key
from tests.sandbox.conftest import REDIRECT, order, served
from tests.support.paper_desk import account_of


async def test_a_login_brings_the_days_token_and_ends_at_six(kite):
    page = await kite.http.get(f"{kite.url}/connect/login", params={"api_key": kite.key.api_key, "v": 3})
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    session = await kite.log_in()
    assert (session["api_key"], session["broker"], session["login_time"]) == (
        kite.key.api_key,
        "ZERODHA",
        "2026-11-23 12:00:00",
    )
    assert (await kite.ask("GET", "/user/profile"))["user_id"] == session["user_id"]
    kite.now[0] = kite.now[0].astimezone(IST).replace(hour=5, minute=59) + timedelta(days=1)
    await kite.ask("GET", "/user/profile")
    kite.now[0] += timedelta(minutes=1)
    await kite.refused("GET", "/user/profile", 403, "TokenException")


async def test_what_proves_nothing_logs_nobody_in(kite, sessions):
    token = await kite.request_token()
    form = {"api_key": kite.key.api_key, "request_token": token, "checksum": kite.checksum(token)}
    for wrong in (
        {"checksum": "0" * 64},
        {"api_key": "unknown"},
        {"request_token": "x", "checksum": kite.checksum("x")},
    ):
        await kite.refused("POST", "/session/token", 403, "TokenException", data=form | wrong)
    kite.now[0] += timedelta(minutes=3)
    await kite.refused("POST", "/session/token", 403, "TokenException", data=form)  # too late
    await kite.log_in()
    first = kite.token
    used = await kite.request_token()
    form = {"api_key": kite.key.api_key, "request_token": used, "checksum": kite.checksum(used)}
    kite.token = (await kite.ask("POST", "/session/token", data=form))["access_token"]
    await kite.refused("POST", "/session/token", 403, "TokenException", data=form)  # used
    async with sessions() as session:
        assert len((await session.scalars(select(SandboxSession.id))).all()) == 1  # the login before has ended
    again = form | {"request_token": kite.token, "checksum": kite.checksum(kite.token)}
    await kite.refused("POST", "/session/token", 403, "TokenException", data=again)  # an access token is none
    second, kite.token = kite.token, first
    await kite.refused("GET", "/orders", 403, "TokenException")
    kite.token = second
    await kite.ask("DELETE", "/session/token", params={"api_key": kite.key.api_key, "access_token": second})
    await kite.refused("GET", "/orders", 403, "TokenException")


async def test_an_ended_key_opens_nothing(client, sessions):
    async with sessions.begin() as session:
        await end_key(session, Actor("test", client.user, ""), client.user, client.account)
    await client.refused("GET", "/orders", 403, "TokenException")
    page = await client.http.get(f"{client.url}/connect/login", params={"api_key": client.key.api_key})
    assert page.status_code == 400


async def test_an_order_fills_and_shows_everywhere(client):
    number = await client.place(tag="T1")
    row = await client.found(number)
    assert len(number) == 15
    assert number.startswith("240318")
    shown = {name: row[name] for name in ("status", "tag", "quantity", "filled_quantity", "average_price", "price")}
    assert shown == {
        "status": "COMPLETE",
        "tag": "T1",
        "quantity": 10,
        "filled_quantity": 10,
        "average_price": 1500.40,
        "price": 1510.0,
    }
    assert row["order_timestamp"] == "2024-03-18 10:00:00"  # Indian time, without an offset
    (trade,) = await client.ask("GET", f"/orders/{number}/trades")
    assert (trade["quantity"], trade["average_price"], trade["order_timestamp"]) == (10, 1500.4, "10:00:00")
    assert await client.ask("GET", "/trades") == [trade]
    words = [step["status"] for step in await client.ask("GET", f"/orders/{number}")]
    assert words == ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN", "COMPLETE"]
    (position,) = (await client.ask("GET", "/portfolio/positions"))["net"]
    assert (position["quantity"], position["product"], position["average_price"]) == (10, "CNC", 1500.4)
    assert position["pnl"] == pytest.approx(-4)
    assert await client.ask("GET", "/portfolio/holdings") == []
    equity = await client.ask("GET", "/user/margins/equity")
    assert equity["net"] == pytest.approx(500_000 - 15_004 - 17.83, abs=0.5)
    assert equity["net"] == equity["available"]["live_balance"]


async def test_shares_wait_a_day_and_are_holdings_after_settlement(client):
    await client.place()
    client.market.now += timedelta(days=1)
    (held,) = await client.ask("GET", "/portfolio/holdings")
    assert (held["quantity"], held["t1_quantity"], held["opening_quantity"]) == (10, 0, 10)  # delivered on T+1
    assert held["average_price"] == 1500.4
    assert (await client.ask("GET", "/portfolio/positions"))["net"] == []
    await client.place(4, 1490, transaction_type="SELL")
    (held,) = await client.ask("GET", "/portfolio/holdings")
    assert (held["quantity"], held["used_quantity"]) == (10, 4)
    (position,) = (await client.ask("GET", "/portfolio/positions"))["net"]
    assert position["quantity"] == -4
    await client.refused(
        "POST", "/orders/regular", 400, "HoldingException", data=order(7, 1490, transaction_type="SELL")
    )


async def test_an_order_is_changed_and_cancelled(client):
    number = await client.place(10, 1490)
    client.market.now += timedelta(seconds=5)
    await client.ask("PUT", f"/orders/regular/{number}", data={"quantity": 20, "price": 1491})
    row = await client.found(number)
    assert (row["status"], row["quantity"], row["price"], row["modified"]) == ("OPEN", 20, 1491, True)
    client.market.now += timedelta(seconds=5)
    await client.ask("DELETE", f"/orders/regular/{number}", params={"parent_order_id": ""})
    row = await client.found(number)
    assert (row["status"], row["cancelled_quantity"], row["pending_quantity"]) == ("CANCELLED", 20, 0)
    steps = await client.ask("GET", f"/orders/{number}")
    assert [(s["status"], s["quantity"], s["order_timestamp"][-2:]) for s in steps[3:]] == [
        ("OPEN", 10, "00"),
        ("MODIFY VALIDATION PENDING", 20, "05"),
        ("MODIFY PENDING", 20, "05"),
        ("MODIFIED", 20, "05"),
        ("OPEN", 20, "05"),
        ("CANCELLED", 20, "10"),
    ]
    await client.refused("DELETE", f"/orders/regular/{number}", 500, "OrderException")
    await client.refused("PUT", f"/orders/regular/{number}", 500, "OrderException", data={"quantity": 5})


async def test_every_kind_of_order(client):
    protected = await client.place(5, None, order_type="MARKET", market_protection="-1")
    assert (await client.found(protected))["order_type"] == "LIMIT"
    assert (await client.found(protected))["price"] == 1507.5  # half a per cent above 500 rupees
    stop = await client.place(5, 1520, order_type="SL", trigger_price=1510)
    assert (await client.found(stop))["status"] == "TRIGGER PENDING"
    at_market = await client.place(5, None, order_type="SL-M", trigger_price=1510, market_protection="1")
    assert ((await client.found(at_market))["price"], (await client.found(at_market))["order_type"]) == (1525.1, "SL")
    client.market.stocks["INFY"].bar_volume = 20
    ioc = await client.found(await client.place(5, 1510, validity="IOC"))
    assert (ioc["status"], ioc["filled_quantity"], ioc["validity"]) == ("CANCELLED", 0, "IOC")  # all was taken before
    short = await client.place(5, 1510, transaction_type="SELL", product="MIS")
    assert (await client.found(short))["status"] == "OPEN"


REFUSED = (
    ({"tradingsymbol": "NONE"}, 400, "InputException", "no such instrument"),
    ({"exchange": "NFO"}, 400, "InputException", "NSE alone"),
    ({"quantity": "1.5"}, 400, "InputException", "quantity"),
    ({"quantity": "0"}, 400, "InputException", "Quantity"),
    ({"quantity": "100001"}, 400, "InputException", "freeze"),
    ({"price": "1e999"}, 400, "InputException", "price"),
    ({"price": None}, 400, "InputException", "price"),
    ({"price": "1500.03"}, 400, "InputException", "tick"),
    ({"price": "2000"}, 400, "InputException", "band"),
    ({"product": "NRML"}, 400, "InputException", "product"),
    ({"order_type": "MARKET"}, 400, "InputException", "without market protection"),
    ({"order_type": "MARKET", "market_protection": "0"}, 400, "InputException", "without market protection"),
    ({"order_type": "SL"}, 400, "InputException", "trigger_price"),
    ({"order_type": "SL", "price": "1520", "trigger_price": "1500"}, 400, "InputException", "above the last price"),
    ({"order_type": "SL", "price": "1505", "trigger_price": "1510"}, 400, "InputException", "not be above its price"),
    ({"tag": "x" * 21}, 400, "InputException", "tag"),
    ({"quantity": "1000"}, 400, "MarginException", "Insufficient funds"),
    ({"transaction_type": "SELL"}, 400, "HoldingException", "Insufficient holdings"),
)


async def test_what_is_refused_and_how(client):
    for changes, status, kind, words in REFUSED:
        said = await client.refused("POST", "/orders/regular", status, kind, data=order(**changes))
        assert words in said, changes
    assert {row["status"] for row in await client.ask("GET", "/orders")} == {"REJECTED"}


async def test_a_closed_market_and_what_is_not_there(client):
    await client.refused("POST", "/orders/amo", 400, "InputException", data=order())
    await client.refused("GET", "/orders/123", 400, "InputException")
    await client.refused("GET", "/orders/240318000000999", 500, "OrderException")
    await client.refused("GET", "/nothing", 404, "GeneralException")
    client.market.now = client.market.now.replace(hour=16)
    assert "closed" in await client.refused("POST", "/orders/regular", 500, "OrderException", data=order())
    client.market.quotes_down = True
    await client.refused("GET", "/quote", 502, "DataException", params={"i": "NSE:INFY"})


async def test_nobody_sees_or_moves_anothers_orders(client, make_user, sessions, trading):
    number = await client.place(10, 1490)
    other = await make_user("other")
    async with sessions.begin() as session:
        account = await account_of(sessions, other)
        key = await make_key(
            session, client.world.vault, Actor("t", other, ""), other, account, "http://127.0.0.1:9/after?x=1"
        )
    mine, client.key = client.key, key
    await client.log_in()
    assert await client.ask("GET", "/orders") == []
    await client.refused("GET", f"/orders/{number}", 500, "OrderException")
    await client.refused("DELETE", f"/orders/regular/{number}", 500, "OrderException")
    client.key = mine  # one's token under another's key
    await client.refused("GET", "/orders", 403, "TokenException")


async def test_positions_are_converted_where_they_can_be_paid(client):
    await client.place(1000, 1510, product="MIS")
    asked = {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "position_type": "day",
        "quantity": 100,
        "old_product": "MIS",
        "new_product": "CNC",
    }
    assert await client.ask("PUT", "/portfolio/positions", data=asked) is True
    held = {p["product"]: p["quantity"] for p in (await client.ask("GET", "/portfolio/positions"))["net"]}
    assert held == {"CNC": 100, "MIS": 900}
    said = await client.refused("PUT", "/portfolio/positions", 400, "MarginException", data=asked | {"quantity": 900})
    assert "more are needed" in said
    await client.refused("PUT", "/portfolio/positions", 500, "OrderException", data=asked | {"quantity": 901})


async def test_a_large_order_is_sliced_where_it_is_asked_for(client):
    client.market.stocks["INFY"].last = client.market.stocks["INFY"].last / 1500
    large = order(150_000, "1.0", product="MIS", autoslice="true")
    said = await client.ask("POST", "/orders/regular", data=large)
    assert [row["quantity"] for row in await client.ask("GET", "/orders")] == [100_000, 50_000]
    assert said["order_id"] == said["children"][0]["order_id"]
    assert len(said["children"]) == 2


async def test_what_orders_would_cost(client):
    asked = [order(10, 1500), order(10, 1500, product="MIS")]
    cnc, mis = await client.ask("POST", "/margins/orders", json=asked)
    assert (cnc["total"], mis["total"], mis["leverage"]) == (15_000, 3_000, 5)
    basket = await client.ask("POST", "/margins/basket", json=[asked[1], asked[1] | {"transaction_type": "SELL"}])
    assert (basket["initial"]["total"], basket["final"]["total"]) == (6_000, 0)
    (note,) = await client.ask("POST", "/charges/orders", json=[asked[0] | {"average_price": 1500}])
    charges = note["charges"]
    assert (charges["transaction_tax"], charges["brokerage"], charges["stamp_duty"]) == (15, 0, 2.25)
    assert charges["total"] == pytest.approx(
        15 + 2.25 + charges["exchange_turnover_charge"] + 0.015 + charges["gst"]["total"]
    )
    await client.refused("POST", "/margins/orders", 400, "InputException", json={"not": "a list"})


async def test_an_unread_body_is_bounded(client):
    reply = await client.http.post(f"{client.url}/session/token", content=b"x" * (1 << 19))
    assert reply.status_code == 400

    async def parts():
        yield b"x"

    assert (await client.http.post(f"{client.url}/session/token", content=parts())).status_code == 400
    assert isinstance(reply, httpx.Response)


async def test_order_updates_are_posted_signed_to_the_clients_url(client, sessions):
    posted: list[dict] = []

    async def take(request: Request) -> Response:
        posted.append(await request.json())
        return Response()

    async with served(Starlette(routes=[Route("/hook", take, methods=["POST"])])) as url:
        async with sessions.begin() as session:
            owner = Actor("test", client.user, "")
            client.key = await make_key(
                session, client.world.vault, owner, client.user, client.account, REDIRECT, f"{url}/hook"
            )
        await client.log_in()
        pulse = Pulse(client.world)
        await client.place(10, 1490)
        await pulse.beat()  # what was there before it looked is no news
        number = await client.place()
        await pulse.beat()
        await pulse.posted()
    (told,) = posted
    signed = f"{number}{told['order_timestamp']}{client.key.api_secret}".encode()
    assert (told["order_id"], told["status"], told["filled_quantity"]) == (number, "COMPLETE", 10)
    assert told["checksum"] == sha256(signed).hexdigest()
