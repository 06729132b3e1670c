"""The gateway as it is really wired: who registers gets a mail on the console, and a bad setting stops it in a line."""

import asyncio
from pathlib import Path

import httpx
import pytest

from backend import log
from backend.config import Settings
from backend.main import create_app

NOWHERE = "http://127.0.0.1:1"


def settings_of(database_url: str, folder: Path, **changes: str) -> Settings:
    given = {"secret_key": "k" * 40, "public_url": "https://app.example.com"} | changes
    return Settings(_env_file=None, database_url=database_url, data_dir=folder, data_service_url=NOWHERE, **given)


async def test_a_newcomers_mail_is_printed_with_its_link(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(log, "announce", lines.put_nowait)
    app = create_app(settings_of(database_url, tmp_path))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            body = {"email": "asha@example.com", "password": "correct horse battery"}
            assert (await client.post("/v1/auth/register", json=body)).status_code == 202
            tokens = (await client.post("/v1/auth/login", json=body)).json()
            assert tokens["expires_in_s"] == 600
        line = ""
        while "mail to asha@example.com" not in line:
            line = await asyncio.wait_for(lines.get(), 20)
    assert "https://app.example.com/verify-email#token=" in line


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("secret_key", "short", "SECRET_KEY"),
        ("secret_key_previous", "short", "SECRET_KEY_PREVIOUS"),
        ("smtp_url", "mail.example", "SMTP_URL"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_start(tmp_path: Path, name: str, value: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        create_app(settings_of("postgresql://nobody@/nowhere", tmp_path, **{name: value}))
