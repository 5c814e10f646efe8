"""Two models that differ in one block: the stores of the same text differ from that block on."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file, save_file

from midstream.corpus.source import open_corpus
from midstream.lens.read.request import request
from midstream.model.load import load
from midstream.run.scan import ScanOptions, scan
from midstream.store.difference import difference
from midstream.store.store import open_store

BLOCK = 15
"""The perturbed block; layer 15 is what it gives."""


@pytest.fixture(scope="module")
def table(tiny, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("difference")
    other = folder / "perturbed"
    shutil.copytree(tiny_folder, other)
    tensors = load_file(other / "model.safetensors")
    draw = torch.Generator().manual_seed(3)
    for name in ("mlp.down_proj.weight", "self_attn.o_proj.weight"):
        weight = tensors[f"model.layers.{BLOCK - 1}.{name}"]
        weight += 2 * weight.std() * torch.randn(weight.shape, generator=draw)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    words, choose = " ".join(SENTENCES).split(), random.Random(0)
    texts = [" ".join(choose.choice(words) for _ in range(60)) for _ in range(30)]
    (folder / "corpus.txt").write_text("\n<|endofdoc|>\n".join(texts))
    for name, model in (("before", tiny), ("after", load(other))):
        wanted = request(model, {"lens": "logit", "top_k": 1})
        scan(model, open_corpus(folder / "corpus.txt"), folder / name, wanted, ScanOptions(characters=4000))
    stores = [open_store(folder / name) for name in ("after", "before")]
    measures = ["entropy", "logprob", "kl_final_lens", "kl_lens_final"]
    return difference(*stores, measures=measures).columns


def rows(table, measure):
    chosen = table["measure"] == measure
    return {
        int(layer): (value, low, high)
        for layer, value, low, high in zip(
            *(table[name][chosen].tolist() for name in ("layer", "value", "low", "high")), strict=True
        )
    }


@pytest.mark.parametrize("measure", ["entropy", "logprob"])
def test_nothing_differs_before_the_block(table, measure):
    found = rows(table, measure)
    assert set(found) == set(range(31))
    assert all(found[layer] == (0, 0, 0) for layer in range(BLOCK))
    _, low, high = found[BLOCK]
    assert low > 0 or high < 0


@pytest.mark.parametrize("measure", ["kl_final_lens", "kl_lens_final"])
def test_the_divergences_differ_at_every_layer_but_the_last(table, measure):
    found = rows(table, measure)
    apart = [layer for layer, (_, low, high) in found.items() if low > 0 or high < 0]
    assert len(apart) > 20
    assert all(found[layer][0] != 0 for layer in range(30))
    assert abs(found[30][0]) < 1e-5  # the output against itself, in both
