"""A lens as one file: its maps as tensors, what it is as JSON; checked before it is believed.

Tensors: ``layer.<l>.weight`` ``[d_out, d_in]`` and ``layer.<l>.bias`` ``[d_out]``, or ``shared.*`` once for all layers;
``betas``; ``baseline.<source>.*``; ``back_off.*``; ``documents`` and ``held_out_documents`` ``[documents, 32]``, the
sha256 of what was fitted and of what was kept from it; ``probe`` ``[L + 1, 64]``, see ``model.probe``. A layer that is
listed and has no map is read as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.file.match import match
from midstream.lens.file.statement import SOURCES, Statement, plain, state, stated
from midstream.lens.lens import BackOff, Lens, Transport
from midstream.model.model import Model
from midstream.model.probe import PROJECTIONS, projections
from midstream.stream.container import Container, damaged, read, write

_HASHES = ("documents", "held_out_documents")
"""Lists of sha256 in ``Lens.about`` that are kept as tensors."""
_BACK_OFF = ("pairs", "pair_answers", "singles", "single_answers")


def about(model: Model) -> dict[str, Any]:
    """What a lens says about the model that it is fitted on; part of ``Lens.about``."""
    return {
        "model": model.name,
        "identity": model.fingerprint.identity,
        "circumstances": dict(model.fingerprint.circumstances),
        "width": model.anatomy.width,
        "blocks": model.anatomy.layers,
        "vocabulary": model.anatomy.vocabulary,
        "probe": projections(model).tolist(),
    }


def save(lens: Lens, path: str | Path) -> str:
    """Writes the lens to one file, whole or not at all; equal lenses give equal bytes.

    Maps are kept in float32, NaN in ``about`` as null.

    Returns:
        The sha256 of the file in hex.

    Raises:
        RequestError: the name does not end in .safetensors, nothing can be written there, or the lens does not say
            which model it belongs to.
    """
    if Path(path).suffix != ".safetensors":
        raise RequestError(f"cannot save {str(path)!r}: expected a name that ends in .safetensors.")
    if missing := [name for name in ("identity", "probe") if not lens.about.get(name)]:
        raise RequestError(
            f"lens {lens.name!r} does not say which model it belongs to ({' and '.join(missing)} missing in about): "
            "a lens is saved as midstream.fit or an import made it; logit and input need no file."
        )
    tensors = _maps("", lens)
    for base in lens.baselines:
        tensors |= _maps(f"baseline.{base.source}.", base)
    table = lens.back_off
    if table is not None:
        tensors |= {f"back_off.{name}": getattr(table, name).long() for name in _BACK_OFF}
    text = state(lens) | {
        "baselines": {base.source: state(base) for base in lens.baselines},
        "back_off": None if table is None else {"answer": int(table.answer), "vocabulary": table.vocabulary},
    }
    rest = dict(lens.about)
    tensors["probe"] = torch.tensor(rest.pop("probe"), dtype=torch.float32)
    for name in _HASHES:
        if hashes := rest.pop(name, None):
            raw = np.frombuffer(b"".join(map(bytes.fromhex, hashes)), np.uint8).reshape(-1, 32)
            tensors[name] = torch.from_numpy(raw.copy())
    return write(path, tensors, text | {"about": plain(rest)})


def load(path: str | Path, model: Model | None = None) -> Lens:
    """Reads a lens; sizes, shapes and numbers are checked before they are believed.

    Args:
        model: the model it is to read; None: any, unchecked (to look at the lens itself).

    Raises:
        RequestError: there is no such file, it is damaged, or it belongs to another model.
    """
    container, found = opened(path)
    tensors = {name: _loaded(container, name, tensor) for name, tensor in container.tensors().items()}
    with container.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    baselines = tuple(
        base.lens(_transports(f"baseline.{source}.", base, tensors), _betas(f"baseline.{source}.", base, tensors))
        for source, base in found.baselines.items()
    )
    rest = dict(found.about) | {"probe": tensors["probe"].tolist()}
    for name in _HASHES:
        if name in tensors:
            rest[name] = [bytes(row).hex() for row in tensors[name].numpy()]
    lens = found.lens(
        _transports("", found, tensors),
        _betas("", found, tensors),
        digest=digest,
        baselines=baselines,
        back_off=_back_off(container.path, found, tensors),
        about=rest,
    )
    if model is not None:
        match(lens, model, str(path))
    return lens


def opened(path: str | Path) -> tuple[Container, Statement]:
    """A lens file whose header and text are what they must be; its tensors are not read yet.

    Raises RequestError as ``load`` does.
    """
    container = read(path)
    found = stated(container.path, container.text)
    _check(container, found)
    return container, found


def _maps(prefix: str, lens: Lens) -> dict[str, Tensor]:
    """The maps and the factors of a lens as named tensors; one map that all layers share is there once."""
    maps = {f"layer.{layer}": move for layer, move in lens.transports.items()}
    if len(maps) > 1 and len({(id(move.weight), id(move.bias)) for move in maps.values()}) == 1:
        maps = {"shared": next(iter(maps.values()))}
    found = {f"{prefix}{name}.weight": move.weight.float() for name, move in maps.items()}
    found |= {f"{prefix}{name}.bias": move.bias.float() for name, move in maps.items() if move.bias is not None}
    if lens.betas:
        values = [float(lens.betas[layer]) for layer in sorted(lens.betas)]
        found[f"{prefix}betas"] = torch.tensor(values, dtype=torch.float64)
    return found


def _check(container: Container, found: Statement) -> None:
    """Raises RequestError unless the tensors are those that the file speaks of, of the shapes they must have."""
    allowed = _shapes("", found)
    for source, base in found.baselines.items():
        allowed |= _shapes(f"baseline.{source}.", base)
    allowed["probe"] = (-1, PROJECTIONS)
    allowed |= dict.fromkeys(_HASHES, (-1, 32))
    if found.back_off is not None:
        allowed |= {f"back_off.{name}": (-1,) for name in _BACK_OFF}
    for name, entry in container.entries.items():
        if name not in allowed:
            raise damaged(container.path, f"it holds the tensor {name[:60]!r}, which it does not speak of")
        shape, expected = entry.shape, allowed[name]
        if len(shape) != len(expected) or any(e not in (-1, n) for n, e in zip(shape, expected, strict=True)):
            raise damaged(container.path, f"tensor {name} has the shape {list(shape)}, expected {list(expected)}")
        kinds = ("U8",) if name in _HASHES else ("I64",) if name[:9] == "back_off." else ("F32", "F64", "F16", "BF16")
        if entry.dtype not in kinds:
            raise damaged(container.path, f"tensor {name} is of type {entry.dtype}, expected {' or '.join(kinds)}")
    needed = [name for name in allowed if not name.endswith("bias") and name not in _HASHES]
    if missing := [name for name in needed if name not in container.entries]:
        raise damaged(container.path, f"it lacks the tensor {missing[0]}")
    layers = container.entries["probe"].shape[0]
    if layers < 2 or (found.layers and found.layers[-1] >= layers) or any(layer >= layers for layer in found.maps):
        raise damaged(container.path, f"it speaks of layers that its model of {layers} layers does not have")


def _shapes(prefix: str, found: Statement) -> dict[str, tuple[int, ...]]:
    names = ["shared"] if found.shared else [f"layer.{layer}" for layer in found.maps]
    wide = found.width * SOURCES[found.source]
    made: dict[str, tuple[int, ...]] = {f"{prefix}{name}.weight": (found.width, wide) for name in names}
    made |= {f"{prefix}{name}.bias": (found.width,) for name in names}
    return made | ({f"{prefix}betas": (len(found.betas),)} if found.betas else {})


def _loaded(container: Container, name: str, tensor: Tensor) -> Tensor:
    """A tensor in the dtype that it is used in. Raises RequestError where its numbers cannot be what they are for."""
    if not tensor.is_floating_point():
        return tensor
    made = tensor.double() if name.endswith("betas") else tensor.float()
    if not bool(torch.isfinite(made).all()):
        raise damaged(container.path, f"tensor {name} holds NaN or infinity")
    if name.endswith("betas") and not bool((made > 0).all()):
        raise damaged(container.path, f"{name} are not above zero")
    return made


def _transports(prefix: str, found: Statement, tensors: Mapping[str, Tensor]) -> dict[int, Transport]:
    def move(name: str) -> Transport:
        return Transport(tensors[f"{prefix}{name}.weight"], tensors.get(f"{prefix}{name}.bias"))

    if found.shared:
        return dict.fromkeys(found.maps, move("shared"))
    return {layer: move(f"layer.{layer}") for layer in found.maps}


def _betas(prefix: str, found: Statement, tensors: Mapping[str, Tensor]) -> dict[int, float]:
    return dict(zip(found.betas, tensors[f"{prefix}betas"].tolist(), strict=True)) if found.betas else {}


def _back_off(path: Path, found: Statement, tensors: Mapping[str, Tensor]) -> BackOff | None:
    """The table of the most frequent answers. Raises RequestError where it is out of order or out of range."""
    if found.back_off is None:
        return None
    answer, vocabulary = found.back_off
    pairs, pair_answers, singles, single_answers = (tensors[f"back_off.{name}"] for name in _BACK_OFF)
    table = BackOff(pairs, pair_answers, singles, single_answers, answer, vocabulary)
    for keys, answers, most in (
        (table.pairs, table.pair_answers, vocabulary * vocabulary),
        (table.singles, table.single_answers, vocabulary),
    ):
        fits = len(keys) == len(answers) and bool((keys[1:] > keys[:-1]).all())
        if not fits or any(
            len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit
            for ids, limit in ((keys, most), (answers, vocabulary))
        ):
            raise damaged(path, "its table of frequent answers is out of order or names tokens that do not exist")
    return table
