"""Every way to name a lens, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lens_sample import sample

from midstream.errors import RequestError
from midstream.facade import Lens
from midstream.lens.file.artifact import save
from midstream.lens.file.find import find, find_all
from midstream.lens.file.folder import path
from midstream.lens.lens import INPUT, LOGIT, Transport


@pytest.fixture(autouse=True)
def folder(tiny, tmp_path, monkeypatch):
    """The lens folder of the model, with a tuned lens."""
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path / "lenses"))
    monkeypatch.chdir(tmp_path)
    place = path(tiny, "tuned")
    place.parent.mkdir(parents=True)
    save(sample(tiny), place)
    return place.parent


def test_names_kinds_and_files(tiny, folder, tmp_path):
    assert find(tiny, "logit") is LOGIT
    assert find(tiny, "input") is INPUT
    assert find(tiny, INPUT) is INPUT
    tuned = find(tiny, "tuned")
    assert (tuned.name, tuned.kind) == ("tuned", "tuned")
    (tmp_path / "tuned").mkdir()  # a folder of that name is not what the kind means
    assert find(tiny, "tuned").digest == tuned.digest
    (folder / "tuned.safetensors").rename("mine.safetensors")
    for given in ("mine.safetensors", tmp_path / "mine.safetensors"):
        assert find(tiny, given).digest == tuned.digest


def test_two_lenses_of_one_kind_take_the_names_of_their_files(tiny):
    save(sample(tiny, seed=1), "mine.safetensors")
    assert [lens.name for lens in find_all(tiny, ["tuned", "mine.safetensors", "logit"])] == ["tuned", "mine", "logit"]
    assert [lens.name for lens in find_all(tiny, ["mine.safetensors"])] == ["tuned"]
    for same in (["logit", "logit"], ["mine.safetensors", "mine.safetensors"], [LOGIT, replace(LOGIT)]):
        with pytest.raises(RequestError, match="two lenses of one name"):
            find_all(tiny, same)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("future:2", r"midstream fit future:2 --corpus FILE --model .*has tuned"),
        ("tund", r"unknown lens 'tund': expected logit, input, a kind that was fitted \(tuned\)"),
        ("nothing.safetensors", "no lens file 'nothing.safetensors'"),
        ("some/folder", "no lens file"),
        ("~nobody-of-this-name/x", "no lens file"),
        ("x" * 300, "unknown lens"),
        ("", "unknown lens"),
        ("future:99", "unknown lens"),
        ("hf:nothing", "names no lens of the hub"),
        ("hf:a/b/../../c.pt", "names no lens of the hub"),
        (".", "holds no params.pt"),
    ],
)
def test_what_is_not_there_is_a_sentence(given, said, tiny):
    with pytest.raises(RequestError, match=said):
        find(tiny, given)


def test_a_file_under_another_kinds_name_is_refused(tiny, folder):
    (folder / "tuned.safetensors").rename(folder / "shortcut.safetensors")
    with pytest.raises(RequestError, match="holds a lens of kind 'tuned'"):
        find(tiny, "shortcut")


def test_a_lens_in_memory_must_fit_the_model(tiny):
    for wrong, said in (
        (Transport(torch.eye(16)), "width 16, and .* has 32"),
        (None, "for 40 blocks"),
    ):
        moves = {2: wrong} if wrong else {40: Transport(torch.eye(32))}
        with pytest.raises(RequestError, match=said):
            find(tiny, replace(LOGIT, name="mine", transports=moves))
    with pytest.raises(RequestError, match=f"another model.*{'0' * 16}.*{tiny.fingerprint.identity[:16]}"):
        find(tiny, replace(LOGIT, about={"identity": "0" * 64}))
    with pytest.raises(RequestError, match="reads at nowhere"):
        find(tiny, replace(LOGIT, site="nowhere"))


def test_the_facade_saves_and_loads(tiny):
    import midstream

    lens = midstream.Lens.load("tuned", tiny)
    assert isinstance(lens, Lens)
    lens.save("again.safetensors")
    again = midstream.Lens.load("again.safetensors", tiny)
    assert again.digest == lens.digest == midstream.Lens.load("again.safetensors").digest
    assert find(tiny, again) is again
