from __future__ import annotations

import os
import weakref
from types import SimpleNamespace

import pytest
from lens_sample import sample

from midstream.errors import MidstreamError, RequestError
from midstream.lens.file.artifact import save
from midstream.model.load import load
from midstream.run.desk import Desk, TooLongError


@pytest.fixture
def desk(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path / "own"))
    (tmp_path / "mine").mkdir()
    save(sample(tiny), tmp_path / "mine" / "first.safetensors")
    (tmp_path / "mine" / "broken.safetensors").write_bytes(b"no lens")
    return Desk(load, {"tiny": str(tiny_folder), "other": "nowhere/at-all"}, (tmp_path / "mine",), most=40)


def test_the_outline_is_what_comes(desk):
    shown = desk.show("a king was there", {"lens": ["logit", "input", "mine/first"], "every": 10}, command="c")
    outline, seen = shown.outline, {}
    for part in desk.rows(shown):
        assert part.provenance.command == "c"
        for lens, layer, site in zip(*(part.columns[name].tolist() for name in ("lens", "layer", "site")), strict=True):
            seen.setdefault(lens, set()).add((layer, site))
    assert {lens.lens: set(lens.places) for lens in outline.lenses} == seen
    assert [lens.lens for lens in outline.lenses] == ["logit", "input", "tuned"]
    assert outline.texts.keys() == set(outline.tokens)


def test_the_last_layer_comes_first(desk):
    shown = desk.show("a king was there", {}, command="")
    assert set(next(desk.rows(shown)).columns["layer"].tolist()) == {30}


def test_a_text_that_is_too_long_is_offered_in_part(desk):
    with pytest.raises(TooLongError, match="at most 40 are read") as found:
        desk.show("a king was there " * 30, {}, command="")
    assert len(desk.show(found.value.first, {}, command="").outline.tokens) == 40


@pytest.mark.parametrize(
    "name", ["../mine/first", "mine/../mine/first", "/etc/passwd", "hf:owner/name/file", "first", ""]
)
def test_lenses_are_had_by_their_names_only(desk, name):
    assert set(desk.lenses()) == {"logit", "input", "mine/first", "mine/broken"}
    with pytest.raises(RequestError, match="unknown lens"):
        desk.show("a king was there", {"lens": [name]}, command="")


def test_a_lens_that_is_broken_says_so(desk):
    with pytest.raises(RequestError, match="broken"):
        desk.show("a king was there", {"lens": ["mine/broken"]}, command="")


def test_a_model_that_cannot_be_loaded_leaves_the_other(desk):
    with pytest.raises(MidstreamError, match="nowhere/at-all"):
        desk.choose("other")
    with pytest.raises(RequestError, match="unknown model"):
        desk.choose("/etc")
    assert desk.chosen == "tiny"
    assert len(desk.show("a king was there", {}, command="").outline.tokens) > 3


def test_one_model_is_in_memory_at_a_time(desk, tiny_folder):
    before, held = weakref.ref(desk.model.module), []

    def second(name):
        held.append(before() is not None)
        with pytest.raises(RequestError, match="no model is in memory"):
            desk.show("a king was there", {}, command="")
        return load(tiny_folder)

    desk.load = second
    desk.choose("other")
    assert held == [False]
    assert desk.chosen == "other"


def test_what_another_model_has_read_is_not_asked_of_this_one(desk, monkeypatch):
    shown = desk.show("a king was there", {}, command="")
    desk._model = SimpleNamespace(name="other", fingerprint=SimpleNamespace(identity="other"))
    with pytest.raises(RequestError, match="other is in memory"):
        desk.follow(shown, 0, [5])


def test_a_sink_has_no_neighbours_and_is_none(desk):
    shown = desk.show("a king was there and then a king was there", {}, command="")
    found = [position for position, _ in desk.near(shown, 5, 20, "resid_post")]
    assert found
    assert not {0, 5} & set(found)
    assert desk.near(shown, 0, 20, "resid_post") == []


def test_a_model_too_large_is_refused_in_a_sentence_and_the_other_comes_back(desk):
    def load_(name):
        if name == "nowhere/at-all":
            raise MemoryError("not enough memory\nand a long story")
        return load(name)

    desk.load = load_
    with pytest.raises(RequestError, match=r"other could not be loaded: not enough memory$"):
        desk.choose("other")
    assert desk.chosen == "tiny"
    assert len(desk.show("a king was there", {}, command="").outline.tokens) > 3


def test_a_lens_is_in_memory_once_until_its_file_or_the_model_changes(desk, tiny, tmp_path):
    def lens():
        return desk.show("a king was there", {"lens": ["mine/first"]}, command="").request.lenses[0]

    def weight(lens):
        return lens.transports[3].weight.data_ptr()

    first = lens()
    assert weight(first) == weight(lens())
    save(sample(tiny, seed=1), tmp_path / "mine" / "first.safetensors")
    os.utime(tmp_path / "mine" / "first.safetensors", ns=(1, 1))
    assert weight(first) != weight(lens())
