"""The command group, and what a user sees when something goes wrong."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from midstream.cli.anatomy import anatomy
from midstream.cli.fit import fit
from midstream.cli.lens import app as lens
from midstream.cli.patch import patch
from midstream.cli.query import query
from midstream.cli.read import read
from midstream.cli.sample import sample
from midstream.cli.scan import scan
from midstream.cli.score import score
from midstream.cli.serve import serve
from midstream.cli.store import app as store
from midstream.cli.study import study
from midstream.errors import MidstreamError

INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands; an error raised on purpose is one sentence on standard error, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MidstreamError as error:
            print(f"midstream: {_harmless(str(error))}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError as error:  # whoever read our output has seen enough
            sys.stdout = None
            raise typer.Exit(0) from error
        except OSError as error:
            print(f"midstream: {error.strerror}: nothing more can be written there.", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print("midstream: interrupted.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error


def _harmless(text: str) -> str:
    """The text of an error with control characters spelled out: part of it may come from a hostile file."""
    return "".join(char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)


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
app.command()(sample)
app.command()(patch)
app.command()(anatomy)
app.command()(fit)
app.command()(score)
app.command()(scan)
app.command()(query)
app.command()(study)
app.command()(serve)
app.add_typer(store)
app.add_typer(lens)
