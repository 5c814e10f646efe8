"""The command group, and what a user sees when something goes wrong."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from midstream.cli.anatomy import anatomy
from midstream.cli.read import read
from midstream.errors import MidstreamError

INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands; an error raised on purpose is one sentence on standard error, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MidstreamError as error:
            print(f"midstream: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print("midstream: interrupted; nothing was written.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    name="midstream",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Read a language model in the middle of its thinking.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"midstream {version('midstream')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Read a language model in the middle of its thinking."""


app.command()(read)
app.command()(anatomy)


def main() -> None:
    """What the command ``midstream`` runs."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
