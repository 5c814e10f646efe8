"""Kinds of fitted lenses: their names, and what each is fitted to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from midstream.errors import RequestError

Name = Literal["shortcut", "tuned", "jacobian", "future", "input"]
_KINDS: tuple[Name, ...] = get_args(Name)

NAMES = ("shortcut", "tuned", "jacobian", "future:1", "input:0", "input:0:shared")
"""Kinds that can be fitted, as a user writes them; the numbers are examples."""

FARTHEST = 16
"""Tokens that a future or input lens may reach: the context that every position of a fit must have grows with it."""


@dataclass(frozen=True)
class Kind:
    """What a lens is fitted to.

    Attributes:
        name: ``shortcut`` h_L by least squares; ``tuned`` that, then KL; ``jacobian`` E[dh_L/dh_l]; ``future`` h_L at
            i + k by least squares, then KL; ``input`` the input row of the token at i - j by least squares.
        number: k of a future lens (1 or more), j of an input lens (0 or more); 0 for the others.
        shared: one map for all layers together (input lenses only).
    """

    name: Name
    number: int = 0
    shared: bool = False

    def __str__(self) -> str:
        """As a user writes it."""
        numbered = f"{self.name}:{self.number}" if self.name in ("future", "input") else self.name
        return f"{numbered}:shared" if self.shared else numbered

    @property
    def file(self) -> str:
        """Name of its file in a lens folder: ``tuned.safetensors``, ``future-2.safetensors``."""
        return f"{str(self).replace(':', '-')}.safetensors"

    @property
    def reader(self) -> Literal["output", "input"]:
        """Which reader scores what it gives."""
        return "input" if self.name == "input" else "output"

    @property
    def offset(self) -> int:
        """Which token, relative to the position read, it is about: +1, +1 + k, or -j."""
        return -self.number if self.name == "input" else 1 + self.number


def parse(text: str) -> Kind:
    """The kind a user wrote, such as ``tuned`` or ``future:2``. Raises RequestError with what is valid."""
    found = re.fullmatch(r"(shortcut|tuned|jacobian)|future:([1-9]\d?)|input:(\d\d?)(:shared)?", text)
    if not found:
        raise RequestError(
            f"unknown kind of lens {text!r}: expected one of {', '.join(NAMES)} (future:k reads the model's output "
            "k tokens later, input:j the token read j tokens earlier)."
        )
    _, ahead, lag, shared = found.groups()
    number = int(ahead or lag or 0)
    if number > FARTHEST:
        raise RequestError(f"{text!r} reaches {number} tokens: expected at most {FARTHEST}.")
    return Kind(next(name for name in _KINDS if text.startswith(name)), number, bool(shared))
