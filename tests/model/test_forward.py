"""One pass through the trunk: positions from the mask, chunks over the cache, no logits."""

from __future__ import annotations

import inspect

import pytest
import torch

from midstream.errors import ModelError, RequestError
from midstream.model.addition import Tap
from midstream.model.anatomy import find
from midstream.model.forward import call, evaluated, new_cache, positions_of, run, seen
from midstream.model.plain import PlainConfig, PlainLM
from tests.tiny import shaken, tiny
from tests.walk import IDS, Walked, chunked, streams


def found(model_type):
    if model_type.startswith("plain"):
        config = PlainConfig(model_type.removeprefix("plain "), 160, 32, 48, 3, 4, 4, 8, 64, 1e-5)
        module = shaken(PlainLM(config))
    else:
        module = tiny(model_type)
    return Walked(module, find(module, module.config))


@pytest.mark.parametrize(
    ("mask", "positions"),
    [
        ([1, 1, 1, 0, 0], [0, 1, 2, 2, 2]),
        ([0, 0, 1, 1, 1], [0, 0, 0, 1, 2]),
        ([1, 1, 1, 1, 1], [0, 1, 2, 3, 4]),
    ],
)
def test_padding_does_not_count_as_positions(mask, positions):
    ids = torch.zeros(1, 5, dtype=torch.long)
    assert positions_of(ids, torch.tensor([mask]), 0).tolist() == [positions]
    assert positions_of(ids[:, 3:], torch.tensor([mask]), 3).tolist() == [positions[3:]]


def test_positions_go_on_after_the_cache():
    assert positions_of(torch.zeros(2, 3), None, 4).tolist() == [[4, 5, 6], [4, 5, 6]]


@pytest.mark.parametrize("model_type", ["plain gpt2", "plain llama", "gpt2", "llama", "mpt"])
def test_left_padding_and_cache_together(model_type):
    walked = found(model_type)
    padded = torch.cat([torch.full((1, 4), 3), IDS], dim=1)
    mask = (torch.arange(20) >= 4).long()[None]
    whole, cache = streams(walked, IDS), new_cache(walked.module, walked.anatomy)
    chunks = [
        streams(walked, padded[:, start:stop], mask=mask[:, :stop], cache=cache)
        for start, stop in ((0, 9), (9, 12), (12, 20))
    ]
    torch.testing.assert_close(torch.cat(chunks, dim=2)[:, :, 4:], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_goes_by_each_of_its_names(name, monkeypatch):
    walked = found("llama")
    whole, trunk = streams(walked, IDS), walked.anatomy.trunk
    real = trunk.forward
    (own,) = {"past_key_values", "cache"} & set(inspect.signature(real).parameters)
    names = {"past_key_values": lambda input_ids, position_ids, use_cache, past_key_values=None: (
        real(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, **{own: past_key_values})
    ), "cache": lambda input_ids, position_ids, use_cache, cache=None: (
        real(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, **{own: cache})
    )}  # fmt: skip
    monkeypatch.setattr(trunk, "forward", names[name])
    assert new_cache(walked.module, walked.anatomy) is not None
    torch.testing.assert_close(chunked(walked, IDS), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["plain gpt2", "plain llama"])
def test_the_plain_engine_reads_chunks_as_the_whole(model_type):
    walked = found(model_type)
    torch.testing.assert_close(chunked(walked, IDS), streams(walked, IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gemma3_text", "gpt_oss"])
def test_chunks_equal_the_whole_beyond_a_sliding_window(model_type):
    module = tiny(model_type, sliding_window=6)
    walked = Walked(module, find(module, module.config))
    torch.testing.assert_close(chunked(walked, IDS), streams(walked, IDS), rtol=1e-4, atol=1e-4)


def test_the_cache_holds_each_position_once():
    walked = found("llama")
    cache = new_cache(walked.module, walked.anatomy)
    for chunk in IDS.split(6, dim=1):
        run(walked.anatomy, chunk, cache=cache)
    assert cache.get_seq_length() == IDS.shape[1]


def test_no_logits_are_computed():
    walked, ran = found("llama"), []
    walked.module.lm_head.register_forward_hook(lambda *_: ran.append(1))
    run(walked.anatomy, IDS)
    assert not ran


def test_the_pass_ends_at_the_last_tap_but_fills_a_cache():
    walked, ran = found("llama"), []
    walked.anatomy.blocks[3].register_forward_hook(lambda *_: ran.append(1))
    tap = walked.anatomy.taps[1]["resid_post"]
    seen(walked.anatomy, IDS, [tap])
    assert not ran
    seen(walked.anatomy, IDS, [tap], cache=new_cache(walked.module, walked.anatomy))
    assert ran


def test_values_are_copies_that_autograd_may_use():
    walked = found("llama")
    value = seen(walked.anatomy, IDS, [walked.anatomy.taps[0]["attn_out"]])[0]
    assert not value.is_inference()
    assert not value.requires_grad
    (value.clone().requires_grad_() * 2).sum().backward()


@pytest.mark.parametrize("model_type", ["mamba", "openai-gpt", "recurrent_gemma"])
def test_families_without_a_standard_cache_have_none(model_type):
    walked = found(model_type)
    assert new_cache(walked.module, walked.anatomy) is None


def test_a_mask_of_another_shape_is_refused():
    walked = found("llama")
    cache = new_cache(walked.module, walked.anatomy)
    run(walked.anatomy, IDS, cache=cache)
    with pytest.raises(RequestError, match=r"\[1, 16\].*\[1, 32\].*16 positions in the cache"):
        run(walked.anatomy, IDS, mask=torch.ones(1, 16), cache=cache)


def test_padding_is_never_read_as_text():
    class Maskless(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

    ids, mask = torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1]])
    for harmless in ([[1, 1, 1]], [[1, 1, 0]], [[0, 0, 0]]):
        assert call(Maskless(), ids, {"attention_mask": torch.tensor(harmless)}) is ids
    with pytest.raises(ModelError, match="Maskless takes no attention_mask"):
        call(Maskless(), ids, {"attention_mask": mask})


def test_a_tap_that_shows_no_stream_is_refused():
    walked = found("llama")
    with pytest.raises(ModelError, match=r"shows \[1, 16, 48\]"):
        seen(walked.anatomy, IDS, [Tap(walked.module.model.layers[0].mlp.up_proj, "output")])
    with pytest.raises(ModelError, match="never reached"):
        seen(walked.anatomy, IDS, [Tap(walked.module.lm_head, "input")])


def test_a_module_in_training_runs_without_dropout():
    module = tiny("gpt2", resid_pdrop=0.5)
    walked = Walked(module, find(module, module.config))
    taps = [walked.anatomy.taps[2]["resid_post"]]
    quiet = seen(walked.anatomy, IDS, taps)[0]
    module.train()
    module.transformer.h[0].eval()
    assert torch.equal(seen(walked.anatomy, IDS, taps)[0], quiet)
    assert module.transformer.drop.training
    assert not module.transformer.h[0].training, "each part is put back as it was"
    with evaluated(module):
        assert not any(part.training for part in module.modules())
    assert module.training
