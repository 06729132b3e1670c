"""`sauda ml list|card|promote|demote|history`: what is registered, what serves, how it came to, and a person's word."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.common import Environment
from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from data_service.main import real_clock
from ml_service import lifecycle
from ml_service.config import Settings
from ml_service.pointers import Change, Entry, PointerError, Slot
from ml_service.registry import Artefact, ArtefactError, Registry
from ml_service.signing import SigningError, key_id, load_key, public_text
from sauda.ml_tables import print_record

app = typer.Typer(no_args_is_help=True)
console = Console()

HISTORY_LINES = 20

DataDir = Annotated[Path | None, typer.Option(help="Data folder; default DATA_DIR or ./data.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the history.")]


def _settings() -> Settings:
    return Settings()  # pyright: ignore[reportCallIssue]


def _registry(data_dir: Path | None) -> Registry:
    settings = _settings()
    return Registry(data_dir or settings.data_dir, settings.model_trusted_keys)


def _fail(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
    return typer.Exit(1)


def role(version: str, slot: Slot) -> str:
    """What a version is to a plan: current, shadow since a day, previous, or nothing."""
    if version == slot.current:
        return "current"
    if version == slot.shadow:
        return f"shadow since {slot.shadow_since}"
    return "previous" if version == slot.previous else ""


def _row(artefact: Artefact, slots: dict[str, Slot]) -> list[str]:
    certified = [f"{name}: {', '.join(modes)}" for name in artefact.models if (modes := artefact.certified(name))]
    return [
        artefact.version,
        artefact.environment.value,
        artefact.plan,
        artefact.trained_through.isoformat(),
        "; ".join(certified) or "nothing",
        role(artefact.sha256, slots.get(artefact.plan, Slot())),
    ]


def _print_key(data_dir: Path) -> None:
    key = load_key(data_dir)
    if key is not None:
        public = key.public_key()
        console.print(f"Signing key {key_id(public)}; its public part, for MODEL_TRUSTED_KEYS: {public_text(public)}")


@app.command("list")
def list_models(data_dir: DataDir = None) -> None:
    """List registered models and the key they are signed with; one that fails verification is shown with the reason."""
    environment = _settings().environment
    table = Table("version", "market", "plan", "trained through", "certified for", environment.value)
    try:
        registry = _registry(data_dir)
        slots = registry.slots(environment)
        for sha256 in registry.versions():
            try:
                artefact = registry.load(sha256)
            except ArtefactError as error:
                table.add_row(sha256[:12], f"[red]refused: {escape(str(error))}[/red]", "", "", "", "")
                continue
            table.add_row(*_row(artefact, slots if artefact.environment is environment else {}))
        console.print(table)
        _print_key(data_dir or _settings().data_dir)
    except (ArtefactError, SigningError) as error:
        raise _fail(error) from error


@app.command()
def card(version: str, data_dir: DataDir = None) -> None:
    """Show a model's card: its out-of-sample record and its manifest."""
    try:
        artefact = _registry(data_dir).find(version)
    except ArtefactError as error:
        raise _fail(error) from error
    print_record(console, artefact.manifest["strategy"], artefact.manifest)
    shown = {
        key: value for key, value in artefact.manifest.items() if key not in {"strategies", "metrics", "modes", "rules"}
    }
    console.print_json(data=shown)


def _say(outcome: Change | str) -> None:
    if isinstance(outcome, str):
        console.print(f"Nothing was changed: {outcome}.")
        return
    now = outcome.slot.current
    console.print(f"{outcome.event.value}: {outcome.version[:12]}. Current: {now[:12] if now else 'no model'}.")


@app.command()
def promote(version: str, reason: Reason, data_dir: DataDir = None) -> None:
    """Make a registered model current at once; the one it replaces can come back."""
    try:
        registry = _registry(data_dir)
        artefact = registry.find(version)
        _say(lifecycle.promote(registry, artefact, at=real_clock(), by=lifecycle.OPERATOR, reason=reason))
    except ArtefactError as error:
        raise _fail(error) from error


@app.command()
def demote(
    reason: Reason,
    plan: Annotated[str, typer.Option(help="Horizon in sessions, or intraday.")] = str(HORIZON_SESSIONS_DEFAULT),
    environment: Annotated[Environment | None, typer.Option(help="Default ENVIRONMENT.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Take a plan's current model out of service at once; the previous one comes back if it can be used."""
    chosen = environment or _settings().environment
    try:
        registry = _registry(data_dir)
        _say(lifecycle.demote(registry, chosen, plan, at=real_clock(), by=lifecycle.OPERATOR, reason=reason))
    except (ArtefactError, ValueError) as error:
        raise _fail(error) from error


def history_row(entry: Entry) -> list[str]:
    """One line of the history's table."""
    change = entry.change
    current = change.slot.current
    return [
        entry.at.isoformat(timespec="seconds"),
        entry.plan,
        change.event.value,
        change.version[:12],
        change.by,
        escape(change.reason),
        current[:12] if current else "no model",
    ]


@app.command()
def history(
    data_dir: DataDir = None,
    environment: Annotated[Environment | None, typer.Option(help="Default ENVIRONMENT.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=1000, help="How many changes, the newest.")] = HISTORY_LINES,
) -> None:
    """Show which models were promoted, demoted or tried as shadows, when, by whom and why; oldest first."""
    table = Table("at", "plan", "what", "version", "by", "reason", "then current")
    try:
        for entry in _registry(data_dir).pointers.history(environment or _settings().environment)[-lines:]:
            table.add_row(*history_row(entry))
    except (ArtefactError, PointerError) as error:
        raise _fail(error) from error
    console.print(table)
