"""Lenses that other tools made: tuned-lens checkpoints and Jacobian-lens files.

tuned-lens (Belrose et al. 2023) keeps ``config.json`` and ``params.pt``: ``<i>.weight`` W and ``<i>.bias`` b of
``h + W h + b``, i the index of the stream before block i + 1, our layer i. A Jacobian-lens file (Gurnee et al. 2026) is
a dictionary with ``J``: i -> ``[d, d]``, i the index of the block whose output is read, our layer i + 1; no bias.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstream.errors import MidstreamError, RequestError
from midstream.lens.file.artifact import about
from midstream.lens.file.match import fits
from midstream.lens.file.shift import check_layers
from midstream.lens.file.statement import printable
from midstream.lens.file.torch_file import open_tensors, unusable
from midstream.lens.lens import Lens, Transport
from midstream.model.model import Model

_MOST_CONFIG = 1_000_000


def load(path: Path, model: Model) -> Lens:
    """A lens that another tool made: a tuned-lens folder or its ``params.pt``, or a Jacobian-lens ``.pt``.

    Its width and depth must be the model's. Neither format names the weights it was fitted on, so it is also tried on
    a short text: ``about["imported"]`` says what came out, ``about["notes"]`` warns where its layers seem shifted.

    Raises:
        RequestError: it is damaged, of another format or another model, or a program.
    """
    place = path / "params.pt" if path.is_dir() else path
    if not place.is_file():
        raise RequestError(
            f"{path} holds no params.pt: expected a tuned-lens folder (config.json and params.pt), a Jacobian-lens .pt "
            "or a .safetensors lens."
        )
    found = open_tensors(place)
    if not isinstance(found, dict):
        raise unusable(place, f"it holds a {type(found).__name__}")
    lens, facts = _jacobian(place, found, model) if "J" in found else _tuned(place, found, model)
    fits(lens, model, str(path))
    try:
        check, note = check_layers(lens, model)
    except MidstreamError as error:  # a family that computes without gradients, for one
        check, note = {}, f"the layers of {lens.name!r} could not be checked: {error}"
    facts |= {"file": place.name if path is place else f"{path.name}/{place.name}", "check": check}
    said = about(model) | {"imported": facts} | ({"notes": [printable(note)]} if note else {})
    return replace(lens, about=said)


def _tuned(place: Path, found: Mapping[Any, Any], model: Model) -> tuple[Lens, dict[str, Any]]:
    config = _config(place.with_name("config.json"))
    if config.get("lens_type", "linear_tuned_lens") != "linear_tuned_lens":
        raise unusable(place, f"its config.json says it is a {config['lens_type']!r:.40}")
    last, identity = model.anatomy.layers, torch.eye(model.anatomy.width)
    weights: dict[int, Tensor] = {}
    biases: dict[int, Tensor] = {}
    for key, value in found.items():
        name = re.fullmatch(r"(?:layer_translators\.)?(\d{1,4})\.(weight|bias)", str(key))
        if not name:
            raise unusable(place, f"it has the entry {str(key)!r:.60}, which no tuned lens has")
        layer = int(name[1])
        shape = (model.anatomy.width,) * (2 if name[2] == "weight" else 1)
        (weights if name[2] == "weight" else biases)[layer] = _map(place, str(key), value, shape)
    if sorted(weights) != list(range(last)):
        base = str(config.get("base_model_name_or_path", "another model"))
        raise RequestError(
            f"{place} has maps for {len(weights)} layers, and {model.name} has {last} blocks: it was fitted for "
            f"{base!r:.80}."
        )
    moves = {layer: Transport(identity + weight, biases.get(layer)) for layer, weight in weights.items()}
    facts = {"from": "tuned-lens", "model": str(config.get("base_model_name_or_path", ""))[:200]}
    layers = tuple(range(last + 1))
    return Lens("tuned (imported)", "output", 1, moves, kind="tuned", site="resid_post", layers=layers), facts


def _jacobian(place: Path, found: Mapping[Any, Any], model: Model) -> tuple[Lens, dict[str, Any]]:
    maps, last, width = found["J"], model.anatomy.layers, model.anatomy.width
    if not isinstance(maps, dict) or not maps or any(type(key) is not int for key in maps):
        raise unusable(place, "its J is no dictionary of maps by layer")
    if wrong := [key for key in maps if not 0 <= key < last]:
        raise RequestError(
            f"{place} has a map for the output of block {wrong[0] + 1}, and {model.name} has {last} blocks: it was "
            "fitted for another model."
        )
    moves = {key + 1: Transport(_map(place, f"J[{key}]", maps[key], (width, width))) for key in sorted(maps)}
    prompts = found.get("n_prompts")
    facts = {"from": "jacobian-lens", "prompts": prompts if type(prompts) is int and 0 < prompts < 1 << 53 else None}
    layers = tuple(sorted({*moves, last}))
    return Lens("jacobian (imported)", "output", 1, moves, kind="jacobian", site="resid_post", layers=layers), facts


def _map(place: Path, name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """A map's tensor in float32 and memory of its own, once it is known to be one."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        raise unusable(place, f"{name[:60]} is no tensor of numbers")
    if tuple(value.shape) != shape:
        raise RequestError(
            f"{place}: {name[:60]} has the shape {list(value.shape)}, and the model needs {list(shape)}: the lens was "
            "fitted for another model."
        )
    made = value.detach().to(torch.float32, copy=True)
    if not bool(torch.isfinite(made).all()):
        raise unusable(place, f"{name[:60]} holds NaN or infinity")
    return made


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > _MOST_CONFIG:
            raise unusable(path, "it is too large for a config")
        if path.exists() and not path.is_file():
            raise unusable(path, "it is no ordinary file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(path, f"a tuned lens needs it beside params.pt ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise unusable(path, "it holds no JSON object")
    return found
