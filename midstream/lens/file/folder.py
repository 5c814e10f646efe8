"""The lens folder: fitted lenses by the identity of their model, where ``--lens KIND`` looks."""

from __future__ import annotations

import os
from pathlib import Path

from midstream.errors import RequestError
from midstream.lens.kind import Kind, parse
from midstream.model.model import Model


def root() -> Path:
    """The folder of all models' lenses: ``$MIDSTREAM_LENSES``, or ``lenses`` in the platform's place for data."""
    chosen = os.environ.get("MIDSTREAM_LENSES")
    if chosen:
        return Path(os.path.expanduser(chosen))  # noqa: PTH111  Path's own raises for an unknown user
    from platformdirs import user_data_dir

    return Path(user_data_dir("midstream")) / "lenses"


def folder(model: Model) -> Path:
    """Where this model's lenses are; it need not exist."""
    return root() / model.fingerprint.identity[:16]


def path(model: Model, kind: Kind | str) -> Path:
    """Where this model's lens of a kind is, or will be; ``kind`` as ``tuned`` or ``future:2``.

    Raises RequestError, listing the kinds, for a kind that does not exist.
    """
    return folder(model) / (parse(kind) if isinstance(kind, str) else kind).file


def available(model: Model) -> list[str]:
    """The kinds this model has a lens of, as a user writes them; looks at names only."""
    return [kind for file in files(folder(model)) if (kind := _kind(file))]


def files(place: Path) -> list[Path]:
    """The lens files of a folder by name; none where it does not exist. Raises RequestError if it cannot be listed."""
    try:
        return sorted(file for file in place.glob("*.safetensors") if file.is_file())
    except OSError as error:
        raise RequestError(f"cannot list the lens folder {str(place)!r}: {error.strerror}.") from error


def folders() -> list[Path]:
    """The folders of all models by name; none where there are no lenses. Raises RequestError as ``files`` does."""
    place = root()
    try:
        return sorted(place.glob("*"))
    except OSError as error:
        raise RequestError(f"cannot list the lens folder {str(place)!r}: {error.strerror}.") from error


def _kind(file: Path) -> str:
    """The kind that a file is named for; empty where it is named for none."""
    try:
        kind = parse(file.stem.replace("-", ":"))
    except RequestError:
        return ""
    return str(kind) if kind.file == file.name else ""
