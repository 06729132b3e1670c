"""Secrets that are handed in come out nowhere: not in logs, answers, or any table, in plain or as hex."""

import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend import log
from backend.api.app import create_api
from backend.models import Base
from backend.vault import Vault
from tests.api.conftest import gateway_over

CANARY = "canary-7f3a9c51e2"
SECRET = re.compile(r"password|token|secret|code|totp|credential|api_key|client_id|pin|signature|fields", re.IGNORECASE)


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """The file that everything is logged to, at every level, as a gateway does it."""
    log.configure("DEBUG", tmp_path / "log")
    return tmp_path / "log"


def planted(body: Any, *, secret: bool = False) -> Any:
    """An example body with a canary in each field that a secret belongs in; the figure keeps it long and varied."""
    if isinstance(body, dict):
        return {name: planted(value, secret=secret or bool(SECRET.search(name))) for name, value in body.items()}
    if isinstance(body, list):
        return [planted(value, secret=secret) for value in body]
    return f"{CANARY}-Zq8" if secret and isinstance(body, str) else body


class Broken:
    """A database that fails in the middle of anything, with what it was asked in its words."""

    def __call__(self) -> Any:
        raise RuntimeError("the database has fallen over")

    begin = __call__


async def calls(client: httpx.AsyncClient, document: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[str]:
    """Every operation with canaries in its body, query and headers; yields each answer's text."""
    for path, operations in document["paths"].items():
        if path.startswith("/v1/stream/") or path.endswith("/events"):
            continue
        for method, operation in operations.items():
            example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            url = re.sub(r"\{(\w+)\}", lambda m: "1" if m[1].endswith("id") else "INFY", path)
            for presented in (
                headers,
                {"Authorization": f"Bearer {CANARY}"},
                {"Authorization": f"Bearer sauda_abcd_{CANARY * 3}"},
            ):
                reply = await client.request(
                    method,
                    url,
                    params={"token": CANARY},
                    json=planted(example) if example is not None else None,
                    headers=presented | {"Cookie": f"__Host-sauda_refresh={CANARY}", "X-Api-Key": CANARY},
                )
                yield f"{method} {url} {reply.status_code} {reply.headers} {reply.text}"


async def everything_kept(owner: AsyncEngine) -> str:
    """All rows of all tables, as text."""
    async with owner.connect() as connection:
        rows = [
            str(row)
            for table in Base.metadata.tables
            for row in (await connection.execute(text(f"SELECT t::text FROM {table} t"))).scalars()
        ]
    return "\n".join(rows)


async def test_no_secret_that_is_handed_in_comes_out_anywhere(
    database_url: str, owner: AsyncEngine, logged: Path
) -> None:
    async with gateway_over(database_url) as gateway:
        vault = Vault({"k": bytes(range(32))})
        user = await gateway.someone("pro", admin=True, account=True)
        answers: list[str] = []
        for state in (
            replace(gateway.state, vault=vault),
            replace(gateway.state, vault=vault, sessions=Broken(), trading=SimpleNamespace(), desk=SimpleNamespace()),
        ):
            app = create_api(state)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                answers += [answer async for answer in calls(client, app.openapi(), user.headers)]
        statuses = {int(answer.split()[2]) for answer in answers}
        assert {200, 401, 422, 500} <= statuses
        assert not [answer for answer in answers if CANARY in answer]
        kept = await everything_kept(owner)
    assert user.email in kept
    for form in (CANARY, CANARY.encode().hex()):
        assert form not in kept
    written = logged.read_text()  # noqa: ASYNC240 - nothing else runs
    assert "request_crashed" in written
    assert [line for line in written.splitlines() if CANARY in line] == []
    assert user.headers["Authorization"][7:] not in written


@pytest.mark.parametrize(
    "event",
    [
        {"password": "s3cret"},
        {"Authorization": "s3cret"},
        {"x": {"refresh_token": "s3cret"}},
        {"x": [{"api_secret": ["s3cret"]}]},
        {"error": "GET /x HTTP/1.1 Authorization: Bearer s3cret-s3cret"},
        {"error": "at eyJhbGciOiJIUzI1.s3cret.s3cret in"},
        {"key": "sauda_abcd_s3crets3crets3crets3crets3cret"},
        {"url": "postgresql://sauda:s3cret@host/db"},
        {"link": "https://app.example.com/reset?token=s3cret&x=1"},
    ],
)
def test_what_is_secret_by_name_or_form_is_hidden(event) -> None:
    hidden = json.dumps(log.hide_secrets(None, "", event))
    assert "s3cret" not in hidden
    assert log.HIDDEN in hidden


def test_both_ways_of_logging_hide(logged: Path) -> None:
    structlog.get_logger().warning("event", password="s3cret", url="redis://user:s3cret@host")
    logging.getLogger("library").error("Authorization: Bearer %s", "s3cret-s3cret")
    written = logged.read_text()
    assert written.count(log.HIDDEN) == 3
    assert "s3cret" not in written


@pytest.mark.parametrize("event", [{"code": "plan_required"}, {"event": "cycle", "users": 3}, {"path": "/v1/orders/7"}])
def test_what_is_no_secret_stays(event) -> None:
    assert log.hide_secrets(None, "", dict(event)) == event


@given(st.recursive(st.none() | st.integers() | st.text(), lambda p: st.lists(p) | st.dictionaries(st.text(), p)))
def test_nothing_breaks_the_hiding(value) -> None:
    log.hide_secrets(None, "", {"event": value})
