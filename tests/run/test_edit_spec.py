"""Edits written as text are the edits they say, with vectors from every source; a wrong one is a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import midstream as ms
from midstream.errors import RequestError
from midstream.lens.lens import LOGIT
from midstream.lens.read.direction import direction
from midstream.readout.reader import output_reader
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.numbers import numbers
from midstream.stream.capture import capture, capture_sites
from midstream.stream.change import Add, Interpolate, ProjectOut, Replace, Scale, SetCoordinates
from midstream.stream.edit import Edit
from midstream.stream.edit_file import save_edits

TEXT = "The capital of France is Paris"
OTHER = "The capital of England is London"


@pytest.fixture
def setting(tiny):
    return Setting(tiny, tiny.tokenizer.encode(TEXT).ids)


def token(model, text):
    return torch.tensor([model.tokenizer.single(text)])


def one(setting, spec):
    (edit,) = edits_of(setting, [spec])
    return edit


def test_each_kind_with_its_settings(setting):
    anatomy, n = setting.model.anatomy, len(setting.ids)
    paris = token(setting.model, " Paris")
    edit = one(setting, 'layers=3,5-7 positions=-1,0 add="unembedding: Paris" times=-2.5 site=mlp_out')
    assert (edit.site, edit.layers, edit.positions) == ("mlp_out", (3, 5, 6, 7), (-1, 0))
    assert isinstance(edit.what, Add)
    assert (edit.what.scale, edit.what.relative) == (-2.5, False)
    assert torch.equal(edit.what.vector, anatomy.output_rows(paris)[0])
    edit = one(setting, 'layers=-1 add="embedding: Paris" length=0.1')
    assert (edit.layers, edit.positions, edit.what.scale, edit.what.relative) == ((30,), None, 0.1, True)
    assert torch.equal(edit.what.vector, anatomy.input_rows(paris)[0])
    edit = one(setting, 'layers=3 positions=2- interpolate="embedding: Paris" alpha=0.25 keep_norm=no')
    assert isinstance(edit.what, Interpolate)
    assert (edit.positions, edit.what.alpha, edit.what.keep_norm) == (tuple(range(2, n)), 0.25, False)
    assert isinstance(one(setting, 'layers=3 replace="embedding: Paris"').what, Replace)
    assert isinstance(one(setting, 'layers=3 project_out="unembedding: Paris"').what, ProjectOut)
    assert one(setting, "layers=3 scale=0").what == Scale(0.0)


@pytest.mark.parametrize("source", ["embedding", "unembedding", "lens:logit"])
@pytest.mark.parametrize(("written", "meant"), [(r"\:", ":"), (r"\|", "|"), ("|", "|"), ("\\", "\\")])
def test_a_token_may_be_a_colon_a_bar_or_a_backslash(setting, source, written, meant):
    rows = (setting.model.anatomy.input_rows if source == "embedding" else setting.model.anatomy.output_rows)(
        token(setting.model, meant)
    )
    edit = one(setting, f"layers=30 positions=1 add='{source}:{written}'")
    if source == "lens:logit":
        h = capture(setting.model, setting.tensor, layers=[30])[30][0][[1]]
        rows = direction(output_reader(setting.model.anatomy), LOGIT, 30, h, token(setting.model, meant))
    assert torch.equal(edit.what.vector.reshape(rows.shape), rows)


def test_a_bare_colon_is_one_where_no_lens_is_named(setting):
    rows = setting.model.anatomy.output_rows(token(setting.model, ":"))
    assert torch.equal(one(setting, "layers=30 add=unembedding::").what.vector, rows[0])


@pytest.mark.parametrize("source", ["unembedding", "lens:logit"])
def test_a_swap_of_a_bar_and_a_colon(setting, source):
    (edit,) = edits_of(setting, [rf"layers=9 positions=1 swap='{source}:\||\:'"])
    rows = [one(setting, rf"layers=9 positions=1 add='{source}:{t}'").what.vector.reshape(-1) for t in (r"\|", r"\:")]
    assert torch.equal(edit.what.basis, torch.stack(rows))


def test_a_lens_direction_is_taken_at_each_position(setting):
    model = setting.model
    edit = one(setting, 'layers=4 positions=1,3 add="lens:logit: Paris"')
    h = capture(model, setting.tensor, layers=[4])[4][0]
    expected = direction(output_reader(model.anatomy), LOGIT, 4, h[[1, 3]], token(model, " Paris").expand(2))
    assert torch.equal(edit.what.vector, expected[None])
    plain, moved = (
        ms.read(model, TEXT, layers=[4], watch=[" Paris"], edits=edits).watched["logprob"]
        for edits in ((), ['layers=4 add="lens:logit: Paris" length=0.1'])
    )
    assert (moved > plain).all()


def test_random_vectors_come_from_the_seed(setting):
    def drawn(seed):
        given = Setting(setting.model, setting.ids, seed=seed)
        return [edit.what.vector for edit in edits_of(given, ["layers=3 add=random", "layers=3 add=random"])]

    first, second = drawn(1)
    assert torch.equal(first, drawn(1)[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, drawn(2)[0])
    torch.testing.assert_close(first.norm(), torch.tensor(1.0))


def test_a_difference_is_that_of_the_mean_streams(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(f"{TEXT}\n<|endofdoc|>\n{TEXT} and London")
    (tmp_path / "b.txt").write_text(OTHER)
    edits = edits_of(setting, ["layers=2,9 add=difference:a.txt:b.txt"])
    model = setting.model
    means = {}
    for name in "ab":
        texts = (tmp_path / f"{name}.txt").read_text().split("\n<|endofdoc|>\n")
        streams = [capture(model, torch.tensor([model.tokenizer.encode(t).ids]), layers=[2, 9]) for t in texts]
        means[name] = {layer: torch.stack([s[layer][0, 1:].mean(0) for s in streams]).mean(0) for layer in (2, 9)}
    for edit, layer in zip(edits, (2, 9), strict=True):
        assert edit.layers == (layer,)
        torch.testing.assert_close(edit.what.vector, means["a"][layer] - means["b"][layer], rtol=1e-4, atol=1e-5)


def test_a_patch_puts_in_the_other_run(setting):
    model = setting.model
    n = len(setting.ids)
    other = model.tokenizer.encode(OTHER).ids
    edit = one(setting, f'layers=9 positions=1,4 patch="{OTHER}"')
    h = capture(model, torch.tensor([other]), layers=[9])[9]
    assert torch.equal(edit.what.vector, h[:, [1, 4]])
    same = ms.read(model, TEXT, edits=[f'layers=0-30 patch="{TEXT}"'])
    np.testing.assert_allclose(same.columns["lse"], ms.read(model, TEXT).columns["lse"], rtol=1e-5, atol=1e-5)
    if len(other) != n:
        with pytest.raises(RequestError, match=r"has \d+ tokens and the text read \d+: name the positions"):
            one(setting, f'layers=9 patch="{OTHER}"')


@pytest.mark.parametrize("band", [range(9, 10), range(9, 11), range(9, 14)])
def test_a_swap_read_again_at_later_layers_does_not_cancel_itself(setting, band):
    model, last = setting.model, band[-1]
    spec = f'layers={band[0]}-{last} swap="unembedding: Paris| London"'
    edits = edits_of(setting, [spec])
    assert all(isinstance(edit.what, SetCoordinates) for edit in edits)
    rows = torch.cat([model.anatomy.output_rows(token(model, text)) for text in (" Paris", " London")])
    wanted = [(layer, "resid_post") for layer in band]
    plain, swapped = (capture_sites(model, setting.tensor, wanted, edits=given) for given in ((), edits))
    for place in wanted:
        torch.testing.assert_close(swapped[place] @ rows.T, (plain[place] @ rows.T).flip(-1), rtol=1e-3, atol=1e-3)


def test_edits_come_from_a_file_and_as_values(setting, tmp_path):
    edit = Edit("resid_post", (3,), None, Scale(2.0))
    save_edits(tmp_path / "e.safetensors", [edit, edit])
    assert len(edits_of(setting, [str(tmp_path / "e.safetensors"), edit, "layers=3 scale=3"])) == 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("layers=3", "names 0 kinds of change: expected one, add or replace"),
        ("layers=3 scale=2 add=random", "names 2 kinds"),
        ("scale=2", "names no layer"),
        ("layers=31 scale=2", "unknown layer 31"),
        ("layers=x scale=2", "layers 'x'"),
        ("layers=3 scale=two", "scale is 'two': expected a number"),
        ("layers=3 scale=nan", "NaN"),
        ("layers=3 scale=2 positions=99", "names position 99"),
        ("layers=3 scale=2 positions=new", "no text is generated"),
        ("layers=3 scale=2 site=nowhere", "unknown site"),
        ("layers=3 scale=2 times=2", "unknown key of the edit scale 'times'"),
        ("layers=3 scale=2 scale=3", "each key once"),
        ("layers=3 scale", "expected key=value"),
        ("layers=3 add='embedding: Paris", "cannot be read"),
        ("layers=3 add=embedding:nosuchtoken", "expected exactly one"),
        ("layers=3 add=nowhere:x", "unknown source of a vector 'nowhere': expected one of embedding"),
        ("layers=3 add=random times=1 length=1", "times and length"),
        ("layers=3 interpolate=random", "has no alpha"),
        ("layers=3 interpolate=random alpha=2", "0 .no change. to 1"),
        ("layers=3 interpolate=random alpha=0.5 keep_norm=maybe", "unknown value of keep_norm"),
        ("layers=3 add=lens:logit", "names no token"),
        ("layers=3 add='lens:tuned: Paris'", "there is no tuned lens"),
        ("layers=3 add=difference:a.txt", "names one file"),
        ("layers=3 add=difference:a.txt:b.txt", "a.txt"),
        ("layers=3 swap='unembedding: Paris'", "expected SOURCE:TOKEN|TOKEN"),
        ("layers=3 swap='unembedding: Paris| London|,'", "expected SOURCE:TOKEN|TOKEN"),
        ("layers=3 swap='difference:a.txt:b|c'", "expected SOURCE:TOKEN|TOKEN"),
        ("layers=3 swap='lens:logit|tuned'", "names no token"),
        ("layers=3 swap='unembedding: Paris| Paris'", "depend on each other"),
        ("nowhere.safetensors", "there is no file"),
    ],
)
def test_what_is_no_edit_is_a_sentence(setting, spec, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path))
    with pytest.raises(RequestError, match=words.replace("|", r"\|")):
        edits_of(setting, [spec])


def test_a_text_longer_than_the_context_has_no_one_stream_to_take_from(tiny):
    ids = tiny.tokenizer.encode("The capital of France is Paris and " * 60).ids
    assert len(ids) > tiny.context
    setting = Setting(tiny, ids)
    for spec in (
        "layers=3 add='lens:logit: Paris'",
        "layers=3 swap='unembedding: Paris| London'",
        "layers=3 positions=0 patch=Paris",
    ):
        with pytest.raises(RequestError, match="tokens, and vectors are taken from a text of at most 256"):
            edits_of(setting, [spec])


def test_the_second_of_two_edits_is_named(setting):
    with pytest.raises(RequestError, match="edit 2 names position 99"):
        edits_of(setting, ["layers=3 scale=2", Edit("resid_post", (3,), (99,), Scale(2.0))])


def test_numbers():
    assert numbers("layers", "0,8-10,-1") == [0, 8, 9, 10, -1]
    assert numbers("positions", "3-", 6) == [3, 4, 5]
    assert len(numbers("positions", "1-", 20_000)) == 19_999
    for wrong in ("", "3-", "5-3", "a", "1,,2", "0-99999"):
        with pytest.raises(RequestError, match="expected numbers and ranges"):
            numbers("layers", wrong)
