"""One forward pass through the trunk: positions from the mask, the cache continued, no logits."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from midstream.errors import ModelError, RequestError
from midstream.model.families import family
from midstream.model.hook import Point, See, Stop, hooked

if TYPE_CHECKING:
    from midstream.model.addition import Tap
    from midstream.model.anatomy import Anatomy

CACHE_NAMES = ("past_key_values", "cache")
"""What the forward of a trunk calls its cache: transformers up to 5.23, and from 5.24 on."""


def run(anatomy: Anatomy, ids: Tensor, *, mask: Tensor | Sight | None = None, cache: object | None = None) -> None:
    """Run the trunk on ``ids`` for what hooks see of it, without dropout; nothing is returned, no logits are computed.

    Args:
        ids: ``[b, t]`` int64.
        mask: 1 at real tokens, 0 at padding, left or right; ``[b, t]``, with a cache that holds ``p`` positions
            ``[b, p + t]``. ``None``: no padding. Or a ``Sight``, without a cache.
        cache: from ``new_cache``; the pass continues after what it holds, and adds to it.

    Raises:
        RequestError: if the shapes do not fit together, or the family cannot be padded on the left.
    """
    if isinstance(mask, Sight):
        _run(anatomy, ids, mask.additive(ids.device, next(anatomy.blocks[0].parameters()).dtype), mask.positions, None)
        return
    past = held(cache)
    if mask is not None and mask.shape != (ids.shape[0], past + ids.shape[1]):
        raise RequestError(
            f"the mask has shape {list(mask.shape)}, expected {[ids.shape[0], past + ids.shape[1]]}: "
            f"{past} positions in the cache and {ids.shape[1]} new ones, for {ids.shape[0]} texts."
        )
    if mask is not None and not family(anatomy.family).left_padding and not bool(mask[:, 0].all()):
        raise RequestError(f"{anatomy.family} models must be padded on the right: left padding moves their positions.")
    _run(anatomy, ids, mask, positions_of(ids, mask, past), cache)


@dataclass(frozen=True, eq=False)
class Sight:
    """Which positions see which, where it is not simply all earlier ones.

    Attributes:
        seen: ``[t, t]`` bool, row by column: the position of that row attends to that column.
        positions: ``[1, t]`` int64, where each stands in its text; two may stand at one place.
    """

    seen: Tensor
    positions: Tensor

    def additive(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """``[1, 1, t, t]``: 0 where it attends, else the lowest number, as every attention implementation takes it."""
        hidden = torch.full(self.seen.shape, torch.finfo(dtype).min, dtype=dtype, device=device)
        return hidden.masked_fill(self.seen.to(device), 0.0)[None, None]


def held(cache: object | None) -> int:
    """Positions that a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())  # pyright: ignore[reportAttributeAccessIssue]


def _run(anatomy: Anatomy, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: object | None) -> None:
    arguments = {
        "attention_mask": mask,
        "position_ids": positions,
        **dict.fromkeys(CACHE_NAMES, cache),
        "use_cache": cache is not None,
    }
    with evaluated(anatomy.trunk), torch.inference_mode():
        call(anatomy.trunk, ids, arguments)


