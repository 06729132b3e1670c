"""The sandbox's market data, limits and triggers over real HTTP, and its ticker over a real WebSocket."""

import asyncio
import csv
import io
import json
import struct
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from backend.sandbox import gtt, ticks
from backend.sandbox.limits import CallLimits, Group
from backend.sandbox.words import KiteError, tokens_of
from tests.support.market_server import Stock, quote_of


@pytest.fixture
def pulse_s() -> float:
    return 0.05


async def test_quotes_by_name_and_by_token(client):
    token = tokens_of(["INFY", "TCS"])["INFY"]
    names = {"i": ["NSE:INFY", str(token), "NSE:NONE", "BSE:INFY"]}
    full = await client.ask("GET", "/quote", params=names)
    assert set(full) == {"NSE:INFY", str(token)}
    quote = full["NSE:INFY"]
    assert (quote["last_price"], quote["instrument_token"], quote["timestamp"]) == (1500, token, "2024-03-18 10:00:00")
    assert quote["depth"]["buy"][0] == {"price": 1499.95, "quantity": 10_000, "orders": 1}
    assert len(quote["depth"]["sell"]) == 5
    assert (await client.ask("GET", "/quote/ohlc", params=names))["NSE:INFY"]["ohlc"]["close"] == 1500
    ltp = await client.ask("GET", "/quote/ltp", params=names)
    assert ltp["NSE:INFY"] == {"instrument_token": token, "last_price": 1500}
    await client.refused("GET", "/quote", 400, "InputException")


async def test_the_list_of_instruments_is_csv(client):
    headers = {"Authorization": f"token {client.key.api_key}:{client.token}"}
    reply = await client.http.get(f"{client.url}/instruments/NSE", headers=headers)
    assert reply.headers["content-encoding"] == "gzip"
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [(row["tradingsymbol"], row["tick_size"], row["exchange"]) for row in rows] == [
        ("INFY", "0.05", "NSE"),
        ("TCS", "0.05", "NSE"),
    ]
    assert all(int(row["instrument_token"]) == int(row["exchange_token"]) << 8 | 1 for row in rows)
    assert (await client.http.get(f"{client.url}/instruments", headers=headers)).text == reply.text
    assert (await client.http.get(f"{client.url}/instruments/BSE", headers=headers)).text.count("\n") == 1


@given(st.sets(st.from_regex("[A-Z]{1,6}", fullmatch=True), max_size=40))
def test_every_share_has_a_token_of_its_own_in_its_segment(symbols):
    tokens = tokens_of(symbols)
    assert len(set(tokens.values())) == len(symbols)
    assert all(token & 0xFF == 1 and 0 < token < 2**31 for token in tokens.values())


async def test_candles_carry_an_offset_without_a_colon(client):
    client.bar(1500, 1510, 1490, volume=700)
    client.bar(1505, 1506, 1504)
    token = tokens_of(["INFY", "TCS"])["INFY"]
    asked = {"from": "2024-03-18 10:00:00", "to": "2024-03-18 10:00:59", "oi": 1}
    found = await client.ask("GET", f"/instruments/historical/{token}/minute", params=asked)
    assert found == {"candles": [["2024-03-18T10:00:00+0530", 1500, 1510, 1490, 1500, 700, 0]]}
    for wrong in ({"from": "x"}, {"to": "2024-03-17 10:00:00"}, {"to": "2025-03-18 10:00:00"}):
        await client.refused(
            "GET", f"/instruments/historical/{token}/minute", 400, "InputException", params=asked | wrong
        )
    await client.refused("GET", f"/instruments/historical/{token}/2minute", 400, "InputException", params=asked)
    await client.refused("GET", "/instruments/historical/5/minute", 400, "InputException", params=asked)


# ---- limits


def test_a_call_too_many_is_turned_away_and_the_next_second_is_free():
    clock = [0.0]
    limits = CallLimits(clock=lambda: clock[0])
    for _ in range(10):
        limits.take("a", Group.ORDER)
    with pytest.raises(KiteError) as refused:
        limits.take("a", Group.ORDER)
    assert (refused.value.status, refused.value.message) == (429, "Too many requests")
    limits.take("b", Group.ORDER)
    limits.take("a", Group.OTHER)
    for minute in range(1, 40):
        clock[0] = minute * 1.0
        for _ in range(10):
            limits.take("a", Group.ORDER)
    clock[0] = 40.0
    with pytest.raises(KiteError):  # 400 in the minute
        limits.take("a", Group.ORDER)
    clock[0] = 60.0
    limits.take("a", Group.ORDER)


