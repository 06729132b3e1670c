"""`sauda admin rotate-keys`: every sealed secret under the newest master key, while the gateway runs."""

from pathlib import Path
from typing import Annotated

import typer

from backend.config import Settings
from backend.db import Sessions
from backend.services.key_rotation_service import keys_in_use, require_keys, rotate
from backend.vault import Vault, VaultError, make_master_key_file, read_master_key_file, read_master_keys
from sauda.admin_tools import EMBEDDED_KEYS, DatabaseUrl, doer, on_database, refuse


def rotate_keys(
    new_key: Annotated[
        str | None, typer.Option(help="First put a new key of this name in front of the others in the file.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File of master keys; MASTER_KEY_FILE where left out, else data/master.keys.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say which secrets need which key.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Wrap every sealed secret under the first master key. It may be stopped, run again, and run beside the gateway."""
    try:
        vault = _vault(key_file, new_key)
        on_database(database_url, lambda sessions: _check(sessions, vault) if check else _rotate(sessions, vault))
    except VaultError as error:
        refuse(str(error))


def _vault(given: Path | None, new_key: str | None) -> Vault:
    settings = Settings()
    embedded = settings.data_dir / EMBEDDED_KEYS
    path = given or settings.master_key_file or (embedded if embedded.exists() else None)
    if new_key is not None:
        if path is None:
            raise VaultError("There is no file to put a new key in: set MASTER_KEY_FILE, or give --key-file")
        make_master_key_file(path, new_key)
        typer.echo(f"{path} begins with the new key {new_key!r} now: back it up, apart from the database.")
    keys = read_master_keys(settings.master_keys.get_secret_value())
    return Vault(keys if path is None else read_master_key_file(path) | keys)


async def _rotate(sessions: Sessions, vault: Vault) -> None:
    rotated = await rotate(sessions, vault, doer(), lambda done: typer.echo(f"{done} secrets done"))
    typer.echo(
        f"All secrets stand under {vault.current!r}; wrapped anew: {rotated.credentials} of broker accounts, "
        f"{rotated.second_factors} of second factors."
    )
    old = [name for name in vault.key_ids if name != vault.current]
    if old:
        typer.echo(
            f"Not needed any more by this database: {', '.join(old)}. "
            "Backups of it are still sealed with them: keep them as long as those."
        )


async def _check(sessions: Sessions, vault: Vault) -> None:
    for name, rows in sorted((await keys_in_use(sessions)).items()):
        note = " (seals)" if name == vault.current else "" if name in vault.key_ids else " (MISSING)"
        typer.echo(f"{name}: {rows} secrets{note}")
    await require_keys(sessions, vault)
