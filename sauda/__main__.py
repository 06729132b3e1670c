"""The command line: `sauda up|replay|sandbox|backtest|data|ml|admin|check`.

A module is imported when its command is called.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "up": "sauda.up_command:up",
    "replay": "sauda.replay:replay",
    "sandbox": "sauda.sandbox:sandbox",
    "backtest": "sauda.backtest:backtest",
    "data": "sauda.data:app",
    "ml": "sauda.ml:app",
    "admin": "sauda.admin:admin",
    "check": "sauda.checks:check",
}
"""Name → module:attribute; the attribute is a function or a Typer of its own."""


class LazyGroup(TyperGroup):
    """Loads a command when it is asked for: polars and scikit-learn alone take seconds that most need not wait."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the base class's signature
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        return _as_command(cmd_name, getattr(import_module(module), attribute))


def _as_command(name: str, found: typer.Typer | Callable[..., None]) -> Any:
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    else:
        single = typer.Typer(add_completion=False)
        single.command()(found)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def sauda() -> None:
    """Sauda trades Indian equities automatically."""


if __name__ == "__main__":
    app()
