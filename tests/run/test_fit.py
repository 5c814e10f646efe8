"""Whole fits on tiny models: the maps that must come out, parts, interruptions, groups of layers, what goes wrong."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny_tokenizer
from torch import nn

from midstream.corpus.source import open_corpus
from midstream.corpus.window import Window
from midstream.errors import FitError, RequestError
from midstream.lens.file import artifact
from midstream.lens.fit.beta import Factors
from midstream.lens.kind import parse
from midstream.lens.passage import passage
from midstream.model.load import load
from midstream.run import fit as run
from midstream.run import fit_pass
from midstream.run.fit import fit
from midstream.run.fit_plan import FitOptions, groups, plan
from midstream.run.fit_progress import Meter, Update


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty documents of random words, a few too short to use."""
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choice(words) for _ in range(70)) for _ in range(60)] + ["A king", "the sky"]
    draw.shuffle(texts)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n<|endofdoc|>\n".join(texts))
    return path


class Block(nn.Module):
    """A block that is exactly linear, position by position: two parts ``M h + c``, each added to the stream."""

    def __init__(self, d, draw):
        super().__init__()
        self.attention, self.mlp = nn.Linear(d, d), nn.Linear(d, d)
        with torch.no_grad():
            for part in (self.attention, self.mlp):
                part.weight.copy_(0.2 * torch.randn(d, d, generator=draw))
                part.bias.copy_(torch.randn(d, generator=draw))

    def forward(self, h):
        h = h + self.attention(h)
        return h + self.mlp(h)


class LinearModel(nn.Module):
    """A language model whose shortcut maps are known: products of its blocks' matrices."""

    def __init__(self, vocabulary, d=8, blocks=3):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.config = SimpleNamespace(model_type="linear_world", max_position_embeddings=256)
        self.model = nn.Module()
        self.model.embed = nn.Embedding(vocabulary, d)
        self.model.blocks = nn.ModuleList(Block(d, draw) for _ in range(blocks))
        self.model.norm = nn.LayerNorm(d)
        self.model.forward = self.trunk
        self.head = nn.Linear(d, vocabulary, bias=False)
        with torch.no_grad():
            for weight in (self.model.embed.weight, self.head.weight):
                weight.copy_(torch.randn(weight.shape, generator=draw))

    def get_input_embeddings(self):
        return self.model.embed

    def get_output_embeddings(self):
        return self.head

    def trunk(self, input_ids, **_):
        h = self.model.embed(input_ids)
        for block in self.model.blocks:
            h = block(h)
        return self.model.norm(h)

    def forward(self, input_ids, **_):
        return self.head(self.model(input_ids))


@pytest.fixture(scope="module")
def linear():
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())
    return load((LinearModel(len(tokenizer)), tokenizer))


