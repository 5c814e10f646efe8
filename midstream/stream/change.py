"""What an edit does to the stream where it applies: the kinds of change, each a frozen value.

A vector is ``[d]``, the same for every place, or has three dimensions that broadcast to ``[b, m, d]``: b texts, m
edited positions in ascending order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from midstream.errors import RequestError


class What(Protocol):
    """What an edit does to the stream where it applies."""

    def apply(self, h: Tensor) -> Tensor:
        """The stream that takes the place of ``h``: ``[b, m, d]`` -> ``[b, m, d]``, m the positions edited.

        ``h`` is float32 (float64 for a float64 model). Raises RequestError if the two do not fit together.
        """
        ...

    def part(self, kept: slice | list[int]) -> Self:
        """The same change for only those of its m positions."""
        ...


@dataclass(frozen=True, eq=False)
class Add:
    """``h + scale v``; with ``relative`` v is first given the length of h: ``h + scale |h| v / |v|``.

    Attributes:
        vector: v; zeros leave a place as it is.
    """

    vector: Tensor
    scale: float = 1.0
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        _set(self, vector=_vector("vector to add", self.vector), scale=_number("scale", self.scale))

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        if self.relative:
            return h + self.scale * _norm(h) * _fitting("vector to add", _direction(self.vector), h)
        return h + self.scale * _fitting("vector to add", self.vector, h)

    def part(self, kept: slice | list[int]) -> Self:
        """As ``What.part``."""
        return replace(self, vector=_part(self.vector, kept))


@dataclass(frozen=True, eq=False)
class Replace:
    """``v`` in the place of h. A patch is this with the rows that another run had there, see ``stream.patch``."""

    vector: Tensor

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        _set(self, vector=_vector("vector to put in", self.vector))

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        return _fitting("vector to put in", self.vector, h).expand_as(h).clone()

    def part(self, kept: slice | list[int]) -> Self:
        """As ``What.part``."""
        return replace(self, vector=_part(self.vector, kept))


@dataclass(frozen=True, eq=False)
class Interpolate:
    """``h' = (1 - alpha) h + alpha u`` with ``u = v |h| / |v|``; then, with ``keep_norm``, h' is given the length of h.

    Attributes:
        vector: v, of any length but 0 where alpha is not 0.
        alpha: strength, 0 to 1; or one for each place, ``[b, m]`` or what broadcasts to it. At 0 h stays bit for bit.
    """

    vector: Tensor
    alpha: float | Tensor
    keep_norm: bool = True

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        alpha = self.alpha
        if isinstance(alpha, Tensor) and alpha.dim() != 2:
            raise RequestError(f"the strengths have shape {list(alpha.shape)}: expected [texts, positions].")
        alpha = alpha.detach().float() if isinstance(alpha, Tensor) else _number("strength", alpha)
        _set(self, vector=_vector("vector to move towards", self.vector), alpha=alpha)
        every = torch.as_tensor(alpha)
        if not bool(((every >= 0) & (every <= 1)).all()):
            raise RequestError(f"the strength is {self.alpha}: expected 0 (no change) to 1 (the vector itself).")
        if bool((self.vector.norm(dim=-1) == 0).any()) and bool((every > 0).all()):
            raise RequestError("the vector to move towards is zero: it has no direction.")

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        v = _fitting("vector to move towards", _direction(self.vector), h)
        alpha = torch.as_tensor(self.alpha, dtype=h.dtype, device=h.device)
        if alpha.dim():
            alpha = _fitting("strengths", alpha[..., None].expand(-1, -1, h.shape[2]), h)
        norm = _norm(h)
        mixed = (1 - alpha) * h + alpha * norm * v
        if self.keep_norm:
            mixed = norm * _direction(mixed)
        return torch.where(alpha == 0, h, mixed)

    def part(self, kept: slice | list[int]) -> Self:
        """As ``What.part``."""
        alpha = self.alpha
        if isinstance(alpha, Tensor) and alpha.dim() and alpha.shape[-1] > 1:
            alpha = alpha[..., kept]
        return replace(self, vector=_part(self.vector, kept), alpha=alpha)


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """h without its part in the span of the rows of ``basis`` ``[k, d]``, which need not be orthogonal."""

    basis: Tensor

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        _set(self, basis=_basis(self.basis))

    @cached_property
    def _frame(self) -> Tensor:
        """Orthonormal rows with the same span, ``[rank, d]`` float64."""
        _, size, rows = torch.linalg.svd(self.basis.double(), full_matrices=False)
        return rows[size > size.amax(dim=0, keepdim=True) * 1e-6] if len(size) else rows

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        frame = _spanning(self._frame, h)
        return h - (h @ frame.T) @ frame

    def part(self, kept: slice | list[int]) -> Self:  # noqa: ARG002  one basis for all positions
        """As ``What.part``."""
        return self


@dataclass(frozen=True, eq=False)
class SetCoordinates:
    """The h nearest to h whose products with the rows of ``basis`` ``[k, d]`` are ``values``.

    With the values of another run this moves what lies in the span from that run into this one; with two rows' own
    values exchanged it swaps them. The values are constants of the edit: set again at a later layer they stay what they
    are, where a swap that reads the stream anew would undo the one before it.

    Attributes:
        basis: rows that do not depend on each other.
        values: ``[k]``, or three dimensions that broadcast to ``[b, m, k]``.
    """

    basis: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        _set(self, basis=_basis(self.basis), values=_vector("values to set", self.values))
        if self.values.shape[-1] != len(self.basis):
            raise RequestError(
                f"{self.values.shape[-1]} values are to be set along {len(self.basis)} directions: expected one each."
            )
        size = torch.linalg.svdvals(self.basis.double())
        if not len(size) or float(size[-1]) < 1e-4 * float(size[0]) or len(size) < len(self.basis):
            raise RequestError(
                f"the {len(self.basis)} directions depend on each other: values along them cannot be set one by one."
            )

    @cached_property
    def _inverse(self) -> Tensor:
        """``[k, d]`` float64: the move that changes each product by 1 and no other."""
        return torch.linalg.pinv(self.basis.double()).T.contiguous()

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        basis, inverse = _spanning(self.basis, h), _spanning(self._inverse, h)
        values = _fitting("values to set", self.values, h[..., :1].expand(-1, -1, len(basis)))
        return h + (values - h @ basis.T) @ inverse

    def part(self, kept: slice | list[int]) -> Self:
        """As ``What.part``."""
        return replace(self, values=_part(self.values, kept))


@dataclass(frozen=True)
class Scale:
    """``factor h``."""

    factor: float

    def __post_init__(self) -> None:
        """Raises RequestError for what could not be applied anywhere, such as NaN."""
        _set(self, factor=_number("factor", self.factor))

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``."""
        return h * self.factor

    def part(self, kept: slice | list[int]) -> Self:  # noqa: ARG002  the same for all positions
        """As ``What.part``."""
        return self