async def test_limits_are_told_as_429(client):
    object.__setattr__(client.world, "limits", CallLimits(clock=lambda: 0.0))
    await client.ask("GET", "/quote/ltp", params={"i": "NSE:INFY"})
    await client.refused("GET", "/quote/ltp", 429, "NetworkException", params={"i": "NSE:INFY"})


# ---- triggers


def trigger(values, orders=1, **changes):
    leg = {"transaction_type": "BUY", "quantity": 10, "order_type": "LIMIT", "product": "CNC", "price": 1495}
    condition = {"exchange": "NSE", "tradingsymbol": "INFY", "trigger_values": values, "last_price": 1500}
    kind = "single" if len(values) == 1 else "two-leg"
    return {
        "type": kind,
        "condition": json.dumps(condition | changes.pop("condition", {})),
        "orders": json.dumps([leg | changes] * orders),
    }


async def until(check, timeout_s: float = 8.0):
    async with asyncio.timeout(timeout_s):
        while not (found := await check()):  # noqa: ASYNC110 - the other side is a server
            await asyncio.sleep(0.02)
    return found


async def test_a_trigger_fires_once_its_price_comes(client):
    number = (await client.ask("POST", "/gtt/triggers", data=trigger([1490])))["trigger_id"]
    one = await client.ask("GET", f"/gtt/triggers/{number}")
    assert (one["status"], one["type"], one["condition"]["trigger_values"]) == ("active", "single", [1490])
    assert await client.ask("GET", "/orders") == []
    client.market.stocks["INFY"].last = Decimal(1489)

    async def fired():
        row = await client.ask("GET", f"/gtt/triggers/{number}")
        return row if row["orders"][0]["result"] else None

    row = await until(fired)
    assert row["status"] == "triggered"
    (placed,) = await client.ask("GET", "/orders")
    assert row["orders"][0]["result"]["order_result"]["order_id"] == placed["order_id"]
    assert placed["status"] == "COMPLETE"


async def test_of_two_legs_the_first_to_come_ends_the_other(client):
    await client.place(10, 1510)
    legs = trigger([1450, 1550], orders=2, transaction_type="SELL", price=1540)
    number = (await client.ask("POST", "/gtt/triggers", data=legs))["trigger_id"]
    client.market.stocks["INFY"].last = Decimal(1551)

    async def fired():
        row = await client.ask("GET", f"/gtt/triggers/{number}")
        return row if row["orders"][1]["result"] else None

    row = await until(fired)
    assert row["orders"][0]["result"] is None
    assert row["orders"][1]["result"]["order_result"]["status"] == "success"
    client.market.stocks["INFY"].last = Decimal(1449)
    await asyncio.sleep(0.15)  # three looks at the market
    assert len(await client.ask("GET", "/orders")) == 2


async def test_triggers_are_changed_and_removed(client):
    number = (await client.ask("POST", "/gtt/triggers", data=trigger([1400])))["trigger_id"]
    await client.ask("PUT", f"/gtt/triggers/{number}", data=trigger([1410]))
    (row,) = await client.ask("GET", "/gtt/triggers")
    assert row["condition"]["trigger_values"] == [1410]
    assert await client.ask("DELETE", f"/gtt/triggers/{number}") == {"trigger_id": number}
    assert await client.ask("GET", "/gtt/triggers") == []
    await client.refused("DELETE", f"/gtt/triggers/{number}", 400, "InputException")
    for wrong in (
        trigger([1500]),
        trigger([1400, 1450], orders=2),
        trigger([1400], orders=2),
        trigger([1400], product="MIS"),
        trigger([1400]) | {"orders": "[" * 5000},
        trigger([1400], condition={"trigger_values": "x"}),
    ):
        await client.refused("POST", "/gtt/triggers", 400, "InputException", data=wrong)


# ---- the ticker


