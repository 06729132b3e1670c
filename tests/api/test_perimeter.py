"""Whose a request is, how large it may be, and the headers of every answer."""

import ipaddress
import re
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from backend.api.app import create_api
from backend.api.perimeter import (
    HEADER_BYTES_MAX,
    HEADERS_MAX,
    PATH_BYTES_MAX,
    QUERY_BYTES_MAX,
    Perimeter,
    client_address,
    networks_of,
    require_origins,
)
from backend.api.problems import BODY_BYTES_MAX, DEPTH_MAX, depth_of
from contracts.common import Problem
from tests.api.conftest import Gateway

PROXIES = networks_of(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not from a proxy: its word counts for nothing
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the left one may be anybody's invention
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),  # one header, two lines
        ("10.0.0.1", ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("2001:db8::1", ["2001:0DB9::0007"], "2001:db9::7"),
        ("testclient", ["198.51.100.7"], "testclient"),
    ],
)
def test_whose_request_it_is(peer, forwarded, address) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


@given(st.ip_addresses(), st.lists(st.one_of(st.text(max_size=20), st.ip_addresses().map(str)), max_size=30))
def test_who_is_no_proxy_cannot_say_who_it_is(peer, forwarded) -> None:
    found = client_address(str(peer), forwarded, PROXIES)
    if not any(peer in network for network in PROXIES):
        assert found == str(peer)
    ipaddress.ip_address(found)


async def test_the_address_is_the_clients_behind_a_proxy_and_the_proxys_otherwise(gateway: Gateway) -> None:
    for trusted, seen in (([], "10.1.2.3"), (PROXIES, "198.51.100.7")):
        app = create_api(replace(gateway.state, perimeter=Perimeter(trusted)))
        transport = httpx.ASGITransport(app, client=("10.1.2.3", 1))
        addresses: list[str] = []

        async def note(scope, receive, send, addresses=addresses) -> None:
            addresses.append(scope["client"][0])

        front = app.front.app if hasattr(app.front, "app") else app.front
        front._app = note
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            with pytest.raises(AssertionError):  # the stand-in answers nothing
                await client.get("/health", headers={"X-Forwarded-For": "1.1.1.1, 198.51.100.7"})
        assert addresses == [seen]


async def test_a_proxy_that_nobody_named_is_warned_of_once(gateway: Gateway) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.7"}
    for trusted, warnings in (([], 1), (PROXIES, 0)):
        app = create_api(replace(gateway.state, perimeter=Perimeter(trusted)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            with capture_logs() as logs:
                for headers in ({}, forwarded, forwarded):
                    await client.get("/health", headers=headers)
        assert [line["event"] for line in logs].count("proxy_not_trusted") == warnings


SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}


@pytest.mark.parametrize(
    ("path", "status", "cache"),
    [
        ("/v1/market/quotes", 200, "public, max-age=1"),
        ("/v1/plans", 200, "no-store"),
        ("/v1/orders", 401, "no-store"),
        ("/nowhere", 404, "no-store"),
        ("/v1/plans?" + "a" * (QUERY_BYTES_MAX + 1), 414, "no-store"),
        ("/health", 200, "no-store"),
    ],
)
async def test_every_answer_bears_the_headers_that_keep_browsers_safe(gateway: Gateway, path, status, cache) -> None:
    await gateway.state.quote_board.refresh()
    reply = await gateway.client.get(path)
    assert reply.status_code == status
    assert {name: reply.headers.get(name) for name in SECURITY} == SECURITY
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == cache
    assert "camera=()" in reply.headers["permissions-policy"]
    assert "strict-transport-security" not in reply.headers
    assert not {"server", "x-powered-by"} & reply.headers.keys()


async def test_behind_tls_browsers_are_told_to_keep_to_it(gateway: Gateway) -> None:
    app = create_api(replace(gateway.state, perimeter=Perimeter(tls=True)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        assert "max-age=63072000" in (await client.get("/health")).headers["strict-transport-security"]


async def test_the_documentation_needs_no_other_host(gateway: Gateway) -> None:
    """Its policy lets nothing else in: a link to another host would be a page that does not work."""
    page = await gateway.client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        asset = await gateway.client.get(path)
        assert asset.status_code == 200, path
        assert len(asset.content) > 100


# ---- how large


@pytest.mark.parametrize(
    ("headers", "path", "status", "code"),
    [
        ({f"x-{n}": "" for n in range(HEADERS_MAX)}, "/health", 431, "headers_too_large"),
        ({"x-long": "a" * HEADER_BYTES_MAX}, "/health", 431, "headers_too_large"),
        ({"x-long": "a" * (HEADER_BYTES_MAX - 500)}, "/health", 200, None),
        ({}, "/" + "a" * PATH_BYTES_MAX, 414, "uri_too_long"),
        ({}, "/" + "a" * (PATH_BYTES_MAX - 1), 404, "not_found"),
        ({}, "/health?" + "a" * (QUERY_BYTES_MAX + 1), 414, "uri_too_long"),
        ({}, "/health?" + "a" * QUERY_BYTES_MAX, 200, None),
    ],
)
async def test_a_request_has_bounds(gateway: Gateway, headers, path, status, code) -> None:
    reply = await gateway.client.get(path, headers=headers)
    assert reply.status_code == status
    if code is not None:
        assert Problem.model_validate_json(reply.content).code == code


def nested(levels: int) -> bytes:
    return b'{"email":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (nested(DEPTH_MAX), 422),
        (nested(DEPTH_MAX + 1), 400),
        (b"[" * (BODY_BYTES_MAX - 1), 400),
        (b"[" * (BODY_BYTES_MAX + 1), 413),
        (b'{"email":"' + b"[" * 1000 + b'","password":"x"}', 422),  # in a string they are letters
    ],
)
async def test_a_body_has_bounds(gateway: Gateway, body, status) -> None:
    reply = await gateway.client.post("/v1/auth/login", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    Problem.model_validate_json(reply.content)


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_depth_is_that_of_the_parsed_value(value) -> None:
    import json

    def depth(part) -> int:
        if isinstance(part, dict):
            return 1 + max(map(depth, part.values()), default=0)
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    body = json.dumps(value).encode()
    padded = b"[" + body + b",[]" * DEPTH_MAX + b"]"
    assert depth_of(padded) == max(2, 1 + depth(value))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_look_at_depth(body) -> None:
    assert depth_of(body * 20) >= 0


# ---- CORS


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "https://app.example.com/", "app.example.com", "null", "https://", "file:///"],
)
def test_only_exact_origins_may_be_named(gateway: Gateway, origin) -> None:
    with pytest.raises(ValueError, match="CORS_ORIGINS"):
        create_api(replace(gateway.state, cors_origins=(origin,)))


def test_an_exact_origin_is_taken() -> None:
    require_origins(["https://app.example.com", "http://localhost:5173"])


async def test_another_origin_gets_no_leave(gateway: Gateway) -> None:
    for origin, allowed in (("https://app.example.com", True), ("https://app.example.com.evil.test", False)):
        reply = await gateway.client.get("/v1/plans", headers={"Origin": origin})
        assert (reply.headers.get("access-control-allow-origin") == origin) is allowed
