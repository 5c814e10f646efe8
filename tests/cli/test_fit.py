"""``midstream fit`` on the command line: what it writes and says, and errors before the model is loaded."""

from __future__ import annotations

import random

import pytest
from conftest import SENTENCES

from midstream.cli.fit import _bytes, _left
from midstream.errors import RequestError
from midstream.lens.file import artifact

FIT = ("fit", "shortcut", "--corpus", "corpus.txt", "--tokens", "3000")


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_folder):
    """A folder with a corpus, where the tiny model is the default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_MODEL", str(tiny_folder))
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choice(words) for _ in range(70)) for _ in range(60)]
    (tmp_path / "corpus.txt").write_text("\n<|endofdoc|>\n".join(texts))
    return tmp_path


def test_it_writes_lenses_and_prints_scores(desk, midstream, tiny):
    done = midstream(*FIT, "input:0", "--layers", "5,30", "--out", "lenses")
    assert done.exit_code == 0, done.stderr
    assert "shortcut: lenses/shortcut.safetensors" in done.stdout
    assert "nats" in done.stdout
    assert "midstream: reading, 3,000 tokens" in done.stderr
    lens = artifact.load(desk / "lenses" / "shortcut.safetensors", tiny)
    scores = lens.about["scores"]
    assert set(scores["lens"]) == {"shortcut"}
    assert {"kl", "agreement"} <= set(scores["measure"])
    assert scores["layer"].count(5) > 0


def test_without_out_it_goes_to_the_lens_folder_where_read_finds_it(desk, midstream):
    done = midstream(*FIT, "--layers", "5,29")
    assert done.exit_code == 0, done.stderr
    done = midstream("read", "The sky is blue", "--lens", "shortcut", "--format", "csv")
    assert done.exit_code == 0, done.stderr
    assert "shortcut" in done.stdout


def test_parts_are_gathered_and_resumed(desk, midstream):
    words = [*FIT, "--layers", "5", "--out", "o"]
    for part in ("1/2", "2/2"):
        done = midstream(*words, "--part", part)
        assert done.exit_code == 0, done.stderr
    files = ["o/part-1-of-2.sums", "o/part-2-of-2.sums"]
    assert f"part-2-of-2: {files[1]}" in done.stdout
    done = midstream(*words, "--resume", files[0], "--resume", files[1])
    assert done.exit_code == 0, done.stderr
    assert "reading, 0" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit tunned --corpus corpus.txt", "unknown kind of lens 'tunned'"),
        ("fit tuned tuned --corpus corpus.txt", "named twice"),
        ("fit tuned --corpus none.txt", "none.txt"),
        ("fit tuned --corpus corpus.txt --where a=b", "no fields"),
        ("fit tuned --corpus corpus.txt --out corpus.txt", "expected a folder"),
        ("fit tuned --corpus corpus.txt --memory lots", "--memory 'lots'"),
        ("fit tuned --corpus corpus.txt --part 5", "--part '5'"),
        ("fit tuned --corpus corpus.txt --part 5/4", "--part is 5/4"),
        ("fit tuned --corpus corpus.txt --resume none.sums", "no such file"),
        ("fit tuned --corpus corpus.txt --tokens 0", "--tokens is 0"),
        ("fit tuned --corpus corpus.txt --layers x", "layers 'x'"),
    ],
)
def test_wrong_requests_are_refused_before_the_model_is_loaded(desk, midstream, monkeypatch, words, said):
    monkeypatch.setenv("MIDSTREAM_MODEL", "/nowhere/at/all")
    done = midstream(*words.split())
    assert done.exit_code == 2
    assert said in done.stderr
    assert "nowhere" not in done.stderr


def test_sizes_and_times_are_read_and_written():
    assert _bytes("500M") == 500_000_000
    assert _bytes("1.5gb") == 1_500_000_000
    assert _bytes("123") == 123
    for wrong in ("0", "M", "1T", "-3"):
        with pytest.raises(RequestError):
            _bytes(wrong)
    assert _left(30, 0.25) == "1:30 left in all"
    assert _left(30, 0.001) == ""