def options(tmp_path, *kinds, tokens=2000, **more):
    return FitOptions(tuple(parse(kind) for kind in kinds), tokens=tokens, out=tmp_path / "out", **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The scores have tests of their own; here they would only take time."""
    monkeypatch.setattr(run, "score", lambda *_, **__: (_ for _ in ()).throw(RequestError("not scored.")))


def test_correct_maps_of_a_linear_world_are_recovered(linear, corpus, tmp_path):
    shortcut, token, back = fit(linear, corpus, options(tmp_path, "shortcut", "input:0", "input:2")).lenses
    blocks = linear.anatomy.blocks
    for layer in range(3):
        weight, bias = torch.eye(8), torch.zeros(8)
        for block in blocks[layer:]:
            for part in (block.attention, block.mlp):
                step = torch.eye(8) + part.weight.detach()
                weight, bias = step @ weight, step @ bias + part.bias.detach()
        torch.testing.assert_close(shortcut.transports[layer].weight, weight, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(shortcut.transports[layer].bias, bias, atol=2e-2, rtol=2e-3)
        assert shortcut.about["fit"]["fvu_held"][str(layer)] < 1e-5
        assert token.about["fit"]["fvu_held"][str(layer)] < 1e-4
        # words are drawn at random, so that nothing here knows the token two back: chance
        assert 0.9 < back.about["fit"]["fvu_held"][str(layer)] < 1.1
    assert 3 not in shortcut.transports
    assert shortcut.layers == (0, 1, 2, 3)
    assert shortcut.reads(3, "resid_post")
    assert [base.source for base in token.baselines] == ["token", "tokens"]
    assert back.about["fit"]["fvu_held"]["tokens"] < 1e-3


def streams(model, corpus, layers):
    """Held-out streams to map: layer -> ``[n, d]``."""
    ids = model.tokenizer.encode(next(iter(open_corpus(corpus))).text).ids
    seen = passage(model, ids, Window(0, min(len(ids), model.context), 0), [(layer, "resid_post") for layer in layers])
    return {layer: seen.stream[layer, "resid_post"].float() for layer in layers}


def assert_same_maps(one, two, held, tolerance=1e-4):
    for layer, h in held.items():
        first, second = (lens.transports[layer](h) for lens in (one, two))
        assert float((first - second).norm() / first.norm()) < tolerance


def test_four_parts_added_are_one_run(tiny, corpus, tmp_path):
    wanted = options(tmp_path, "shortcut", "input:1", layers=(0, 7, 15))
    whole = fit(tiny, corpus, wanted).lenses
    files = []
    for number in range(1, 5):
        made = fit(tiny, corpus, replace(wanted, part=(number, 4)))
        assert not made.lenses
        files += made.files.values()
    added = fit(tiny, corpus, replace(wanted, resume=tuple(files))).lenses
    held = streams(tiny, corpus, (0, 7, 15))
    for one, two in zip(whole, added, strict=True):
        assert_same_maps(one, two, held)
        assert one.about["fit"]["positions"] == two.about["fit"]["positions"]
    table, again = whole[1].back_off, added[1].back_off
    assert torch.equal(table.pair_answers, again.pair_answers)
    # a part that is missing is read here
    assert_same_maps(whole[0], fit(tiny, corpus, replace(wanted, resume=tuple(files[:3]))).lenses[0], held)
    with pytest.raises(RequestError, match="same documents"):
        fit(tiny, corpus, replace(wanted, resume=(files[0], files[0])))
    with pytest.raises(RequestError, match="another plan"):
        fit(tiny, corpus, replace(wanted, tokens=1900, resume=tuple(files)))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), RuntimeError("out of memory")])
def test_interrupted_and_resumed_is_uninterrupted(tiny, corpus, tmp_path, monkeypatch, error):
    wanted = options(tmp_path, "shortcut", "future:1", layers=(3, 30))
    monkeypatch.setattr(run, "refine", lambda lookout, reader, kind, maps, fixed, meter: kept(maps))
    whole = fit(tiny, corpus, wanted).lenses
    real, count = fit_pass.passage, 0

    def failing(*given):
        nonlocal count
        count += 1
        if count == 40:
            raise error
        return real(*given)

    monkeypatch.setattr(fit_pass, "passage", failing)
    said = []
    with pytest.raises(FitError if isinstance(error, Exception) else type(error)) as caught:
        fit(tiny, corpus, wanted, progress=lambda update: said.append(update.note))
    assert "--resume" in (str(caught.value) if isinstance(error, Exception) else "".join(said))
    (file,) = (tmp_path / "out").glob("*.sums")
    before = count
    resumed = fit(tiny, corpus, replace(wanted, resume=(file,))).lenses
    monkeypatch.setattr(fit_pass, "passage", real)
    total = len(plan(tiny, open_corpus(corpus), wanted).units)
    assert count - before < total  # what was read is not read again
    held = streams(tiny, corpus, (3,))
    for one, two in zip(whole, resumed, strict=True):
        assert_same_maps(one, two, held)
    assert torch.equal(whole[1].back_off.pair_answers, resumed[1].back_off.pair_answers)
    assert not list((tmp_path / "out").glob("unfinished*"))


def kept(maps):
    """A KL stage that changes nothing."""
    none = dict.fromkeys(maps[0], float("nan"))
    return SimpleNamespace(maps=maps[0], before=none, after=none, positions=0, held=0, stopped="")


def test_groups_of_layers_give_the_same_maps(tiny, corpus, tmp_path):
    wanted = options(tmp_path, "shortcut", "input:0", layers=(0, 10, 20, 29))
    whole = fit(tiny, corpus, wanted).lenses
    small = replace(wanted, memory=2_100_000)
    assert len(groups(tiny, plan(tiny, open_corpus(corpus), small))) > 1
    split = fit(tiny, corpus, small).lenses
    held = streams(tiny, corpus, (0, 10, 20, 29))
    for one, two in zip(whole, split, strict=True):
        assert_same_maps(one, two, held)
    with pytest.raises(RequestError, match="--memory"):
        fit(tiny, corpus, replace(wanted, memory=1000))
    with pytest.raises(RequestError, match="shared"):
        fit(tiny, corpus, options(tmp_path, "input:0:shared", layers=(0, 10, 20, 29), memory=2_100_000))


def test_lenses_say_where_they_come_from_and_read_back(tiny, corpus, tmp_path):
    made = fit(tiny, corpus, options(tmp_path, "input:0", "input:0:shared", layers=(0, 15), seed=3))
    for lens, kind in zip(made.lenses, ("input:0", "input:0:shared"), strict=True):
        again = artifact.load(made.files[kind], tiny)
        about = again.about
        assert about["seed"] == 3
        assert about["corpus"]["name"] == "corpus.txt"
        assert about["corpus"]["tokens"] == 2000
        fitted, held = set(about["documents"]), set(about["held_out_documents"])
        assert fitted
        assert held
        assert not fitted & held
        assert set(about["fit"]["fvu_held"]) == {"0", "15", "token", "tokens"}
        assert again.betas == lens.betas
        assert set(lens.betas) == {0, 15}
        assert all(beta > 0 for beta in lens.betas.values())
    assert made.lenses[1].transports[0] is made.lenses[1].transports[15]
    own, shared = (lens.about["fit"]["scale"] for lens in made.lenses)
    assert (shared["0"], shared["15"]) == (1, 1)
    assert set(own) == set(shared) == {"0", "15", "token", "tokens"}


def test_an_input_lens_keeps_its_maps_scaled(tiny, corpus, tmp_path, monkeypatch):
    wanted, mean = options(tmp_path, "input:1", layers=(4, 20)), torch.full((32,), 3.0)

    def scale(factor):
        monkeypatch.setattr(run, "fit_scores", lambda *given: dict.fromkeys(given[3], Factors(1.0, factor, mean)))
        return fit(tiny, corpus, wanted).lenses[0]

    plain, doubled = scale(1.0), scale(2.0)
    pairs = [(plain.transports[layer], doubled.transports[layer]) for layer in (4, 20)]
    pairs += [
        (one.transports[0], two.transports[0]) for one, two in zip(plain.baselines, doubled.baselines, strict=True)
    ]
    assert len(pairs) == 4
    for one, two in pairs:
        torch.testing.assert_close(two.weight, 2 * one.weight)
        torch.testing.assert_close(two.bias, 3.0 + 2 * (one.bias - 3.0))
    assert doubled.about["fit"]["scale"] == dict.fromkeys(("4", "20", "token", "tokens"), 2.0)


def test_giant_positions_are_left_out_and_counted(tiny, corpus, tmp_path, monkeypatch):
    clean = fit(tiny, corpus, options(tmp_path, "shortcut", layers=(5, 6))).lenses[0]
    real = fit_pass.passage

    def planted(model, ids, window, places):
        seen = real(model, ids, window, places)
        seen.stream[5, "resid_post"][20] *= 1e4
        return seen

    monkeypatch.setattr(fit_pass, "passage", planted)
    lens = fit(tiny, corpus, options(tmp_path, "shortcut", layers=(5, 6))).lenses[0]
    documents = len(lens.about["documents"])
    assert lens.about["fit"]["left_out"] == {"5": documents, "6": 0}
    assert lens.about["fit"]["positions"]["5"] == clean.about["fit"]["positions"]["5"] - documents
    assert lens.about["fit"]["fvu_held"]["5"] == pytest.approx(clean.about["fit"]["fvu_held"]["5"], rel=0.1)


def test_a_tuned_lens_is_no_worse_than_its_start(tiny, corpus, tmp_path):
    made = fit(tiny, corpus, options(tmp_path, "tuned", "future:1", layers=(4, 20, 30)))
    for lens in made.lenses:
        numbers = lens.about["fit"]["kl"]
        assert numbers["positions"] > 500
        for name, before in numbers["before"].items():
            assert numbers["after"][name] <= before
    assert set(made.lenses[0].transports) == {4, 20}
    assert set(made.lenses[1].transports) == {4, 20, 30}
    assert not list((tmp_path / "out").glob("*.sums"))


def test_a_kind_that_fails_loses_no_other(tiny, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "refine", lambda *_: (_ for _ in ()).throw(FitError("nan at layer 4.")))
    with pytest.raises(FitError, match=r"tuned could not be fitted: nan at layer 4\. .*shortcut\.safetensors"):
        fit(tiny, corpus, options(tmp_path, "tuned", "shortcut", layers=(4,)))
    assert artifact.load(tmp_path / "out" / "shortcut.safetensors", tiny).kind == "shortcut"


def test_an_interruption_after_reading_keeps_the_sums(tiny, corpus, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    wanted, said = options(tmp_path, "tuned", layers=(4,)), []
    monkeypatch.setattr(run, "refine", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, corpus, wanted, progress=lambda update: said.append(update.note))
    (file,) = (tmp_path / "out").glob("*.sums")
    assert f"--resume {file}" in "".join(said)
    monkeypatch.setattr(run, "refine", lambda lookout, reader, kind, maps, fixed, meter: kept(maps))
    monkeypatch.setattr(fit_pass, "passage", stop)  # nothing is read again
    assert set(fit(tiny, corpus, replace(wanted, resume=(file,))).lenses[0].transports) == {4}


def test_tokens_are_a_limit_and_the_split_follows_the_clusters(tiny, corpus, tmp_path):
    made = plan(tiny, open_corpus(corpus), options(tmp_path, "shortcut", "future:2", "input:6", tokens=777))
    assert sum(unit.usable for unit in made.units) == 777
    texts = {document.text: document.sha256 for document in open_corpus(corpus)}
    assert {"A king", "the sky"} & texts.keys()
    assert {texts["A king"], texts["the sky"]}.isdisjoint(document.sha256 for document in made.documents)
    for unit in made.units:
        assert unit.usable == len(unit.document.ids) - 2 - 6
    path = tmp_path / "works.jsonl"
    rows = [{"text": text, "book": f"b{n // 2}"} for n, text in enumerate(texts) if len(text) > 20]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = plan(tiny, open_corpus(path), options(tmp_path, "shortcut", cluster="book", tokens=10**6))
    sides = {document.cluster: set() for document in found.documents}
    for document in found.documents:
        sides[document.cluster].add(document.held)
    assert all(len(side) == 1 for side in sides.values())
    assert any(side == {True} for side in sides.values())


@pytest.mark.parametrize(("works", "share"), [(400, 0.1), (60, 0.2)])
def test_more_of_few_works_are_held_out(works, share, tiny, tmp_path):
    path = tmp_path / "works.txt"
    texts = [
        f"The Eiffel Tower number {n} is located in the city of Paris and that of London " * 2 for n in range(works)
    ]
    path.write_text("\n<|endofdoc|>\n".join(texts))
    assert plan(tiny, open_corpus(path), options(tmp_path, "shortcut", tokens=10**6)).corpus["held_out_share"] == share


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"tokens": 100}, r"usable tokens to fit with, too few .* at least 128 are needed"),
        ({"site": "nowhere"}, "unknown site"),
        ({"layers": (31,)}, "unknown layer 31"),
        ({"cluster": "author"}, "no field 'author'"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(tiny, corpus, tmp_path, more, match):
    with pytest.raises(RequestError, match=match):
        fit(tiny, corpus, options(tmp_path, "shortcut", **more))


def test_one_document_cannot_be_split(tiny, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("Once upon a time there was a king. " * 200)
    with pytest.raises(RequestError, match=r"held|document"):
        fit(tiny, path, options(tmp_path, "shortcut"))


def test_options_that_make_no_sense():
    kinds = (parse("tuned"),)
    for wrong in ({"tokens": 0}, {"memory": 0}, {"part": (3, 2)}, {"kinds": ()}, {"kinds": kinds * 2}):
        with pytest.raises(RequestError):
            FitOptions(**{"kinds": kinds, **wrong})


def test_progress_never_goes_back_and_ends_at_all_of_it():
    seen: list[Update] = []
    meter = Meter(seen.append)
    meter.plan({"a": 3.0, "b": 1.0})
    meter.begin("a", 10)
    meter.advance(4)
    meter.advance(20)
    meter.begin("b", 2)
    meter.advance(2)
    assert [update.share for update in seen] == pytest.approx([0, 0.3, 0.75, 0.75, 1.0])


def test_site_other_than_the_stream(tiny, corpus, tmp_path):
    lens = fit(tiny, corpus, options(tmp_path, "shortcut", site="attn_out", layers=(2, 30))).lenses[0]
    assert lens.site == "attn_out"
    assert set(lens.transports) == {2, 30}  # no identity at L: attn_out is not the stream
    assert np.isfinite(list(lens.about["fit"]["fvu_held"].values())).all()
