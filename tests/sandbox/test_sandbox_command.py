"""`sauda sandbox`: whom it lets in, and the key that it makes once and keeps for its owner alone."""

from dataclasses import replace

import pytest

from backend.brokers.base import AccountSnapshot
from sauda.sandbox import KEY_FILE, Options, ensure_key, require_own_machine, world_of
from sauda.up import StartError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_its_own_machine_is_let_in(host):
    require_own_machine(host, anyone=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com"])
def test_others_are_let_in_only_where_that_is_meant(host):
    with pytest.raises(StartError, match="--anyone"):
        require_own_machine(host, anyone=False)
    require_own_machine(host, anyone=True)


async def test_the_key_is_made_once_and_kept_for_its_owner(kite, sessions, tmp_path):
    url = kite.world.market_data._url
    world = world_of(kite.world.sessions, kite.http, url, kite.world.vault, limits=True)
    options = Options("127.0.0.1", 1, tmp_path, 7, 1.0, 250_000, "http://127.0.0.1/", "", limits=True)
    key = await ensure_key(sessions, world, options)
    assert await ensure_key(sessions, world, options) == key
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    moved = await ensure_key(sessions, world, replace(options, redirect_url="http://127.0.0.1:5/"))
    assert moved != key
    (tmp_path / KEY_FILE).write_text("damaged")
    assert await ensure_key(sessions, world, options) not in (key, moved)
    (found,) = (await world.broker.snapshots([kite.account + 1])).values()
    assert isinstance(found, AccountSnapshot)
    assert found.cash == 250_000
