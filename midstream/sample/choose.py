"""How the next token is chosen from the logits: greedy, or drawn at a temperature from a cut-off distribution.

The same steps in the same order as transformers' ``generate``: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midstream.errors import RequestError


@dataclass(frozen=True)
class Choice:
    """Settings of the choice.

    Attributes:
        temperature: divides the logits; 0: the best token, nothing is drawn.
        top_k: only the k best tokens; None: all.
        top_p: only the best tokens that together reach this probability (Holtzman et al. 2020); 1: all.
        min_p: only tokens with at least this share of the best one's probability (Nguyen et al. 2024); 0: all.
        repetition_penalty: divides the positive logits of tokens that the text holds already, and multiplies the
            negative ones (Keskar et al. 2019); 1: none.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raises RequestError for a setting out of its range, naming the range."""
        for name, good, wanted in (
            ("temperature", lambda t: t == 0 or 1e-4 <= t <= 1e4, "0 (greedy), or 0.0001 to 10,000"),
            ("top-k", lambda k: k is None or (isinstance(k, int) and k >= 1), "a whole number, 1 or more"),
            ("top-p", lambda p: 0 < p <= 1, "more than 0, at most 1"),
            ("min-p", lambda p: 0 <= p <= 1, "0 to 1"),
            ("repetition penalty", lambda r: 1e-3 <= r <= 1e3, "0.001 to 1,000; 1 is none"),
        ):
            value = getattr(self, name.replace("-", "_").replace(" ", "_"))
            if isinstance(value, str) or (value is None and name != "top-k") or not good(value):
                raise RequestError(f"{name} is {value!r}: expected {wanted}.")

    @property
    def note(self) -> str:
        """A sentence about settings that change nothing; empty where all do what they say."""
        if self.temperature != 0.0:
            return ""
        given = {"top-k": self.top_k is not None, "top-p": self.top_p < 1.0, "min-p": self.min_p > 0.0}
        idle = " and ".join(name for name, there in given.items() if there)
        return idle and (
            f"at temperature 0 the best token is taken, with or without {idle}: give a temperature such as 1 to draw."
        )

    def scores(self, logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits after every step, -inf where a token is cut off: ``[b, V]`` float32 -> ``[b, V]``.

        Args:
            texts: the token ids of each text so far, which the penalty looks at.
        """
        z = logits.clone()
        if self.repetition_penalty != 1.0:
            for row, text in zip(z, texts, strict=True):
                held = torch.tensor(sorted(set(text)), device=z.device)
                old = row[held]
                row[held] = torch.where(old > 0, old / self.repetition_penalty, old * self.repetition_penalty)
        if self.temperature in (0.0, 1.0):
            return z if self.temperature == 0.0 else self._cut(z)
        return self._cut(z / self.temperature)

    def pick(self, logits: Tensor, texts: Sequence[Sequence[int]], generators: Sequence[torch.Generator]) -> Tensor:
        """The next token of each text: ``[b, V]`` float32 -> ``[b]`` int64.

        Args:
            generators: one a text, on the CPU, so that a text is the same alone and in a batch.
        """
        z = self.scores(logits, texts)
        if self.temperature == 0.0:
            return z.argmax(-1)
        p = z.softmax(-1).cpu()
        drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(p, generators, strict=True)]
        return torch.cat(drawn).to(logits.device)

    def _cut(self, z: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < z.shape[-1]:
            z = z.masked_fill(z < z.topk(self.top_k).values[:, -1:], -torch.inf)
        if self.top_p < 1.0:
            ascending, order = z.sort(-1)
            gone = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
            gone[:, -1] = False  # the best one always stays
            z = z.masked_fill(torch.zeros_like(gone).scatter(1, order, gone), -torch.inf)
        if self.min_p > 0.0:
            p = z.softmax(-1)
            z = z.masked_fill(p < self.min_p * p.amax(-1, keepdim=True), -torch.inf)
        return z
