"""Find the parts of a language model from its module tree and from watching one short forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from midstream.errors import ModelError
from midstream.model.addition import Sites, Tap, nearest, ratio, same, sites_of
from midstream.model.families import SOFT_CAP_FIELDS, family
from midstream.model.observe import PREFIX, Event, Observation, observe

Tied = Literal["same tensor", "equal values", "different"]

ORDER = ("attn_out", "resid_mid", "mlp_out", "resid_post")
"""The sites a block can have, in the order in which they are computed."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model; modules are the live ones, not copies.

    Attributes:
        family: the config's ``model_type``.
        embedding: token embedding, ``weight`` of shape ``[V, d]``.
        embedding_scale: a token's row enters layer 0 as ``embedding_scale * weight[token]``, then
        embedding_norm: this norm, where the family has one (BLOOM), then
        positions_added: a position embedding, where this is true (not part of ``input_rows``).
        blocks: the L blocks in the order in which they run.
        trunk: the module without its head: runs to the final hidden states, no logits.
        final_norm: the live module; ``None`` if the family has none.
        unembedding: the module with ``weight [V, d]`` and perhaps ``bias [V]``.
        logit_scale: s of ``z = cap(s (W x + b))``, x after the final norm.
        soft_cap: c of ``cap(z) = c tanh(z / c)``; ``None``: none.
        tied: how the input and the output embedding relate.
        sites: those this family has, in that order; only ``resid_post`` exists at layer 0.
        taps: ``taps[l - 1][site]`` for block l.
        exceptions: what ``families.py`` says about the family.
    """

    family: str
    embedding: nn.Module
    embedding_scale: float
    embedding_norm: nn.Module | None
    positions_added: bool
    blocks: tuple[nn.Module, ...]
    trunk: nn.Module
    final_norm: nn.Module | None
    unembedding: nn.Module
    logit_scale: float
    soft_cap: float | None
    tied: Tied
    sites: tuple[str, ...]
    taps: tuple[Sites, ...]
    exceptions: tuple[str, ...]

    @property
    def width(self) -> int:
        """d, the width of the stream."""
        return _weight(self.unembedding).shape[1]

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return _weight(self.unembedding).shape[0]

    @property
    def layers(self) -> int:
        """L, the number of blocks; the stream has L + 1 layers."""
        return len(self.blocks)

    def input_rows(self, ids: Tensor | None = None) -> Tensor:
        """Rows as they enter layer 0, float32: after scale and norm, without position; ``[V, d]``, or those of ids."""
        weight = _weight(self.embedding).detach()
        rows = (weight if ids is None else weight[ids]).float() * self.embedding_scale
        return rows if self.embedding_norm is None else in_float32(self.embedding_norm, rows)

    def output_rows(self, ids: Tensor) -> Tensor:
        """Rows of the unembedding by which the normed stream is multiplied, float32: ``[n]`` ids -> ``[n, d]``."""
        return _weight(self.unembedding).detach()[ids].float()


def in_float32(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)`` computed in float32 with a float32 copy of the module's weights; shape and device as given."""
    copy = float32_copy(norm)
    device = next((weight.device for weight in copy.parameters()), x.device)
    return copy(x.to(device).float()).to(x.device)


def float32_copy(module: nn.Module) -> nn.Module:
    """A float32 copy of a norm for computing outside the model, without gradients."""
    from copy import deepcopy

    with torch.inference_mode(False):
        return deepcopy(module).float().requires_grad_(False).eval()


def find(module: nn.Module, config: Any) -> Anatomy:
    """Find the parts of ``module``, a causal language model with its head.

    Args:
        config: has ``model_type``; ``is_encoder_decoder`` and the soft cap are read from it where they exist.

    Raises:
        ModelError: if the model is of a kind that midstream does not read, with the reason.
    """
    name = str(getattr(config, "model_type", type(module).__name__))
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder; midstream reads decoder-only language models.")
    special = family(name)
    if special.refused:
        raise ModelError(f"midstream does not read {name} models: {special.refused}.")
    embedding, unembedding = _ends(module, name)
    width, vocabulary = _weight(unembedding).shape[1], _weight(embedding).shape[0]
    if (stream := getattr(text_config(config), "hidden_size", width)) != width:
        raise ModelError(f"{name}: a projection stands between the stream ({stream}) and the embeddings ({width}).")
    seen = observe(module, config, width=width, vocabulary=vocabulary)
    blocks = _blocks(seen, module, name)
    _check_dtypes(blocks, name)
    trunk = _trunk(seen, module, [embedding, *blocks])
    _check_causal(seen, blocks[-1], name)
    final_norm, scale, cap = _output(seen, blocks[-1], unembedding, _soft_cap(config), name)
    embedding_scale, embedding_norm, positions = _input(seen, blocks[0], embedding, name)
    taps = _taps(seen, blocks, bool(special.unsummed), name)
    return Anatomy(
        family=name,
        embedding=embedding,
        embedding_scale=embedding_scale,
        embedding_norm=embedding_norm,
        positions_added=positions,
        blocks=tuple(blocks),
        trunk=trunk,
        final_norm=final_norm,
        unembedding=unembedding,
        logit_scale=scale,
        soft_cap=cap,
        tied=_tied(embedding, unembedding),
        sites=tuple(site for site in ORDER if all(site in tap for tap in taps)),
        taps=taps,
        exceptions=special.words,
    )


