"""Readings against statistics made independently from transformers' own hidden states in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from reading_oracle import FAMILIES, build, close, rank_is_right

import midstream as ms
from midstream.lens.lens import Lens, Transport
from midstream.lens.read import chunks
from midstream.lens.read import reading as reading_file
from midstream.lens.read.request import request
from midstream.lens.read.table import join
from midstream.model.tokenizer import Encoded

TEXT = "Once upon a time there was a king; the capital of France is Paris, said Zoë — 1234567 times.\n\n12"


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """(our model, all logits of every layer in float64 ``[L + 1, n, V]``, token ids)."""
    module, tokenizer, norm = build(request.param)
    model = ms.load((module, tokenizer))
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    return model, oracle(module, norm, ids), ids[0].numpy()


def oracle(module, norm, ids):
    """The logit lens by the book: each layer's own norm, the head, the cap; the last layer from transformers itself."""
    wide = copy.deepcopy(module).double()
    with torch.no_grad():
        out = wide(ids, output_hidden_states=True)
        logits = [wide.get_output_embeddings()(wide.get_submodule(norm)(h[0])) for h in out.hidden_states[:-1]]
    cap = getattr(wide.config, "final_logit_softcapping", None)
    if cap:
        logits = [cap * torch.tanh(z / cap) for z in logits]
    return torch.stack([*logits, out.logits[0]]).numpy()


def grid(table, name, lens="logit"):
    n = len(table.positions["position"])
    values = table.columns[name][table.columns["lens"] == lens]
    return values.reshape(-1, n, *values.shape[1:])


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_every_column_agrees_with_float64(pair):
    model, z, ids = pair
    table = ms.read(model, TEXT, watch=[" Paris"])
    p, last = softmax(z), z[-1]
    log_p, log_q, q = np.log(p), np.log(softmax(last)), softmax(last)
    target = ids[1:]
    close(
        grid(table, "logprob")[:, :-1],
        np.take_along_axis(log_p[:, :-1], np.tile(target[:, None], (len(z), 1, 1)), -1)[..., 0],
    )
    close(grid(table, "entropy"), -(p * log_p).sum(-1))
    close(grid(table, "kl_final_lens"), (q * (log_q - log_p)).sum(-1))
    close(grid(table, "kl_lens_final"), (p * (log_p - log_q)).sum(-1))
    close(grid(table, "kl_input_lens"), (p[0] * (log_p[0] - log_p)).sum(-1))
    close(grid(table, "lse"), np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1))
    rank_is_right(grid(table, "rank")[:, :-1], z[:, :-1], target)
    rank_is_right(grid(table, "final_top1_rank"), z, last.argmax(-1))
    rank_is_right(grid(table, "input_rank"), z, ids)
    close(grid(table, "input_logprob"), np.take_along_axis(log_p, np.tile(ids[:, None], (len(z), 1, 1)), -1)[..., 0])
    close(
        grid(table, "final_top1_logprob"),
        np.take_along_axis(log_p, np.tile(last.argmax(-1)[:, None], (len(z), 1, 1)), -1)[..., 0],
    )
    paris = model.tokenizer.single(" Paris")
    close(table.watched["logprob"].reshape(len(z), -1), log_p[..., paris])
    rank_is_right(table.watched["rank"].reshape(len(z), -1), z, np.full(len(ids), paris))


def test_best_tokens_agree_with_float64(pair):
    model, z, _ = pair
    table = ms.read(model, TEXT)
    top = grid(table, "top_ids")
    chosen = np.take_along_axis(z, top, -1)
    best = -np.sort(-z, axis=-1)[..., :11]
    np.testing.assert_allclose(chosen, best[..., :10], atol=1e-3)
    clear = (best[..., :-1] - best[..., 1:] > 1e-3).all(-1)
    assert clear.any()
    assert (top[clear] == np.argsort(-z, axis=-1, kind="stable")[..., :10][clear]).all()
    close(grid(table, "top_logprobs"), np.take_along_axis(np.log(softmax(z)), top, -1))


def test_nothing_is_zero_where_it_is_undefined(pair):
    model, _, ids = pair
    table = ms.read(model, TEXT, lens=["logit", "input"])
    assert np.isnan(grid(table, "logprob")[:, -1]).all()
    assert (grid(table, "target_id")[:, -1] == -1).all()
    assert (grid(table, "rank")[:, -1] == -1).all()
    for name in ("logprob", "entropy", "lse", "kl_final_lens", "kl_lens_final", "kl_input_lens", "top_logprobs"):
        assert np.isnan(grid(table, name, "input")).all(), name
    assert (grid(table, "final_top1_rank", "input") == -1).all()
    assert (grid(table, "target_id", "input") == ids).all()


