from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import shaken, tiny

from midstream.model.anatomy import find, in_float32, logits
from midstream.readout import reference
from midstream.readout.reader import Reader, input_reader, output_reader


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma2", "cohere", "granite", "llama", "bloom"])
@torch.no_grad()
def test_output_reader_gives_the_models_logits(family):
    """Final norm, logit scale, soft cap and bias, each where the family has it."""
    module = shaken(tiny(family))
    anatomy = find(module, module.config)
    ids = torch.arange(5, 17)[None]
    out = module(ids)
    seen = []
    handle = anatomy.blocks[-1].register_forward_hook(
        lambda _m, _a, o: seen.append(o if isinstance(o, torch.Tensor) else o[0])
    )
    module(ids)
    handle.remove()
    reader = output_reader(anatomy)
    z = reader.prepare(seen[0].reshape(-1, anatomy.width)) @ reader.weight.T
    if reader.bias is not None:
        z = z + reader.bias
    if reader.soft_cap is not None:
        z = reader.soft_cap * torch.tanh(z / reader.soft_cap)
    torch.testing.assert_close(z, out.logits[0], rtol=1e-4, atol=1e-4)


def test_each_row_is_normed_with_its_own_scale():
    norm = torch.nn.RMSNorm(6)
    reader = Reader(torch.eye(6), None, None, norm, 2.0)
    h = torch.randn(4, 6) * torch.tensor([[0.1], [1.0], [10.0], [100.0]])
    torch.testing.assert_close(reader.prepare(h).square().mean(1), torch.full((4,), 4.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_prepares_in_float32_whatever_comes(dtype):
    assert (
        Reader(torch.eye(6), None, None, torch.nn.LayerNorm(6)).prepare(torch.randn(3, 6).to(dtype)).dtype
        == torch.float32
    )


@torch.no_grad()
def test_input_readers_best_score_is_the_nearest_row():
    module = shaken(tiny("gemma2"))
    anatomy = find(module, module.config)
    rows = anatomy.input_rows()
    h = torch.randn(20, anatomy.width)
    for beta in (1.0, 0.25):
        reader = input_reader(anatomy, beta)
        scores = reader.prepare(h) @ reader.weight.T + beta * reader.bias
        assert (scores.argmax(1) == torch.cdist(h, rows).argmin(1)).all()
        gaps = -0.5 * beta * torch.cdist(h, rows).square()
        torch.testing.assert_close(scores - scores[:, :1], gaps - gaps[:, :1], rtol=1e-3, atol=1e-2)


def test_scale_bias_and_cap_are_put_together_as_the_model_does():
    """``cap(s (W x + b))``, as the anatomy has it and the proof tests it, for a family that had all of them."""
    module = shaken(tiny("gemma2"))
    head = torch.nn.Linear(module.config.hidden_size, 50)
    anatomy = replace(find(module, module.config), unembedding=head, logit_scale=0.3, soft_cap=2.0)
    h = torch.randn(9, anatomy.width)
    reader = output_reader(anatomy)
    z = reference.logits(reader, reader.prepare(h)).float()
    torch.testing.assert_close(z, logits(anatomy, in_float32(anatomy.final_norm, h)), rtol=1e-4, atol=1e-5)