KINDS: dict[str, type[What]] = {
    "add": Add,
    "replace": Replace,
    "interpolate": Interpolate,
    "project_out": ProjectOut,
    "set_coordinates": SetCoordinates,
    "scale": Scale,
}
"""Name, in files and on the command line -> kind."""


def _vector(name: str, given: object) -> Tensor:
    """The vector as floats of its own. Raises RequestError for what is none, or holds NaN or infinity."""
    if not isinstance(given, Tensor):
        raise RequestError(f"the {name} was given as {type(given).__name__}: expected a torch tensor.")
    if given.dim() not in (1, 3) or given.layout != torch.strided or given.dtype.is_complex:
        raise RequestError(
            f"the {name} has shape {list(given.shape)} and dtype {given.dtype}: expected real numbers, [d], or three "
            "dimensions that broadcast to [texts, positions, d]."
        )
    return _floats(name, given)


def _basis(given: object) -> Tensor:
    """As ``_vector``, for directions ``[k, d]``."""
    if not isinstance(given, Tensor):
        raise RequestError(f"the basis was given as {type(given).__name__}: expected a torch tensor.")
    if given.dim() != 2 or given.layout != torch.strided or given.dtype.is_complex:
        raise RequestError(f"the basis has shape {list(given.shape)}: expected [k, d], k directions of finite numbers.")
    return _floats("basis", given) if len(given) else given.detach().float()


def _floats(name: str, given: Tensor) -> Tensor:
    values = given.detach() if given.dtype == torch.float64 else given.detach().float()
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise RequestError(f"the {name} holds NaN, infinity or nothing at all: expected finite numbers.")
    return values


def _number(name: str, given: object) -> float:
    """A finite number. Raises RequestError for anything else."""
    try:
        value = float(given)  # pyright: ignore[reportArgumentType]  a user's types are checked by nobody
    except (TypeError, ValueError):
        raise RequestError(f"the {name} was given as {type(given).__name__}: expected a number.") from None
    if isinstance(given, str) or not math.isfinite(value):
        raise RequestError(f"the {name} is {given!r}: expected a finite number, no NaN.")
    return value


def _fitting(name: str, vector: Tensor, h: Tensor) -> Tensor:
    """``vector`` where h is and in its dtype. Raises RequestError unless it broadcasts to h ``[b, m, d]``."""
    b, m, d = h.shape
    three = vector.dim() == 3 and vector.shape[0] in (1, b) and vector.shape[1] in (1, m)
    if vector.shape[-1] != d or not (vector.dim() == 1 or three):
        raise RequestError(
            f"the {name} has shape {list(vector.shape)}: expected [{d}], the width of the stream, or three dimensions "
            f"that broadcast to [{b}, {m}, {d}], {b} texts and {m} positions."
        )
    return vector.to(h.device, h.dtype)


def _spanning(basis: Tensor, h: Tensor) -> Tensor:
    """``basis`` where h is and in its dtype. Raises RequestError for another width."""
    if basis.shape[1] != h.shape[-1]:
        raise RequestError(f"the basis has shape {list(basis.shape)}: expected [k, {h.shape[-1]}], k directions.")
    return basis.to(h.device, h.dtype)


def _part(vector: Tensor, kept: slice | list[int]) -> Tensor:
    if vector.dim() < 3 or vector.shape[1] == 1:
        return vector
    if isinstance(kept, list) and max(kept, default=0) >= vector.shape[1]:
        raise RequestError(
            f"an edit of all positions has vectors for {vector.shape[1]}, and there are more: name the positions."
        )
    return vector[:, kept]


def _set(edit: object, **values: Any) -> None:
    """Puts checked values in the place of those that a frozen one was made with."""
    for name, value in values.items():
        object.__setattr__(edit, name, value)


def _norm(h: Tensor) -> Tensor:
    return h.norm(dim=-1, keepdim=True)


def _direction(v: Tensor) -> Tensor:
    """v at length 1; zero stays zero, and what is long does not overflow."""
    v = v / v.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    return v / _norm(v).clamp(min=torch.finfo(v.dtype).tiny)
