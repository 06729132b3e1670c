"""Opening accounts at brokers: what is kept for moments, where calls leave from, and how often an account may call."""

import asyncio
import time
from collections import Counter
from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from backend.brokers.adapter import CallKind, Rate
from backend.brokers.base import BrokerUnavailableError, RateLimitedError, SessionExpiredError
from backend.models import BrokerAccount, BrokerAccountStatus, User
from backend.services import broker_access
from backend.services.broker_access import BrokerAccesses, CallCounter, Egress, counted_with
from backend.vault import Vault
from tests.brokers.rest_server import Request, RestServer, json_answer
from tests.support.live_desk import EGRESS_IP, open_live_desk

# ---- counting calls


async def an_account(sessions) -> int:
    async with sessions.begin() as session:
        user = User(email="asha@example.com")
        session.add(user)
        await session.flush()
        ready = BrokerAccountStatus.READY
        account = BrokerAccount(user_id=user.id, broker="zerodha", label="p", status=ready, is_primary=True)
        session.add(account)
        await session.flush()
        return account.id


async def taken(counter: CallCounter, account_id: int, kind: CallKind) -> bool:
    try:
        await counter.take(account_id, kind, 0)
    except RateLimitedError:
        return False
    return True


async def test_two_counters_together_never_let_one_call_too_many_through(sessions, trader_sessions) -> None:
    """As two processes would be: each with connections of its own, all calls at once."""
    account_id = await an_account(sessions)
    rates = {CallKind.READ: [Rate(7, 60)]}
    counters = [CallCounter(trader_sessions, rates), CallCounter(sessions, rates)]
    results = await asyncio.gather(*(taken(counters[n % 2], account_id, CallKind.READ) for n in range(20)))
    assert Counter(results) == {True: 7, False: 13}


async def test_cancels_find_room_when_orders_find_none(sessions, trader_sessions) -> None:
    account_id = await an_account(sessions)
    counter = CallCounter(trader_sessions, {CallKind.ORDER: [Rate(10, 60), Rate(400, 600)]})
    orders = [await taken(counter, account_id, CallKind.ORDER) for _ in range(9)]
    cancels = [await taken(counter, account_id, CallKind.CANCEL) for _ in range(3)]
    assert (orders, cancels) == ([True] * 8 + [False], [True, True, False])
    assert await taken(counter, account_id, CallKind.READ)  # what has no rate is not counted


async def test_every_span_counts_and_what_is_past_does_not(sessions, trader_sessions) -> None:
    account_id = await an_account(sessions)
    counter = CallCounter(trader_sessions, {CallKind.READ: [Rate(2, 1), Rate(3, 60)]})
    age = text("UPDATE broker_calls SET at = at - make_interval(secs => :s)")

    async def pass_by(seconds: int) -> None:
        async with trader_sessions.begin() as session:
            await session.execute(age, {"s": seconds})

    assert [await taken(counter, account_id, CallKind.READ) for _ in range(3)] == [True, True, False]
    await pass_by(2)
    assert [await taken(counter, account_id, CallKind.READ) for _ in range(2)] == [True, False]
    await pass_by(60)
    assert await taken(counter, account_id, CallKind.READ)


async def test_a_busy_second_is_waited_for_and_a_deadline_kept(sessions, trader_sessions) -> None:
    account_id = await an_account(sessions)
    counter = CallCounter(trader_sessions, {CallKind.READ: [Rate(1, 0.3)]})
    await counter.take(account_id, CallKind.READ, 0)
    await counter.take(account_id, CallKind.READ, time.monotonic() + 10)
    slow = CallCounter(trader_sessions, {CallKind.READ: [Rate(1, 60)]})
    with pytest.raises(RateLimitedError, match="read calls"):
        await slow.take(account_id, CallKind.READ, time.monotonic() + 0.1)


@given(st.lists(st.builds(Rate, st.integers(1, 5000), st.floats(0.1, 86400)), max_size=4))
def test_orders_always_leave_a_part_of_each_span_to_cancels(rates: list[Rate]) -> None:
    given_ = {CallKind.ORDER: rates}
    together, orders = counted_with(CallKind.ORDER, given_)
    assert counted_with(CallKind.CANCEL, given_) == (together, rates)
    assert all(0 <= own.calls < whole.calls for own, whole in zip(orders, rates, strict=True))


# ---- where calls leave from


