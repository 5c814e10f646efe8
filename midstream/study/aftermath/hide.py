"""Hide one position from all that follow: what they read there is the mean position's keys and values.

The text stands once as it is. Behind it stand branches, each a copy of a few later positions, begun at layer l from the
stream that the text has there. A branch sees the text up to its start but for the hidden position, in the place of
which stands a ghost. At every block after l, what attention reads at the ghost is replaced by the mean over positions
of ordinary text; keys and values are affine in that, so the ghost's are the mean keys and values (before rotation and,
where a family normalises keys, before that). The text itself, the hidden position too, stays as it is: only what later
positions read there is another.

Letters for shapes: t tokens, n rows of the pass (the text, then ghosts and branches), d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from midstream.model.addition import same
from midstream.model.forward import Changes, Sight, seen, skipped
from midstream.model.hook import Point, See, Side, hooked
from midstream.model.model import Model
from midstream.model.observe import observe
from midstream.sample.anchor import skips
from midstream.stream.capture import capture
from midstream.stream.change import Replace
from midstream.stream.edit import Edit, plan
from midstream.stream.site import tap
from midstream.stream.vector import sinks


@dataclass(frozen=True)
class Branch:
    """Positions from ``start`` on, from which one earlier position is hidden."""

    start: int
    hidden: int


Entry = tuple[nn.Module, Side]
"""A module of a block and the end of it at which attention is given what it reads."""

Given = dict[tuple[int, int], Tensor]
"""(block, which of its entries) -> what passes there."""


def entries(model: Model) -> list[list[Entry]]:
    """Where each block's attention is given what it reads: behind the norms that open the block, else its own input.

    A block that opens with several norms of one stream (parallel attention and MLP) has all of them.
    """
    anatomy, module = model.anatomy, model.module
    config = getattr(module, "config", None)
    watched = observe(module, config, width=anatomy.width, vocabulary=anatomy.vocabulary)
    found: list[list[Entry]] = []
    for block in anatomy.blocks:
        start = watched.at(block, "input")
        assert start is not None  # the anatomy was found from it
        opening: dict[int, Entry] = {
            id(event.module): (event.module, "output")
            for event in watched.within(block)
            if event.side == "input" and same(event.value, start.value) and _is_norm(event.module)
        }
        found.append(list(opening.values()) or [(block, "input")])
    return found


def _is_norm(module: nn.Module) -> bool:
    return not list(module.children()) and all(weight.dim() < 2 for weight in module.parameters())


def given(model: Model, places: Sequence[Sequence[Entry]], ids: Tensor) -> Given:
    """What attention is given at every position of ``ids`` ``[b, t]``, ``[b, t, d]`` each."""
    found: Given = {}

    def keep(block: int, number: int) -> See:
        def see(value: Tensor) -> None:
            found[block, number] = value.reshape(*ids.shape, -1).clone()

        return see

    with hooked(_points(places, 0, keep)):
        capture(model, ids, layers=[model.anatomy.layers])
    return found


def _points(places: Sequence[Sequence[Entry]], first: int, see: Callable[[int, int], See]) -> list[Point]:
    return [
        (module, side, see(block, number))
        for block, members in enumerate(places)
        if block >= first
        for number, (module, side) in enumerate(members)
    ]


@dataclass(frozen=True, eq=False)
class Hiding:
    """What it takes to hide positions of a model's texts.

    Attributes:
        places: of each block.
        mean: ``[d]`` each, what attention is given on average.
        skip: blocks before a branch's start are left out.
    """

    model: Model
    places: list[list[Entry]]
    mean: Given
    skip: bool

    @classmethod
    def of(cls, model: Model, batches: Iterable[Tensor]) -> Hiding:
        """With means over the positions of these ids, ``[b, t]`` each, attention sinks left out."""
        places, total, count = entries(model), Given(), 0
        for ids in batches:
            ordinary = ~sinks(capture(model, ids, layers=[model.anatomy.layers // 2])[model.anatomy.layers // 2])
            for key, value in given(model, places, ids).items():
                total[key] = total.get(key, 0.0) + value[ordinary].double().sum(0)
            count += int(ordinary.sum())
        return cls(model, places, {key: value / count for key, value in total.items()}, skips(model))

    def branched(
        self, ids: Tensor, layer: int, stream: Tensor, branches: Sequence[Branch], span: int, shown: Given | None = None
    ) -> Tensor:
        """The stream at layer L of each branch, ``[branches, span, d]``.

        Args:
            ids: ``[t]`` int64; stream: ``[t, d]`` at ``resid_post`` of ``layer``, after which positions are hidden.
            span: positions of each branch.
            shown: ``[branches, d]`` each, what stands in the hidden positions' place; None: the mean.
        """
        t, anatomy = len(ids), self.model.anatomy
        at, sight = laid(t, branches, span, ids.device)
        ghosts = t + (span + 1) * torch.arange(len(branches), device=ids.device)
        put = self.mean if shown is None else shown

        def replace(block: int, number: int) -> See:
            def see(value: Tensor) -> Tensor:
                changed = value.clone().reshape(len(at), -1)
                changed[ghosts] = put[block, number].to(changed)
                return changed.reshape(value.shape)

            return see

        made = plan(anatomy, [Edit("resid_post", (layer,), None, Replace(stream[at][None]))], (1, len(at)))
        before = [*made.changes.before, *_points(self.places, layer, replace)]
        with skipped(anatomy, layer) if self.skip else nullcontext():
            last = [tap(anatomy, anatomy.layers, "resid_post")]
            (final,) = seen(anatomy, ids[at][None], last, mask=sight, changes=Changes(before, made.changes.after))
        made.done()
        return final[0, t:].reshape(len(branches), span + 1, -1)[:, 1:]


def laid(t: int, branches: Sequence[Branch], span: int, device: torch.device) -> tuple[Tensor, Sight]:
    """Which position of the text each row of the pass is, ``[n]``, and which rows see which."""
    at = torch.tensor([*range(t), *(i for one in branches for i in (one.hidden, *range(one.start, one.start + span)))])
    seen_by = torch.zeros(len(at), len(at), dtype=torch.bool)
    seen_by[:t, :t] = torch.ones(t, t).tril().bool()
    for number, one in enumerate(branches):
        ghost = t + number * (span + 1)
        rows = slice(ghost + 1, ghost + 1 + span)
        seen_by[ghost, ghost] = True
        seen_by[rows, : one.start] = True
        seen_by[rows, one.hidden] = False
        seen_by[rows, ghost] = True
        seen_by[rows, rows] = torch.ones(span, span).tril().bool()
    return at.to(device), Sight(seen_by.to(device), at[None].to(device))


def unable(model: Model, tokens: int) -> str:
    """Why positions cannot be hidden in texts of so many tokens; empty where they can.

    A short text shows it: a ghost that stands for what was there changes nothing, one that does not changes something.
    """
    window = getattr(getattr(model.module, "config", None), "sliding_window", None)
    if isinstance(window, int) and 0 < window < tokens:
        return f"a text of {tokens} tokens is longer than the model's sliding window of {window}"
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.anatomy.vocabulary, (1, 12), generator=generator).to(model.device)
    last, layer = model.anatomy.layers, model.anatomy.layers // 2
    try:
        hiding = Hiding.of(model, [ids])
        stream = capture(model, ids, layers=[layer, last])
        own = {key: value[0, 5:6] for key, value in given(model, hiding.places, ids).items()}
        same_, other = (
            hiding.branched(ids[0], layer, stream[layer][0], [Branch(7, 5)], 4, put)[0].float() for put in (own, None)
        )
    except Exception as error:  # whatever a family's own code raises for a mask or a block that it did not expect
        return f"a {model.anatomy.family} model takes no mask of its own ({type(error).__name__})"
    plain = stream[last][0, 7:11].float()
    bound = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    if float((same_ - plain).norm() / plain.norm()) > bound:
        return f"in a {model.anatomy.family} model later positions read more than a mask shows them"
    if float((other - plain).norm() / plain.norm()) == 0:
        return f"in a {model.anatomy.family} model hiding a position changes nothing"
    return ""