def logits(anatomy: Anatomy, x: Tensor) -> Tensor:
    """``cap(s (W x + b))`` for x after the final norm, ``[n, d]`` float32 to ``[n, V]``."""
    z = anatomy.logit_scale * project(anatomy.unembedding, x)
    return z if anatomy.soft_cap is None else anatomy.soft_cap * torch.tanh(z / anatomy.soft_cap)


def project(unembedding: nn.Module, x: Tensor) -> Tensor:
    """``W x + b`` in float32 for x ``[n, d]``, on x's device, in blocks of rows so that W is never copied whole."""
    weight, bias = _weight(unembedding), getattr(unembedding, "bias", None)
    on_weight = x.to(weight.device)
    parts = [on_weight @ weight[i : i + 8192].detach().float().T for i in range(0, weight.shape[0], 8192)]
    z = torch.cat(parts, dim=-1)
    return (z if bias is None else z + bias.detach().float()).to(x.device)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _ends(module: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """The input and the output embedding, each with a two-dimensional weight."""
    ends: list[nn.Module] = []
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            end = getattr(module, getter)()
        except (AttributeError, NotImplementedError):
            end = None
        weight = getattr(end, "weight", None)
        if not isinstance(end, nn.Module) or not isinstance(weight, Tensor) or weight.dim() != 2:
            what = "token embedding" if not ends else "unembedding"
            raise ModelError(f"{name}: no {what} with one weight matrix; expected a causal language model.")
        ends.append(end)
    if _weight(ends[0]).shape[1] != _weight(ends[1]).shape[1]:
        widths = f"{_weight(ends[0]).shape[1]} and {_weight(ends[1]).shape[1]}"
        raise ModelError(f"{name}: input and output embedding have different widths ({widths}).")
    return ends[0], ends[1]


def _blocks(seen: Observation, module: nn.Module, name: str) -> list[nn.Module]:
    """The list of modules whose members hand the stream to one another: the outermost, then the largest."""
    chains: list[tuple[int, int, list[nn.Module]]] = []
    broken = ""
    for path, child in module.named_modules():
        if not isinstance(child, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            continue
        order = [(seen.at(c, "output"), c) for c in child.children()]
        ran = [(event.order, c) for event, c in order if event is not None]
        members = [c for _, c in sorted(ran, key=lambda pair: pair[0])]
        fault = _chain_fault(seen, members)
        if members and not fault:
            size = sum(p.numel() for p in child.parameters())
            chains.append((path.count("."), -size, members))
        elif members and len(members) > 1 and not broken:
            broken = f" ({path}: {fault})"
    if not chains:
        raise ModelError(f"{name}: no list of blocks found that hand one stream to one another{broken}.")
    return min(chains, key=lambda chain: chain[:2])[2]


def _check_dtypes(blocks: list[nn.Module], name: str) -> None:
    wrong = {p.dtype for block in blocks for p in block.parameters()} - {
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
    }
    if wrong:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in wrong))
        raise ModelError(
            f"{name}: weights of its blocks are {found}; expected float32, bfloat16 or float16: load the model "
            "without quantisation, or dequantise it before passing it."
        )


def _chain_fault(seen: Observation, members: Iterable[nn.Module]) -> str:
    """What keeps these modules from being a chain; empty if they are one."""
    previous: Event | None = None
    for number, member in enumerate(members, start=1):
        start, end = seen.at(member, "input"), seen.at(member, "output")
        if seen.calls[id(member)] != 1:
            return f"block {number} runs {seen.calls[id(member)]} times"
        if start is None or end is None:
            return f"block {number} is not given the stream"
        if previous is not None and not same(start.value, previous.value):
            return f"what leaves block {number - 1} is not what enters block {number}"
        previous = end
    return ""


def _trunk(seen: Observation, module: nn.Module, parts: list[nn.Module]) -> nn.Module:
    """The outermost module that ran, holds the embedding and the blocks, and is not the whole model."""
    wanted = {id(part) for part in parts}
    for child in module.modules():
        if child is not module and seen.calls[id(child)] and wanted <= {id(m) for m in child.modules()}:
            return child
    raise ModelError(f"{type(module).__name__}: no module holds the embedding and all blocks but not the head.")