def test_input_lens_finds_the_nearest_row(pair):
    model, _, ids = pair
    table = ms.read(model, TEXT, lens="input", layers=[0, 1])
    rows = model.anatomy.input_rows().double()
    if model.anatomy.family != "gpt2":  # GPT-2 adds a position embedding
        assert (grid(table, "rank", "input")[0] == 1).all()
    stream = capture(model, ids, 1)
    nearest = torch.cdist(stream.double(), rows).argmin(-1)
    assert (grid(table, "top_ids", "input")[1, :, 0] == nearest.numpy()).all()


def capture(model, ids, layer):
    from midstream.stream.capture import capture as seen

    return seen(model, torch.tensor(ids)[None].long(), layers=[layer])[layer][0]


def test_several_lenses_share_a_pass_and_change_nothing(tiny):
    generator = torch.Generator().manual_seed(1)
    moves = {
        layer: Transport(torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator))
        for layer in range(30)
    }
    moved = Lens("moved", "output", 1, moves)
    alone, own = ms.read(tiny, TEXT), ms.read(tiny, TEXT, lens=moved)
    both = ms.read(tiny, TEXT, lens=[moved, "input", "logit"])
    assert both.keys() == [("moved", "resid_post"), ("input", "resid_post"), ("logit", "resid_post")]
    for name in ("logprob", "rank", "entropy", "kl_final_lens", "kl_input_lens", "top_ids"):
        np.testing.assert_allclose(grid(both, name), grid(alone, name), atol=1e-5)
        np.testing.assert_allclose(grid(both, name, "moved"), grid(own, name, "moved"), atol=1e-5)
    assert not np.allclose(grid(both, "entropy", "moved")[:-1], grid(both, "entropy")[:-1])
    np.testing.assert_allclose(grid(both, "entropy", "moved")[-1], grid(both, "entropy")[-1], atol=1e-5)
    assert (np.abs(grid(both, "kl_input_lens", "moved")[0]) < 1e-4).all()


def test_map_is_applied_before_the_final_norm(tiny):
    """Scaling the stream cannot change a reading: the norm comes after the map, with the layer's own scale."""
    doubled = Lens("doubled", "output", 1, {layer: Transport(2.5 * torch.eye(32)) for layer in range(30)})
    table = ms.read(tiny, TEXT, lens=["logit", doubled])
    np.testing.assert_allclose(grid(table, "entropy"), grid(table, "entropy", "doubled"), atol=2e-3)


def test_chunks_and_windows_change_nothing_but_the_context(tiny, monkeypatch):
    encoded = Encoded((tiny.tokenizer.encode(TEXT).ids * 8)[:300], ["text"] * 300)
    wanted = request(tiny, {"every": 10, "watch": [" Paris"]})

    def whole():
        return join(list(reading_file.read_chunks(tiny, encoded, wanted)))

    plain = whole()
    monkeypatch.setattr(chunks, "CHUNK", 37)
    cut = whole()
    assert sorted(set(plain.columns["context"])) == list(range(256))
    for name in plain.columns:
        if plain.columns[name].dtype.kind == "f":
            np.testing.assert_allclose(cut.columns[name], plain.columns[name], atol=5e-4)
        else:
            assert (cut.columns[name] == plain.columns[name]).mean() > 0.999
    assert (grid(plain, "position") == np.arange(300)).all()
    assert len(plain.watched["rank"]) == 4 * 300
    assert (grid(plain, "context")[0, 256:] == np.arange(128, 172)).all()


def test_layers_and_sites_are_those_asked_for(tiny):
    table = ms.read(tiny, TEXT, layers=[0, 3, -1], site=["resid_post", "mlp_out"])
    pairs = dict.fromkeys(zip(table.columns["site"].tolist(), table.columns["layer"].tolist(), strict=True))
    assert list(pairs) == [("mlp_out", 3), ("mlp_out", 30), ("resid_post", 0), ("resid_post", 3), ("resid_post", 30)]
    whole = ms.read(tiny, TEXT)
    np.testing.assert_allclose(
        grid(ms.read(tiny, TEXT, layers=[7]), "kl_input_lens")[0], grid(whole, "kl_input_lens")[7], atol=1e-5
    )


