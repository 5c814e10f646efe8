"""The streams of texts at the positions that count, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midstream.lens.lens import Transport
from midstream.readout.gradient import Target, kl_and_gradient, reference
from midstream.readout.reader import Reader, output_reader
from midstream.record import Array
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.guess.setting import FIRST, SIZES, layers
from midstream.study.study import Ground, Text


@dataclass(frozen=True, eq=False)
class Streams:
    """What n positions of some texts hold.

    Attributes:
        document: ``[n]`` numbers of the texts.
        token: ``[n]`` int64 on the CPU, the token read.
        row: ``[n, d]`` float64 on the CPU, its input row.
        h: layer -> ``[n, d]`` float32, on the model's device.
    """

    document: Array
    token: Tensor
    row: Tensor
    h: dict[int, Tensor]

    def of(self, numbers: Sequence[int]) -> Streams:
        """Those of some texts."""
        at = torch.from_numpy(np.flatnonzero(np.isin(self.document, numbers)))
        h = {layer: values[at.to(values.device)] for layer, values in self.h.items()}
        return Streams(self.document[at.numpy()], self.token[at], self.row[at], h)


def streams(ground: Ground, texts: Sequence[Text]) -> Streams:
    """Positions from ``FIRST`` on of texts of one length that are attention sinks at none of the layers."""
    model = ground.model
    ids = torch.tensor([text.ids for text in texts], device=model.device)
    found = capture(model, ids, layers=layers(ground).all)
    kept = ~torch.stack([sinks(h) for h in found.values()]).any(0)
    kept[:, :FIRST] = False
    numbers = np.repeat(np.array([text.number for text in texts], np.int32), ids.shape[1])
    row = model.anatomy.input_rows(ids[kept]).cpu().double()
    h = {layer: values[kept].float() for layer, values in found.items()}
    return Streams(numbers[kept.cpu().numpy().reshape(-1)], ids[kept].cpu(), row, h)


def batches(texts: Sequence[Text], size: int) -> Iterator[Sequence[Text]]:
    """The texts, so many at a time."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def gathered(ground: Ground, name: str) -> list[Streams]:
    """Those of a set of texts, batch by batch; made once, since every layer is measured by itself."""
    kept: dict[str, list[Streams]] = ground.keep.setdefault("streams", {})
    if name not in kept:
        kept[name] = [streams(ground, members) for members in batches(ground.texts[name], SIZES[ground.size].batch)]
    return kept[name]


def reader(ground: Ground) -> Reader:
    """The model's output reader, made once."""
    return ground.keep.setdefault("reader", output_reader(ground.model.anatomy))


def transport(ground: Ground, layer: int) -> Transport | None:
    """The tuned lens's map at a layer, on the model's device; None at layer L, where it is the identity."""
    move = None if layer == ground.model.anatomy.layers else ground.lenses["tuned"].transports.get(layer)
    if move is None:
        return None
    device = ground.model.device
    return Transport(move.weight.to(device, torch.float32), None if move.bias is None else move.bias.to(device))


def prepared(ground: Ground, layer: int, h: Tensor) -> Tensor:
    """The stream ``[n, d]`` of any dtype, moved and normed for the reader: ``[n, d]`` float32."""
    h, move = h.to(ground.model.device, torch.float32), transport(ground, layer)
    return reader(ground).prepare(h if move is None else move(h))


def target(ground: Ground, layer: int, h: Tensor) -> Target:
    """What is read at a layer, for other readings to be compared with."""
    return reference(reader(ground), prepared(ground, layer, h))


def kl(ground: Ground, layer: int, h: Tensor, against: Target) -> Array:
    """KL(target || what is read from the stream ``[n, d]`` at a layer), nats, ``[n]`` float64."""
    found = kl_and_gradient(reader(ground), prepared(ground, layer, h), against, gradient=False)[0]
    return found.double().numpy()
