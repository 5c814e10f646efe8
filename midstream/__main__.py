"""What ``midstream`` and ``python -m midstream`` run."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

INTERRUPTED = 130
TERMINATED = 143


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly at any moment, that of importing it included."""
    try:
        signal.signal(signal.SIGTERM, _terminate)  # so that half-made files are removed
        _open_streams()
        from midstream.cli.main import app

        try:
            app()
        finally:  # what is left is Python's own, which would print a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _terminate(_signal: int, _frame: Any) -> None:
    raise SystemExit(TERMINATED)


def _open_streams() -> None:
    """Output that its encoding cannot hold is spelled out, and a closed one takes what is written to it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  stays open for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
