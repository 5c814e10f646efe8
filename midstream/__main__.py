"""What ``midstream`` and ``python -m midstream`` run."""

from __future__ import annotations

INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly at any moment, that of importing it included."""
    try:
        from midstream.cli.main import app

        app()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
