"""The Jacobian lens: the mean derivative of the last layer in each layer, over a corpus, exact or sketched.

For a prompt p of n tokens let P be the positions ``FIRST`` to n - 2. Row r of its Jacobian at layer l is the gradient,
at h_l and averaged over P, of the sum over P of coordinate r of h_L (before the final norm): one backward pass gives
that row at every layer. J_l is the mean over prompts, J_L = I (Gurnee et al. 2026, "Verbalizable Representations Form a
Global Workspace in Language Models").

The cotangent may be any vector v; the pass then gives ``g = J_pᵀ v``. The sketch asks for the rows of an orthonormal
basis, each of many prompts for a few, whole basis after whole basis in random order, and takes the mean of what each
row was answered; a row that was never asked is that of the identity. With ``σ² = E |J_p - J|²`` over prompts
(Frobenius) the expected squared error of N passes is ``σ² d / N`` where N is a multiple of d: that of an exact fit with
as many passes. Independent signs would add ``|J|² (d - 1) / N``. Below d passes it is
``(1 - N/d) |J - I|² + (N/d) σ²``.

The basis is that of the eigenvectors of the metric in which the logits see h_L (``output_basis``). What is uncertain in
one direction then stays in it, so that the logits err as little as an exact fit's too; a basis drawn at random carries
the noise of loud directions that the unembedding hardly sees into those that it sees best.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.errors import FitError, RequestError
from midstream.model.anatomy import Anatomy, float32_copy
from midstream.model.forward import differentiable
from midstream.model.linear import FastLinear
from midstream.model.model import Model
from midstream.model.product import full_float32

LENGTH = 128
"""Tokens in a prompt."""
FIRST = 16
"""First position of P: earlier ones carry attention sinks."""
BATCH = 4
"""Prompts (exact: rows) in one pass; more is no faster on two cores."""
ROUNDS = 4
"""Directions a prompt is asked about, so that its forward pass is a fifth of the cost."""

ROWS = 4096
"""Rows of the unembedding taken at once."""
POINTS = 4096
"""Points at which the derivative of the final norm is taken, times d; four or more."""

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class JacobianFit:
    """What a fit gives.

    Attributes:
        maps: layer -> J ``[d, d]`` float32 on the CPU, layers 0 to L - 1; at L it is the identity.
        prompts: how many were used.
        passes: backward passes made, one a prompt and direction.
        method: ``exact`` or ``sketched``, and the dtype through which the derivative was taken.
    """

    maps: dict[int, Tensor]
    prompts: int
    passes: int
    method: str


def fit(
    model: Model,
    documents: Iterable[Sequence[int]],
    *,
    passes: int,
    exact: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> JacobianFit:
    """Fit the Jacobian lens of a model.

    Args:
        documents: token ids; prompts are their first ``LENGTH`` tokens, and only where that makes too few, later ones.
        passes: backward passes to spend; best a multiple of d. Exact: d a prompt, as many prompts as that allows.
        seed: of the order in which directions are asked.
        progress: called with the number of passes done.

    Raises:
        RequestError: if no document is long enough, or an exact fit has passes for less than one prompt.
        FitError: if a gradient is no number.
    """
    d = model.anatomy.width
    if exact and passes < d:
        raise RequestError(
            f"an exact Jacobian takes {d} passes a prompt, {passes} were given: give more, or sketch it."
        )
    if passes < 1:
        raise RequestError(f"{passes} passes were asked for: expected 1 or more, best a multiple of {d}.")
    found = prompts(documents, passes // d if exact else -(-passes // ROUNDS), min(LENGTH, model.context))
    name = f"{'exact' if exact else 'sketched in the basis of the logits'}, {str(model.dtype).removeprefix('torch.')}"
    if exact:
        total = torch.zeros(model.anatomy.layers, d, d, device=model.device)
        for number, prompt in enumerate(found):
            total += exact_jacobian(model, prompt, _later(progress, number * d))
        return JacobianFit(_maps(total / len(found)), len(found), d * len(found), name)
    sketch = Sketch.begin(model, seed)
    for batch, share in schedule(found, min(passes, d * len(found))):
        sketch.add(model, batch, share)
        if progress is not None:
            progress(sketch.passes)
    return JacobianFit(_maps(sketch.jacobian()), sketch.prompts, sketch.passes, name)


def prompts(documents: Iterable[Sequence[int]], count: int, length: int = LENGTH) -> Tensor:
    """Up to ``count`` prompts ``[m, length]`` int64: the beginnings of documents in order, then what follows in each.

    No more documents are read than are needed. Raises RequestError if none is long enough, or ``length`` too short.
    """
    if length < FIRST + 2:
        raise RequestError(
            f"a prompt of {length} tokens is too short: the Jacobian lens averages from token {FIRST} on."
        )
    first: list[Sequence[int]] = []
    later: list[list[Sequence[int]]] = []
    longest = 0
    for ids in documents:
        longest = max(longest, len(ids))
        pieces = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
        first += pieces[:1]
        later.append(pieces[1:])
        if len(first) == count:
            break
    rounds = (pieces[i] for i in range(max(map(len, later), default=0)) for pieces in later if i < len(pieces))
    chosen = [ids for ids, _ in zip(chain(first, rounds), range(count), strict=False)]
    if not chosen:
        raise RequestError(
            f"the Jacobian lens is fitted on prompts of {length} tokens, and the longest document has {longest}: "
            "give it longer documents."
        )
    return torch.from_numpy(np.array(chosen, dtype=np.int64))


def exact_jacobian(model: Model, prompt: Tensor, progress: Progress | None = None) -> Tensor:
    """Every row of one prompt's Jacobian at every layer below the last: ids ``[n]`` to ``[L, d, d]``, on the device.

    ``progress`` is called with the number of passes done. Raises FitError as ``fit`` does.
    """
    d = model.anatomy.width
    found = torch.zeros(model.anatomy.layers, d, d, device=model.device)
    with _evaluation(model, prompt.expand(BATCH, -1)) as stream:
        for start in range(0, d, BATCH):
            v = torch.zeros(BATCH, d)
            rows = torch.arange(start, min(start + BATCH, d))
            v[rows - start, rows] = 1
            found[:, rows] = pulled(stream, v)[:, : len(rows)]
            if progress is not None:
                progress(int(rows[-1]) + 1)
    return found


@dataclass
class Sketch:
    """A sketched fit so far: what ``add`` has gathered, to go on from or to read.

    Attributes:
        sums: ``[L, d, d]`` float32: row k is the sum of the answers to row k of the basis.
        basis: ``[d, d]``, from ``output_basis``.
        seed: of the order of the rows.
        prompts, passes: how many have been used.
    """

    sums: Tensor
    basis: Tensor
    seed: int
    prompts: int = 0
    passes: int = 0

    @classmethod
    def begin(cls, model: Model, seed: int) -> Sketch:
        """A sketch that has asked nothing yet."""
        d = model.anatomy.width
        return cls(torch.zeros(model.anatomy.layers, d, d, device=model.device), output_basis(model.anatomy), seed)

    def add(self, model: Model, batch: Tensor, passes: int) -> None:
        """Spends ``passes`` on prompts ``[b, n]``, in turn. Raises FitError as ``fit`` does."""
        b, d = len(batch), model.anatomy.width
        with _evaluation(model, batch) as stream:
            for start in range(0, passes, b):
                count = min(b, passes - start)
                v, rows = torch.zeros(b, d), order(d, self.passes, count, self.seed)
                v[:count] = self.basis[rows] * d**0.5  # longer, so that small gradients do not vanish in float16
                g = pulled(stream, v)[:, :count].to(self.sums.device)
                self.sums.index_add_(1, rows.to(g.device), g / d**0.5)
                self.passes += count
        self.prompts += b

    def jacobian(self) -> Tensor:
        """The estimate, ``[L, d, d]``: what was answered on average, the identity where nothing was asked."""
        rows = order(len(self.basis), 0, self.passes, self.seed)
        asked = torch.bincount(rows, minlength=len(self.basis)).to(self.sums.device)[:, None]
        basis = self.basis.to(self.sums.device)
        with full_float32():
            found = [basis.T @ torch.where(asked > 0, sums / asked.clamp(min=1), basis) for sums in self.sums]
        return torch.stack(found)


def schedule(found: Tensor, passes: int) -> Iterator[tuple[Tensor, int]]:
    """Batches of prompts and the passes that each gets, the same for every prompt up to what is left at the end."""
    rounds = -(-passes // len(found))
    for batch in found.split(BATCH):
        if passes <= 0:
            return
        yield batch, min(passes, rounds * len(batch))
        passes -= rounds * len(batch)


def output_basis(anatomy: Anatomy) -> Tensor:
    """Orthonormal rows ``[d, d]`` float32 on the CPU: eigenvectors of ``E[Gᵀ W_cᵀ W_c G]``, loudest last.

    W_c is the unembedding less its mean row, which moves all logits alike; G the derivative of the final norm, at
    normal vectors drawn by a fixed seed. Raises FitError for weights that are not finite.
    """
    weight: Any = anatomy.unembedding.weight
    d = anatomy.width
    gram, total = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for part in weight.detach().split(ROWS):
        rows = part.cpu().double()  # in this order: not every device has float64
        gram += rows.T @ rows
        total += rows.sum(0)
    gram -= total[:, None] * total / len(weight)
    if anatomy.final_norm is not None:
        norm = float32_copy(anatomy.final_norm).cpu().double()
        points = torch.randn(max(4, POINTS // d), 1, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        slope_at: Any = torch.autograd.functional.jacobian
        slopes = [slope_at(norm, point)[0, :, 0].double() for point in points]
        gram = sum((slope.T @ gram @ slope for slope in slopes), torch.zeros_like(gram))
    if not bool(torch.isfinite(gram).all()):
        raise FitError("the unembedding or the final norm holds a number that is not finite: mend the model's weights.")
    return torch.linalg.eigh(gram)[1].T.float().contiguous()


def order(d: int, first: int, count: int, seed: int) -> Tensor:
    """Which row of the basis is asked at passes ``first`` to ``first + count``, ``[count]`` int64.

    Every d of them, counted from the start, are all rows, in an order drawn by the seed.
    """
    numbers = range(first // d, (first + count - 1) // d + 1)
    drawn = [np.random.default_rng([seed, number]).permutation(d) for number in numbers]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *drawn])[first % d :][:count]
    return torch.from_numpy(rows)


def pulled(stream: Sequence[Tensor], v: Tensor) -> Tensor:
    """``Jᵀ v`` of each prompt at each layer below the last: ``v`` ``[b, d]`` to ``[L, b, d]`` float32.

    Args:
        stream: from ``model.forward.differentiable``, ``[b, n, d]`` each.

    Raises:
        FitError: naming the last layer whose gradient is no number.
    """
    last = stream[-1]
    within = slice(FIRST, last.shape[1] - 1)
    cotangent = torch.zeros_like(last)
    cotangent[:, within] = v[:, None].to(last)
    gradients = torch.autograd.grad(last, list(stream[:-1]), cotangent, retain_graph=True)
    found = torch.stack([g[:, within].float().mean(1) for g in gradients])
    if not bool(torch.isfinite(found).all()):
        layer = max(i for i, g in enumerate(found) if not bool(torch.isfinite(g).all()))
        raise FitError(
            f"the derivative of layer {len(gradients)} in layer {layer} is no finite number in {last.dtype}: "
            "load the model with --dtype float32, or leave out the text."
        )
    return found


@contextmanager
def _evaluation(model: Model, ids: Tensor) -> Generator[list[Tensor]]:
    """The differentiable stream on prompts ``[b, n]``; inside, products are full float32 and fast."""
    with full_float32(), FastLinear():
        yield differentiable(model.anatomy, ids.to(model.device))


def _maps(found: Tensor) -> dict[int, Tensor]:
    return dict(enumerate(found.cpu()))


def _later(progress: Progress | None, offset: int) -> Progress | None:
    return None if progress is None else lambda done: progress(offset + done)