@pytest.mark.parametrize("route", ["", "Direct", "10.0.0.1", "ftp://proxy", "socks5://proxy"])
def test_a_route_that_cannot_be_meant_is_refused(route: str) -> None:
    with pytest.raises(ValueError, match=r"EGRESS_ROUTES: 192\.0\.2\.7"):
        Egress({"192.0.2.7": route})


async def test_each_address_has_its_own_way_out() -> None:
    seen: list[Request] = []

    def handle(request: Request):
        seen.append(request)
        return json_answer({"by": "proxy"})

    async with RestServer(handle) as proxy:
        egress = Egress({"192.0.2.7": proxy.url, "192.0.2.8": "bind:127.0.0.9", "192.0.2.9": "direct"})
        through, address = egress.client("192.0.2.7")
        assert (await through.get("http://broker.invalid/orders")).json() == {"by": "proxy"}
        assert address == "192.0.2.7"
        unknown, address = egress.client("198.51.100.1")
        assert address == ""
        assert unknown is egress.client("")[0]
        assert len({egress.client(a)[0] for a in ("192.0.2.7", "192.0.2.8", "192.0.2.9", "")}) == 4
        await egress.close()


async def test_a_bound_address_is_the_one_that_the_other_end_sees() -> None:
    peers: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    egress = Egress({"192.0.2.8": "bind:127.0.0.9"})
    async with server:
        await egress.client("192.0.2.8")[0].get(f"http://127.0.0.1:{port}/")
    await egress.close()
    assert peers == ["127.0.0.9"]


async def test_the_environments_own_proxy_is_nobodys_approved_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RestServer(lambda _: json_answer({})) as server:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        egress = Egress({"192.0.2.9": "direct", "192.0.2.8": "bind:127.0.0.1"})
        for address in ("192.0.2.9", "192.0.2.8", ""):
            assert (await egress.client(address)[0].get(server.url)).status_code == 200
        await egress.close()


# ---- opening an account


@pytest.fixture
async def desk(trading, market, sessions):
    async with open_live_desk(trading, market, sessions) as desk:
        yield desk


async def test_an_account_opens_with_its_token_and_address_until_its_session_ends(desk, make_user) -> None:
    account_id = await desk.account(await make_user())
    access = await desk.accesses.access(account_id)
    assert desk.kite.sessions[access.token]
    assert (access.client_id, access.egress_ip) == ("AB1234", EGRESS_IP)
    assert access.token not in repr(access)
    late = BrokerAccesses(desk.trading.sessions, desk.logins.vault, Egress({}), lambda: desk.now() + timedelta(days=1))
    with pytest.raises(SessionExpiredError, match="log in there"):
        await late.access(account_id)


async def test_without_the_right_keys_an_account_stays_shut(desk, make_user) -> None:
    account_id = await desk.account(await make_user())
    for vault in (None, Vault({"first": bytes(32)})):
        closed = BrokerAccesses(desk.trading.sessions, vault, Egress({}), desk.now)
        with pytest.raises(BrokerUnavailableError, match="cannot be opened"):
            await closed.access(account_id)


async def test_a_logout_works_within_seconds_in_every_process(desk, make_user, monkeypatch) -> None:
    account_id = await desk.account(await make_user())
    await desk.accesses.access(account_id)
    async with desk.trading.sessions.begin() as session:
        await session.execute(text("UPDATE broker_sessions SET ended_at = now()"))
    assert await desk.accesses.access(account_id)  # for the moments that it is kept
    clock = time.monotonic()
    monkeypatch.setattr(broker_access.time, "monotonic", lambda: clock + broker_access.KEPT_S + 1)
    with pytest.raises(SessionExpiredError):
        await desk.accesses.access(account_id)


async def test_an_old_access_that_fails_does_not_end_a_newer_session(desk, make_user) -> None:
    user_id = await make_user()
    account_id = await desk.account(user_id)
    old = await desk.accesses.access(account_id)
    desk.market.now += timedelta(minutes=1)
    await desk.log_in(user_id, account_id)
    desk.accesses._kept.clear()
    new = await desk.accesses.access(account_id)
    await desk.accesses.expired(old)
    assert (await desk.accesses.access(account_id)).token == new.token


def test_clients_follow_no_redirect() -> None:
    egress = Egress({"192.0.2.9": "direct"})
    assert not egress.client("192.0.2.9")[0].follow_redirects
    assert isinstance(egress.client("")[0], httpx.AsyncClient)
