"""What a fit reads: one window of a document after another, with the stream at the places it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midstream.corpus.window import Window
from midstream.model.memory import give_back
from midstream.model.model import Model
from midstream.stream.capture import capture_sites
from midstream.stream.site import Place

MIN_CONTEXT = 4
"""Positions with fewer tokens before them are left out of fits and averages: attention sinks carry huge norms."""


@dataclass(frozen=True)
class Passage:
    """One window of a document.

    Attributes:
        ids: ``[t]`` int64 on the CPU, all tokens of the window.
        start: position in the document of the window's first token.
        first: index in the window of the first position that no earlier window has read.
        stream: place -> ``[t, d]`` in the model's dtype, on its device.
    """

    ids: Tensor
    start: int
    first: int
    stream: dict[Place, Tensor]

    def usable(self, *, lag: int = 0, ahead: int = 0) -> Tensor:
        """``[m]`` int64, the indices that a fit may use: context enough, and all they refer to in this window.

        Args:
            lag: tokens that the fit looks back, ``ids[i - lag]``.
            ahead: positions that it looks ahead, ``stream[i + ahead]``.
        """
        return torch.arange(max(self.first, MIN_CONTEXT, lag), max(len(self.ids) - ahead, 0))


def passage(model: Model, ids: Sequence[int], window: Window, places: Sequence[Place]) -> Passage:
    """One window of a document. Memory that earlier ones have freed goes back to the system first."""
    give_back()
    tokens = torch.tensor(ids[window.start : window.stop], dtype=torch.int64)
    found = capture_sites(model, tokens[None].to(model.device), list(places))
    stream = {place: value[0] for place, value in found.items()}
    return Passage(tokens, window.start, window.first - window.start, stream)
