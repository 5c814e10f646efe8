"""Every error a user can cause: what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class MidstreamError(Exception):
    """Base of all errors raised on purpose; the command line prints its text and no traceback.

    Attributes:
        exit_code: what the process returns: 1 the work failed, 2 the request was wrong.
    """

    exit_code = 1


class RequestError(MidstreamError):
    """The request cannot be met as it stands: a bad option, text, file or folder."""

    exit_code = 2


class ModelError(RequestError):
    """The named model cannot be loaded or is of a kind that midstream refuses."""


class ProofError(ModelError):
    """The parts found in a model do not reproduce its own logits, so nothing may be read from it."""


class FitError(MidstreamError):
    """A fit came to nothing: no number, or further off than where it started; the last good maps are kept."""


class MissingPackageError(RequestError):
    """An optional package is needed for what was asked; the text holds the line that installs it."""


def choices(kind: str, given: object, valid: Iterable[object]) -> RequestError:
    """The error for a name that is not among the valid ones, which it lists."""
    listed = ", ".join(str(name) for name in valid)
    return RequestError(f"unknown {kind} {str(given)!r}: expected one of {listed}.")
