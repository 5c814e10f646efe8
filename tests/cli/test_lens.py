"""``midstream lens``: both formats say the same, in any width, and a hostile file says nothing of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from lens_sample import sample

from midstream.lens.file.artifact import save
from midstream.lens.file.folder import path


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    """A lens folder with two lenses and a damaged file."""
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path))
    own = path(tiny, "tuned").parent
    own.mkdir()
    for kind in ("tuned", "future:2"):
        save(sample(tiny, kind), path(tiny, kind))
    (own / "shortcut.safetensors").write_bytes((own / "tuned.safetensors").read_bytes()[:-7])
    return own


@pytest.mark.parametrize("columns", ["80", "200"])
def test_show_says_what_a_file_is(columns, folder, midstream, monkeypatch, tiny):
    monkeypatch.setenv("COLUMNS", columns)
    file = str(folder / "future-2.safetensors")
    found = json.loads(midstream("lens", "show", file, "--format", "json").stdout)
    assert found["kind"] == "future:2"
    assert found["reads"].startswith("the token 3 ahead (offset +3)")
    assert found["identity"] == tiny.fingerprint.identity
    assert found["baselines"] == ["the token read", "the last four tokens"]
    text = midstream("lens", "show", file)
    assert text.exit_code == 0
    lines = text.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert "positions 4 to 34" in text.stdout
    assert text.stdout.count("0f0f") == 0
    for name in found:
        assert any(line.startswith(name.replace("_", " ")[:8]) for line in lines) or name == "scores"
    assert any(line.split() == ["30", "1.000", "[0.900,", "1.100]"] for line in lines)
    assert any(line.split() == ["all", "2.500", "[2.400,", "2.600]"] for line in lines)


def test_list_shows_every_lens_and_names_the_damaged_one(folder, midstream, tiny_folder, monkeypatch):
    rows = json.loads(midstream("lens", "list", "--format", "json").stdout)
    assert [row["kind"] for row in rows] == ["future:2", "shortcut", "tuned"]
    assert [bool(row["fault"]) for row in rows] == [False, True, False]
    assert rows[2]["tokens"] == 1234
    assert (rows[2]["kl"], rows[2]["accuracy"]) == (2.5, None)
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        text = midstream("lens", "list", "--model", str(tiny_folder))
        assert "1,234" in text.stdout
        letters = "".join(text.stdout.split())  # a long path is broken where the line ends
        assert letters.startswith(f"{tiny_folder}in{folder}lensfitted")
        assert "shortcut.safetensorsisnousable" in letters
        assert max(map(len, text.stdout.splitlines())) <= int(columns)
    monkeypatch.setenv("MIDSTREAM_LENSES", str(folder / "none"))
    assert "midstream fit makes them" in midstream("lens", "list").stdout
    assert json.loads(midstream("lens", "list", "--format", "json").stdout) == []


def test_a_hostile_file_cannot_write_to_the_terminal(folder, midstream, tiny):
    lens = sample(tiny)
    rows = lens.about["scores"] | {"measure": ["\x1b[31mkl"] * 32}
    about = {**lens.about, "licence": "\x1b]0;owned\x07", "model": "a\u202eb", "corpus": "none", "scores": rows}
    save(replace(lens, about=about), folder / "tuned.safetensors")
    for words in (("show", str(folder / "tuned.safetensors")), ("list",)):
        for form in ("text", "json"):
            done = midstream("lens", *words, "--format", form)
            assert done.exit_code == 0
            assert done.stdout.replace("\n", "").isprintable()
            assert "[31mkl" in done.stdout or words == ("list",)
    for scores in ([1], {**rows, "measure": [[1]] * 32}):
        save(replace(lens, about={**lens.about, "scores": scores, "corpus": []}), folder / "tuned.safetensors")
        assert midstream("lens", "show", str(folder / "tuned.safetensors")).exit_code == 0
    (folder / "\x1b[2J\udcff.safetensors").write_bytes(b"")
    for form in ("text", "json"):
        listed = midstream("lens", "list", "--format", form).stdout.replace("\n", "")
        assert listed.isprintable()
        assert "x1b[2J" in listed


def test_what_cannot_be_shown_or_sent_is_one_sentence(folder, midstream):
    for words in (
        ("show", str(folder / "nothing.safetensors")),
        ("show", str(folder / "shortcut.safetensors")),
        ("show", str(folder)),
        ("show", "x.pt"),
        ("show", "hf:nothing"),
        ("push", str(folder / "tuned.safetensors"), "nowhere"),
        ("push", str(folder / "shortcut.safetensors"), "hf:me/lenses"),
        ("push", str(folder / "tuned.safetensors"), "hf:me/lenses"),  # tests are offline
    ):
        done = midstream("lens", *words)
        assert done.exit_code == 2
        assert done.stderr.startswith("midstream: ")
        assert "Traceback" not in done.stderr