def test_packets_are_laid_out_as_documented(client_quote):
    quote = client_quote
    sizes = {mode: len(ticks.packet(408065, quote, mode, 7)) for mode in ticks.MODES}
    assert sizes == {"ltp": 8, "quote": 44, "full": 184}
    index = {mode: len(ticks.packet(256265, quote, mode, 7)) for mode in ticks.MODES}
    assert index == {"ltp": 8, "quote": 28, "full": 32}
    full = ticks.packet(408065, quote, "full", 7)
    assert struct.unpack(">2I", full[:8]) == (408065, 150_000)
    assert struct.unpack(">4I", full[28:44]) == (150_000, 150_000, 150_000, 150_000)
    assert struct.unpack(">I", full[60:64]) == (int(quote.as_of.timestamp()),)
    assert struct.unpack(">IIHH", full[64:76]) == (7, 149_995, 1, 0)
    assert struct.unpack(">IIHH", full[124:136]) == (7, 150_005, 1, 0)
    message = ticks.message([b"ab", b"c"])
    assert message == b"\x00\x02\x00\x02ab\x00\x01c"


@pytest.fixture
def client_quote(market):
    return quote_of("INFY", Stock(Decimal(1500)), market.now)


async def test_the_ticker_sends_ticks_heartbeats_and_order_updates(client):
    token = tokens_of(["INFY", "TCS"])["INFY"]
    url = f"{client.url.replace('http', 'ws')}/ws?api_key={client.key.api_key}&access_token="
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url + "wrong")
    async with connect(url + client.token) as socket:
        assert await socket.recv() == b"\x00"

        async def received(wanted):
            async with asyncio.timeout(8):
                while not wanted(found := await socket.recv()):
                    pass
            return found

        await socket.send(json.dumps({"a": "subscribe", "v": [token]}))
        tick = await received(lambda m: isinstance(m, bytes) and len(m) > 1)
        assert struct.unpack(">HHII", tick[:12]) == (1, 44, token, 150_000)
        await socket.send(json.dumps({"a": "mode", "v": ["ltp", [token]]}))
        await received(lambda m: isinstance(m, bytes) and len(m) == 12)
        client.market.stocks["INFY"].last = Decimal(1501)
        tick = await received(lambda m: isinstance(m, bytes) and len(m) == 12)
        assert struct.unpack(">II", tick[4:]) == (token, 150_100)
        number = await client.place(10, 1490)
        update = json.loads(await received(lambda m: isinstance(m, str)))
        assert (update["type"], update["data"]["order_id"], update["data"]["status"]) == ("order", number, "OPEN")
        client.bar(1480, 1481, 1479)
        update = json.loads(await received(lambda m: isinstance(m, str)))
        assert (update["data"]["status"], update["data"]["filled_quantity"]) == ("COMPLETE", 10)
        await socket.send("nonsense")
        assert json.loads(await received(lambda m: isinstance(m, str)))["type"] == "error"
        await socket.send(json.dumps({"a": "subscribe", "v": list(range(3001))}))
        assert "3000" in json.loads(await received(lambda m: isinstance(m, str)))["data"]


async def test_a_trigger_fires_once_and_never_on_terms_of_before(client):
    number = (await client.ask("POST", "/gtt/triggers", data=trigger([1400])))["trigger_id"]
    (before,) = await gtt.active(client.world)
    client.market.now += timedelta(seconds=1)
    await client.ask("PUT", f"/gtt/triggers/{number}", data=trigger([1300]))
    (changed,) = await gtt.active(client.world)
    fallen = quote_of("INFY", Stock(Decimal(1390)), client.market.now)
    assert not await gtt.fire(client.world, before, fallen, client.market.now)
    assert not await gtt.fire(client.world, changed, fallen, client.market.now)
    crashed = quote_of("INFY", Stock(Decimal(1299)), client.market.now)
    assert [await gtt.fire(client.world, changed, crashed, client.market.now) for _ in range(2)] == [True, False]


async def test_time_ends_a_trigger(client):
    number = (await client.ask("POST", "/gtt/triggers", data=trigger([1400])))["trigger_id"]
    client.market.now += timedelta(days=365)

    async def expired():
        return (await client.ask("GET", f"/gtt/triggers/{number}"))["status"] == "expired"

    await until(expired)