def test_lens_of_the_last_layer_is_the_model(tiny):
    table = ms.read(tiny, TEXT, layers=[-1])
    assert np.abs(grid(table, "kl_final_lens")).max() < 1e-4
    assert (grid(table, "final_top1_rank") == 1).all()


def test_stream_is_let_go_as_it_is_read(tiny, monkeypatch):
    seen = []
    cut = chunks.cut
    monkeypatch.setattr(reading_file, "cut", lambda *a: (seen.append(c) or c for c in cut(*a)))
    ms.read(tiny, TEXT, lens=["logit", "input"])
    (chunk,) = seen
    assert len(chunk.stream) == 0


def test_a_transport_is_applied_at_every_layer_it_is_given_for(tiny):
    """Layer 0 included, which is also what ``kl_input_lens`` compares with: the whole against float64."""
    generator = torch.Generator().manual_seed(2)
    moves = {
        at: Transport(torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator)) for at in (0, 5)
    }
    table = ms.read(tiny, TEXT, lens=Lens("moved", "output", 1, moves), layers=[0, 5, 30])
    ids = table.positions["token_id"]
    norm, head = (copy.deepcopy(part).double() for part in (tiny.anatomy.final_norm, tiny.anatomy.unembedding))
    z = []
    for layer in (0, 5, 30):
        h = capture(tiny, ids, layer).double()
        if layer in moves:
            h = h @ moves[layer].weight.double().T + moves[layer].bias.double()
        z.append(head(norm(h)).detach().numpy())
    p = softmax(np.stack(z))
    close(grid(table, "entropy", "moved"), -(p * np.log(p)).sum(-1))
    close(grid(table, "kl_input_lens", "moved"), (p[0] * (np.log(p[0]) - np.log(p))).sum(-1))
    close(grid(table, "kl_final_lens", "moved"), (p[-1] * (np.log(p[-1]) - np.log(p))).sum(-1))


def test_a_reading_about_the_input_has_no_reference(tiny):
    """Whatever its reader: every column made from the model's output is undefined for offsets below 1."""
    table = ms.read(tiny, TEXT, lens=Lens("same", "output", 0), layers=[5])
    for name in ("kl_final_lens", "kl_lens_final", "final_top1_logprob"):
        assert np.isnan(table.columns[name]).all(), name
    assert (table.columns["final_top1_rank"] == -1).all()
    assert (table.columns["target_id"] == table.columns["token_id"]).all()
    assert not np.isnan(table.columns["logprob"]).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_and_read_out_are_float32_whatever_the_model_is(dtype):
    """The stream is the model's own, in its dtype; from there on float64 and the reading agree."""
    module, tokenizer, norm = build("qwen3")
    model = ms.load((module.to(dtype), tokenizer))
    table = ms.read(model, TEXT)
    ids = table.positions["token_id"]
    norm, head = (copy.deepcopy(part).double() for part in (module.get_submodule(norm), module.get_output_embeddings()))
    streams = [capture(model, ids, layer) for layer in range(4)]
    assert {h.dtype for h in streams} == {dtype}
    p = softmax(np.stack([head(norm(h.double())).detach().numpy() for h in streams]))
    close(grid(table, "entropy"), -(p * np.log(p)).sum(-1))
    close(grid(table, "kl_final_lens"), (p[-1] * (np.log(p[-1]) - np.log(p))).sum(-1))


def test_readers_are_made_once_a_document(tiny, monkeypatch):
    made = []
    make = reading_file.READERS["output"]
    monkeypatch.setitem(reading_file.READERS, "output", lambda anatomy: made.append(1) or make(anatomy))
    monkeypatch.setattr(chunks, "CHUNK", 7)
    ms.read(tiny, TEXT)
    assert made == [1]


def test_a_module_in_training_is_read_without_dropout():
    module, tokenizer, _ = build("gpt2")
    model = ms.load((module, tokenizer))
    quiet = ms.read(model, TEXT)
    module.train()
    module.transformer.h[0].eval()
    again = ms.read(model, TEXT)
    np.testing.assert_array_equal(quiet.columns["entropy"], again.columns["entropy"])
    assert module.training
    assert module.transformer.drop.training
    assert not module.transformer.h[0].training, "each part is put back as it was"
