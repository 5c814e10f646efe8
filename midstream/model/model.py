"""A loaded model: the one object that stream, lenses and views are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from midstream.model.anatomy import Anatomy
    from midstream.model.fingerprint import Fingerprint
    from midstream.model.proof import Proof
    from midstream.model.tokenizer import Tokenizer

Engine = Literal["plain", "transformers"]


@dataclass(frozen=True)
class Model:
    """A decoder-only language model, its tokenizer, its anatomy and the proof that the anatomy is right.

    Attributes:
        name: what the user asked for: a hub name, a path, the class of a live module, or the bundled model's own name.
        module: the causal language model, in eval mode, on ``device``.
        engine: which implementation runs the forward pass.
        context: longest text in tokens that its config allows; 2048 where that does not say.
        source: what ``load`` takes to load it again, in another process too; empty for live objects.
    """

    name: str
    module: nn.Module = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    engine: Engine
    fingerprint: Fingerprint = field(repr=False)
    proof: Proof = field(repr=False)
    context: int
    notes: tuple[str, ...] = field(default=())
    source: str = ""

    @property
    def device(self) -> torch.device:
        """Where the weights of the input embedding live."""
        return next(self.anatomy.embedding.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks (norm, transport and read-out are float32 whatever it is)."""
        return next(self.anatomy.blocks[0].parameters()).dtype