def _check_causal(seen: Observation, last: nn.Module, name: str) -> None:
    event = seen.at(last, "output")
    assert event is not None
    one, two = event.value.chunk(2)
    if not bool((one[:PREFIX] - two[:PREFIX]).norm() <= 1e3 * seen.epsilon * one[:PREFIX].norm()):
        raise ModelError(f"{name}: positions see later tokens, so this is no causal language model as configured.")


def _soft_cap(config: Any) -> float | None:
    return next((float(v) for v in (getattr(text_config(config), name, None) for name in SOFT_CAP_FIELDS) if v), None)


def text_config(config: Any) -> Any:
    """The part of a config that describes the language model."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _output(
    seen: Observation, last: nn.Module, unembedding: nn.Module, cap: float | None, name: str
) -> tuple[nn.Module | None, float, float | None]:
    """Final norm, logit scale and soft cap: those with which the last layer gives the model's logits."""
    end = seen.at(last, "output")
    assert end is not None
    after = [e for e in seen.events if e.order > end.order and not list(last.modules()).count(e.module)]
    norms = [e for e in after if e.side == "input" and same(e.value, end.value)]
    logits = seen.logits.flatten(0, 1).double()
    linear = cap * torch.atanh((logits / cap).clamp(-0.95, 0.95)) if cap else logits
    bound = 1e-3 if seen.epsilon < 1e-6 else 0.1
    for norm in [*norms, None]:
        out = end if norm is None else next((e for e in after if e.module is norm.module and e.side == "output"), None)
        if out is None:
            continue
        z = project(unembedding, out.value)
        inside = (logits.abs() < 0.9 * cap) if cap else torch.ones_like(logits, dtype=torch.bool)
        scale, error = ratio((linear * inside).flatten()[None], (z * inside).flatten()[None])
        if error <= bound:
            return norm.module if norm else None, _settled(seen, scale), cap
    path = ", ".join(dict.fromkeys(e.path for e in after if e.side == "output")) or "nothing"
    raise ModelError(
        f"{name}: one norm and one unembedding do not lead from the last block to the logits; what runs there: {path}."
    )


def _input(
    seen: Observation, block: nn.Module, embedding: nn.Module, name: str
) -> tuple[float, nn.Module | None, bool]:
    """Embedding scale, embedding norm, and whether a position embedding is added.

    The two probe texts differ in tokens but not in positions, so their difference is free of position embeddings.
    """
    start = seen.at(block, "input")
    assert start is not None
    weight = _weight(embedding).detach()
    rows = weight[seen.ids.flatten().to(weight.device)].float().cpu()
    before = [e for e in seen.events if e.order < start.order]
    moved = _difference(start.value)
    norms = [e.module for e in before if e.side == "output" and ratio(_difference(e.value), moved)[1] < 1e-6]
    entries: list[tuple[Tensor, nn.Module | None]] = [(start.value, None)]
    entries += [(e.value, norm) for norm in norms if (e := seen.at(norm, "input")) is not None]
    bound = 1e-4 if seen.epsilon < 1e-6 else 2e-2
    for value, norm in entries:
        scale, error = ratio(_difference(value), _difference(rows))
        if error <= bound:
            scale = _settled(seen, scale)
            entered = rows * scale if norm is None else in_float32(norm, rows * scale)
            return scale, norm, ratio(start.value, entered)[1] > bound
    raise ModelError(f"{name}: what enters block 1 is no function of the token's embedding row and its position.")


def _settled(seen: Observation, factor: float) -> float:
    """A factor of the model's, taken as exact where it is a number of the config but for rounding."""
    return nearest(factor, seen.constants, 1e-6 if seen.epsilon < 1e-6 else 1e-3)


def _difference(value: Tensor) -> Tensor:
    one, two = value.chunk(2)
    return (one - two)[PREFIX:]


def _taps(seen: Observation, blocks: list[nn.Module], unsummed: bool, name: str) -> tuple[Sites, ...]:
    taps: list[Sites] = []
    for number, block in enumerate(blocks, start=1):
        sites = None if unsummed else sites_of(seen, block)
        if sites is None and not unsummed:
            raise ModelError(f"{name}: no two parts of block {number} add up to what the block does to the stream.")
        taps.append(sites or {"resid_post": Tap(block, "output")})
    return tuple(taps)


def _tied(embedding: nn.Module, unembedding: nn.Module) -> Tied:
    one, two = _weight(embedding), _weight(unembedding)
    if one is two or (one.shape == two.shape and one.data_ptr() == two.data_ptr()):
        return "same tensor"
    return "equal values" if torch.equal(one, two) else "different"
