"""Watch one short forward pass: what went into and came out of every module, in order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from midstream.errors import ModelError
from midstream.model.forward import call
from midstream.model.hook import Point, See, Side, first, hooked

PREFIX, TIME = 3, 6
"""Both probe texts have TIME tokens and share the first PREFIX: a causal model cannot tell them apart there."""


@dataclass(frozen=True, eq=False)
class Event:
    """One tensor passing one end of one module.

    Attributes:
        path: the module's name inside the model.
        value: ``[rows, d]`` float32, rows = 2 texts of TIME tokens one after the other.
    """

    order: int
    path: str
    module: nn.Module
    side: Side
    value: Tensor

    @property
    def depth(self) -> int:
        """How deep the module lies in the tree."""
        return self.path.count(".")


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen in one pass over the two probe texts.

    Attributes:
        ids: ``[2, TIME]`` int64.
        logits: ``[2, TIME, V]`` float32, the model's own.
        events: those tensors that have the size of a stream, in the order in which they passed.
        calls: how often each module (by ``id``) ran.
        epsilon: relative spacing of the numbers the model computes with.
        constants: numbers that a factor in the model may be: 1, the root of the width, those of the config.
    """

    ids: Tensor
    logits: Tensor
    events: list[Event] = field(default_factory=list[Event])
    calls: Counter[int] = field(default_factory=Counter[int])
    epsilon: float = 0.0
    constants: tuple[float, ...] = (1.0,)

    def within(self, module: nn.Module) -> list[Event]:
        """The events of the modules inside ``module``, itself left out."""
        inside = {id(child) for child in module.modules()} - {id(module)}
        return [event for event in self.events if id(event.module) in inside]

    def at(self, module: nn.Module, side: Side) -> Event | None:
        """The first event at one end of ``module``."""
        return next((event for event in self.events if event.module is module and event.side == side), None)


def observe(module: nn.Module, config: Any, *, width: int, vocabulary: int) -> Observation:
    """Run the whole model once on two probe texts of ordinary tokens and keep what passes.

    Args:
        config: its special token ids are avoided, its numbers are candidates for factors.
        width: d; tensors of any other size are not kept.
        vocabulary: number of rows of the input embedding.

    Raises:
        ModelError: if the model fails on plain token ids, or gives no logits.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)  # quantised ones are not
    if parameter is None:
        raise ModelError(f"{type(module).__name__} has no floating-point weights: load it without quantisation.")
    ids = _probe(vocabulary, _marked_ids(config)).to(parameter.device)
    events: list[Event] = []
    calls: Counter[int] = Counter()
    rows = ids.numel()

    def keep(path: str, child: nn.Module, side: Side) -> See:
        def see(value: Tensor) -> None:
            calls[id(child)] += side == "output"
            if value.is_floating_point() and value.numel() == rows * width:
                # a copy: some models add in place to what has passed
                copy = value.detach().reshape(rows, width).to("cpu", torch.float32, copy=True)
                events.append(Event(len(events), path, child, side, copy))

        return see

    sides: tuple[Side, Side] = ("input", "output")
    points: list[Point] = [(c, side, keep(path, c, side)) for path, c in module.named_modules() for side in sides]
    with hooked(points), torch.inference_mode():
        try:
            logits = first(_logits(call(module, ids, {"use_cache": False})))
        except Exception as error:
            raise ModelError(f"{type(module).__name__} does not run on token ids alone: {error}") from error
    if logits is None or logits.shape[:2] != ids.shape:
        raise ModelError(f"{type(module).__name__} gives no logits; expected a causal language model with its head.")
    epsilon = torch.finfo(parameter.dtype).eps
    constants = _constants(config, width)
    return Observation(ids.cpu(), logits.float().cpu(), events, calls, epsilon, constants)


def _logits(output: Any) -> Any:
    return getattr(output, "logits", output)


def _probe(vocabulary: int, avoid: set[int]) -> Tensor:
    """``[2, TIME]`` ids, spread over the vocabulary, all different but for the shared prefix."""
    wanted = 2 * TIME - PREFIX
    usable = [token for token in range(min(vocabulary, 5000)) if token not in avoid]
    if len(usable) < wanted:
        raise ModelError(f"the vocabulary of {vocabulary} tokens is too small to probe the model.")
    chosen = usable[len(usable) // 7 :: len(usable) // (2 * wanted) or 1][:wanted]
    return torch.tensor([chosen[:TIME], chosen[:PREFIX] + chosen[TIME:]])


def _parts(config: Any) -> list[dict[str, Any]]:
    """The fields of the config and of the configs inside it."""
    fields = getattr(config, "__dict__", {})
    return [fields, *(vars(value) for value in fields.values() if hasattr(value, "model_type"))]


def _marked_ids(config: Any) -> set[int]:
    """Ids that configs name (padding, image places and their like): not ordinary tokens."""
    marked: set[Any] = set()
    for fields in _parts(config):
        for key, value in fields.items():
            if key.endswith(("token_id", "token_index")):
                marked.update(value if isinstance(value, list | tuple) else [value])
    return {token for token in marked if isinstance(token, int)}


def _constants(config: Any, width: int) -> tuple[float, ...]:
    values = [value for fields in _parts(config) for value in fields.values()]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e6]
    return (1.0, width**0.5, *numbers, *(1.0 / number for number in numbers))
