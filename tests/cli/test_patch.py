"""``midstream patch``: a grid, a document, files; texts that do not pair are a sentence."""

from __future__ import annotations

import json

import pytest

TEXT, OTHER = "The capital of France is", "The capital of France of"


@pytest.fixture
def patch(midstream, tiny_folder):
    return lambda *words: midstream("patch", *words, "--model", str(tiny_folder))


def test_grid_document_and_files(patch, tmp_path):
    words = (TEXT, "--from", OTHER, "--token", " Paris", "--every", "10")
    done = patch(*words)
    assert done.exit_code == 0, done.stderr
    rows = done.stdout.splitlines()
    assert rows[0].split()[0] == "token"
    assert [row.split()[0] for row in rows[2:6]] == ["30", "20", "10", "0"]
    document = json.loads(patch(*words, "--format", "json").stdout)
    assert document["columns"]["layer"][:: len(document["columns"]["layer"]) // 4] == [0, 10, 20, 30]
    done = patch(*words, "--out", str(tmp_path / "p.parquet"), "--plot", str(tmp_path / "p.png"))
    assert done.exit_code == 0
    assert not done.stdout
    assert (tmp_path / "p.parquet").stat().st_size > 0
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((TEXT, "--from", "The capital", "--token", " Paris"), "expected equal numbers"),
        ((TEXT, "--from", TEXT, "--token", "not one token"), "expected exactly one"),
        ((TEXT, "--from", TEXT, "--token", " Paris", "--out", "x.csv"), "ends in .parquet"),
        ((TEXT, "--from", TEXT, "--token", " Paris", "--layers", "40"), "unknown layer 40"),
    ],
)
def test_a_mistake_is_a_sentence(patch, words, said):
    done = patch(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not done.stdout
