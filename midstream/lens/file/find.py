"""Finds the lens that a user names: built in, in the lens folder, a file, an import, or on the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from midstream.errors import RequestError
from midstream.lens.file.artifact import load
from midstream.lens.file.folder import available, folder, path
from midstream.lens.file.hub import PREFIX, download
from midstream.lens.file.imported import load as load_imported
from midstream.lens.file.match import fits
from midstream.lens.kind import NAMES, parse
from midstream.lens.lens import BUILT_IN, Lens
from midstream.model.bundled import NAME
from midstream.model.model import Model


def find(model: Model, given: str | Path | Lens) -> Lens:
    """The lens that ``given`` names, checked against the model.

    Args:
        given: a ``Lens``; ``logit`` or ``input``; a kind in the model's lens folder such as ``tuned``; a lens file, a
            tuned-lens folder or a Jacobian-lens ``.pt``; or one of these on the hub, ``hf:OWNER/NAME/FILE``.

    Raises:
        RequestError: there is none, or it belongs to another model; for a kind, the command that fits it.
    """
    if isinstance(given, Lens):
        fits(given, model, given.name)
        return given
    name = str(given)
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name.startswith(PREFIX):
        return _open(model, download(name))
    kind = _kind(name)
    if kind:
        return _fitted(model, kind)
    file = Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises for an unknown user
    if not name or not os.path.exists(file):  # noqa: PTH110  and for a name that is too long
        raise _unknown(model, name)
    return _open(model, file)


def find_all(model: Model, given: Sequence[str | Path | Lens]) -> tuple[Lens, ...]:
    """The lenses, each under a name of its own: where two would have one, those that are files take their file's stem.

    Raises RequestError as ``find`` does, and where two lenses still have one name.
    """
    lenses = [find(model, one) for one in given]
    often = Counter(lens.name for lens in lenses)
    named = [
        replace(lens, name=Path(one).stem)
        if often[lens.name] > 1 and not isinstance(one, Lens) and one not in BUILT_IN and not _kind(str(one))
        else lens
        for lens, one in zip(lenses, given, strict=True)
    ]
    names = [lens.name for lens in named]
    if len(set(names)) < len(names):
        raise RequestError(f"two lenses of one name among {', '.join(names)}: each lens needs its own.")
    return tuple(named)


def _kind(name: str) -> str:
    """The kind that ``name`` is, as a user writes it; empty if it is none."""
    try:
        return str(parse(name))
    except RequestError:
        return ""


def _fitted(model: Model, kind: str) -> Lens:
    file = path(model, kind)
    if not file.exists():
        option = "" if model.name == NAME else f" --model {model.name}"
        there = available(model)
        raise RequestError(
            f"there is no {kind} lens for {model.name} yet: make one with midstream fit {kind} --corpus FILE{option}. "
            f"Its lens folder {folder(model)} has {', '.join(there) or 'none so far'}."
        )
    lens = load(file, model)
    if lens.kind != kind:
        raise RequestError(f"{file} holds a lens of kind {lens.kind!r}: give the file the name of what it holds.")
    return replace(lens, name=kind)


def _open(model: Model, file: Path) -> Lens:
    """A lens file, or what another tool made, by what it looks like."""
    if file.is_dir() or file.suffix == ".pt":
        return load_imported(file, model)
    lens = load(file, model)
    return replace(lens, name=lens.kind or lens.name)


def _unknown(model: Model, name: str) -> RequestError:
    if "/" in name or "." in name:
        return RequestError(f"there is no lens file {name!r}.")
    there = available(model)
    return RequestError(
        f"unknown lens {name!r}: expected {', '.join(BUILT_IN)}, a kind that was fitted "
        f"({', '.join(there) or 'none so far for this model'}), a kind to fit ({', '.join(NAMES)}), a lens file, or "
        f"{PREFIX}OWNER/NAME/FILE."
    )