@contextmanager
def evaluated(module: nn.Module) -> Generator[None]:
    """Inside, dropout is off, also in a module that its owner has put back into training since it was loaded."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True


def positions_of(ids: Tensor, mask: Tensor | None, past: int) -> Tensor:
    """Position of every token in its own text, ``[b, t]`` int64: padding does not count, on either side."""
    if mask is None:
        return torch.arange(past, past + ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]


def call(module: nn.Module, ids: Tensor, arguments: Mapping[str, Any]) -> Any:
    """Call a trunk or a whole model with those of ``arguments`` that its forward takes, ``None`` left out.

    Raises:
        ModelError: if padding stands before text and the forward takes no mask, so that it would read it as text.
            Padding after a text needs no mask: no model that is read here sees later tokens.
    """
    taken = inspect.signature(module.forward).parameters
    mask = arguments.get("attention_mask")
    if mask is not None and "attention_mask" not in taken and bool((mask[..., 1:] > mask[..., :-1]).any()):
        raise ModelError(f"{type(module).__name__} takes no attention_mask: pad its texts on the right only.")
    given = {name: value for name, value in arguments.items() if value is not None and name in taken}
    return module(input_ids=ids, **given)


@dataclass(frozen=True)
class Changes:
    """Hooks that change the stream in a pass: those of ``before`` run before a tap at their place sees it, those of
    ``after`` after it."""

    before: Sequence[Point] = ()
    after: Sequence[Point] = ()


def seen(
    anatomy: Anatomy,
    ids: Tensor,
    taps: Sequence[Tap],
    *,
    mask: Tensor | Sight | None = None,
    cache: object | None = None,
    changes: Changes = Changes(),
) -> list[Tensor]:
    """The values at ``taps`` during one pass, each ``[b, t, d]``, own memory, in the model's dtype.

    Without a cache to fill, the pass ends as soon as the last tap has been seen.

    Args:
        changes: hooks that change the stream on its way.

    Raises:
        ModelError: if a tap is not reached or shows something that is no stream.
    """
    places = [(index, addend) for index, tap in enumerate(taps) for addend in addends(tap)]
    found: dict[int, Tensor] = {}
    missing = len(places)
    shape = (*ids.shape, anatomy.width)

    def keep(index: int, scale: float) -> See:
        def see(value: Tensor) -> None:
            nonlocal missing
            if value.numel() != ids.numel() * anatomy.width:
                raise ModelError(f"a tap of {anatomy.family} shows {list(value.shape)}, expected {list(shape)}.")
            # outside inference mode a copy is an ordinary tensor, which later work may differentiate through
            with torch.inference_mode(False):
                copy = value.reshape(shape).clone() if scale == 1.0 else value.reshape(shape) * scale
                found[index] = found[index] + copy if index in found else copy
            missing -= 1
            if cache is None and not missing:
                raise Stop

        return see

    points: list[Point] = [(tap.module, tap.side, keep(index, tap.scale)) for index, tap in places]
    with hooked([*changes.before, *points, *changes.after]):
        run(anatomy, ids, mask=mask, cache=cache)
    if missing:
        raise ModelError(f"{missing} of {len(places)} places wanted in {anatomy.family} were never reached.")
    return [found[index] for index in range(len(taps))]


def differentiable(anatomy: Anatomy, ids: Tensor) -> list[Tensor]:
    """The stream at every layer as the nodes of one graph: h_L is differentiable in each of h_0 to h_{L-1}.

    Parameters are constants of the graph: nothing is ever added to their gradients. The pass ends at layer L.

    Args:
        ids: ``[b, t]`` int64 without padding.

    Returns:
        L + 1 tensors ``[b, t, d]`` in the model's dtype, for ``torch.autograd.grad``.

    Raises:
        ModelError: if a block does not hand on the stream, or the family computes without gradients.
    """
    stream: list[Tensor] = []

    def see(value: Tensor) -> Tensor:
        if value.numel() != ids.numel() * anatomy.width:
            raise ModelError(f"a block of {anatomy.family} shows {list(value.shape)}, expected {[*ids.shape]} rows.")
        if not stream:
            value = value.detach().requires_grad_()
        stream.append(value.reshape(*ids.shape, anatomy.width))
        if len(stream) > anatomy.layers:
            raise Stop
        # what goes on is a copy: some models add in place to what has passed
        return stream[-1].clone().reshape(value.shape)

    points: list[Point] = [(anatomy.blocks[0], "input", see), *((block, "output", see) for block in anatomy.blocks)]
    with (
        evaluated(anatomy.trunk),
        _constant(anatomy.trunk),
        hooked(points),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        call(anatomy.trunk, ids, {"position_ids": positions_of(ids, None, 0), "use_cache": False})
    if len(stream) != anatomy.layers + 1 or not stream[-1].requires_grad:
        raise ModelError(f"{anatomy.family}: no gradient leads from the last block back to the first.")
    return stream


@contextmanager
def skipped(anatomy: Anatomy, blocks: int) -> Generator[None]:
    """Inside, the first ``blocks`` blocks hand on what they are given: an edit of the last of them starts a pass there.

    Most families' blocks give a tensor, some a tuple; what comes of it is to be compared with a whole pass once.
    """

    def handed_on(h: Tensor, *_rest: Any, **_named: Any) -> Tensor:
        return h

    touched = [block for block in anatomy.blocks[:blocks] if "forward" not in vars(block)]
    for block in touched:
        block.forward = handed_on
    try:
        yield
    finally:
        for block in touched:
            del block.forward


@contextmanager
def _constant(module: nn.Module) -> Generator[None]:
    """Inside, no parameter wants gradients, so that no graph keeps what only they would need."""
    wanting = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def addends(tap: Tap | None) -> Iterator[Tap]:
    """The places whose values, each times its scale, add up to what ``tap`` shows."""
    while tap is not None:
        yield tap
        tap = tap.also


def new_cache(module: nn.Module, anatomy: Anatomy) -> object | None:
    """An empty cache for ``run``, or ``None`` for a family without a standard one (read it in whole windows)."""
    own = getattr(module, "new_cache", None)
    if callable(own):
        return own()
    taken = set(inspect.signature(anatomy.trunk.forward).parameters)
    if not family(anatomy.family).cache or not taken & set(CACHE_NAMES):
        return None
    from transformers import DynamicCache

    cache = DynamicCache(config=module.config)  # pyright: ignore[reportArgumentType]
    try:
        cache.get_seq_length()
    except ValueError:  # a stack without any attention has no length to ask for
        return None
    return cache


def expanded(cache: object, b: int) -> object | None:
    """A new cache that holds one text's positions ``b`` times, as a batch; ``cache`` itself stays as it is.

    ``None`` for a cache that holds more than keys and values (states of recurrences or convolutions).
    """
    own = getattr(cache, "expanded", None)
    if callable(own):
        return own(b)
    from copy import deepcopy

    from transformers.cache_utils import DynamicCache, DynamicIndexedLayer, DynamicLayer, LinearAttentionCacheLayerMixin

    if not isinstance(cache, DynamicCache) or not all(
        isinstance(layer, DynamicLayer) and not isinstance(layer, DynamicIndexedLayer | LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    ):
        return None
    copy = deepcopy(cache)
    copy.batch_repeat_interleave(b)
    return copy


def rewindable(cache: object) -> bool:
    """Makes ready a cache that is still empty for ``rewind``; False for one that cannot be taken back (recurrences)."""
    if hasattr(cache, "rewind"):
        return True
    if not getattr(cache, "is_croppable", False):
        return False
    cache.activate_past_recording()  # pyright: ignore[reportAttributeAccessIssue]  sliding windows keep what they would drop
    return True


def rewind(cache: object, tokens: int) -> None:
    """Takes the last ``tokens`` positions out of a cache that ``rewindable`` has made ready."""
    own = getattr(cache, "rewind", None)
    if callable(own):
        own(tokens)
    else:
        cache.crop(-tokens)  # pyright: ignore[reportAttributeAccessIssue]
