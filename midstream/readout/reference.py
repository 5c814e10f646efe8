"""Every statistic from all logits in float64, in the plainest lines: what the fast ways are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from midstream.readout.reader import Reader
from midstream.readout.rows import Columns


def logits(reader: Reader, x: Tensor, beta: float = 1.0) -> Tensor:
    """All logits of prepared rows: ``[n, d]`` -> ``[n, V]`` float64."""
    z = x.double() @ reader.weight.double().T
    if reader.bias is not None:
        z = z + beta * reader.bias.double()
    if reader.soft_cap is not None:
        z = reader.soft_cap * torch.tanh(z / reader.soft_cap)
    return z


def statistics(z: Tensor, tokens: Tensor, *, reference: Tensor | None, base: Tensor | None, top_k: int) -> Columns:
    """The columns from all logits.

    Args:
        z: ``[n, V]`` float64, the logits of the rows.
        tokens: ``[n, T]`` int64, named tokens, -1 for none.
        reference, base: ``[n, V]`` float64, logits of the rows compared with; NaN rows where there are none.
        top_k: how many of the best tokens.
    """
    lse = torch.logsumexp(z, dim=1)
    logp = z - lse[:, None]
    z_t = z.gather(1, tokens.clamp(min=0))
    rank = 1 + (z[:, None, :] > z_t[:, :, None]).sum(2)
    ordered, ids = logp.sort(dim=1, descending=True, stable=True)  # stable: equal logits stay by id
    nothing = torch.full_like(z, torch.nan)
    final = torch.log_softmax(nothing if reference is None else reference, dim=1)
    first = torch.log_softmax(nothing if base is None else base, dim=1)
    none = tokens < 0
    return Columns(
        lse=_floats(lse),
        entropy=_floats(-(logp.exp() * logp).sum(1)),
        kl_final_lens=_floats((final.exp() * (final - logp)).sum(1)),
        kl_lens_final=_floats((logp.exp() * (logp - final)).sum(1)),
        kl_base=_floats((first.exp() * (first - logp)).sum(1)),
        logprob=_floats((z_t - lse[:, None]).masked_fill(none, torch.nan)),
        rank=rank.masked_fill(none, -1).to(torch.int32).numpy(),
        top_ids=ids[:, :top_k].to(torch.int32).numpy(),
        top_logprobs=_floats(ordered[:, :top_k]),
    )


def _floats(values: Tensor):  # noqa: ANN202
    return values.to(torch.float32).numpy()
