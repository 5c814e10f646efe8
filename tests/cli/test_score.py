"""The command: what it prints and writes, and the sentence that every wrong request gets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SENTENCES
from lens_sample import sample

import midstream as ms
from midstream.errors import RequestError
from midstream.record import SCHEMA, SCORE

PROMPTS = {
    "items": [
        {"prompt": "The capital of France is ", "intermediates": ["city", "Paris"], "target": "Paris"},
        {"prompt": "Once upon a time there", "intermediates": ["was", "unreadable words"]},
        *({"prompt": text, "intermediates": ["a"]} for text in SENTENCES),
    ]
}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_MODEL", str(tiny_folder))
    held = [f"{SENTENCES[n % 4]} and {SENTENCES[(3 * n + 1) % 4]} {n}" for n in range(13)]
    (tmp_path / "held-out.txt").write_text("\n<|endofdoc|>\n".join(held))
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    return tmp_path


FEW = ("--every", "15", "--positions", "60")


def test_json_is_one_document_equal_to_the_facade_and_to_the_file(midstream, desk, tiny):
    import duckdb

    done = midstream(
        "score", "logit", "input", "--corpus", "held-out.txt", *FEW, "--format", "json", "--out", "s.parquet"
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert document["schema"] == SCHEMA
    assert list(document["columns"]) == [column.name for column in SCORE]
    assert document["notes"][0].startswith("60 positions of 13 documents in 13 clusters")
    assert document["provenance"]["settings"]["positions"] == 60
    assert document["provenance"]["lenses"] == {"logit": "", "input": ""}
    table = ms.score(tiny, ["logit", "input"], "held-out.txt", every=15, positions=60)
    assert document["columns"]["measure"] == table.columns["measure"].tolist()
    np.testing.assert_allclose(document["columns"]["value"], table.columns["value"], atol=1e-5)
    rows = duckdb.sql("select * from 's.parquet'")
    assert rows.columns == [column.name for column in SCORE]
    found = rows.fetchnumpy()
    for name in ("lens", "layer", "measure", "against", "clusters", "unit"):
        assert found[name].tolist() == document["columns"][name], "the table's own order"
    np.testing.assert_array_equal(found["value"], np.array(document["columns"]["value"]))
    keys = duckdb.sql("select decode(key) from parquet_kv_metadata('s.parquet')").fetchall()
    assert {key for (key,) in keys} == {"schema", "provenance", "notes", "layers"}


def test_prompts_alone(midstream):
    done = midstream("score", "logit", "--prompts", "prompts.json", "--every", "10", "--strip", "--format", "json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["columns"]["layer"]) == {-1}
    assert {"pass@1 prompts", "pass@10 null prompts", "pass@5 - null prompts"} <= set(document["columns"]["measure"])
    assert document["notes"][0].startswith("prompts: 6 of 6 items count, with 7 of the file's 8 intermediates")
    assert "without the blanks" in document["notes"][0]


def test_text_and_figure(midstream, desk):
    done = midstream("score", "logit", "--corpus", "held-out.txt", *FEW, "--plot", "s.svg")
    assert done.exit_code == 0, done.stderr
    assert "logit" in done.stdout
    assert "13 clusters" in done.stdout
    assert (desk / "s.svg").stat().st_size > 1000


def test_undefined_ends_are_null_and_few_clusters_are_said(midstream, desk):
    (desk / "few.txt").write_text(SENTENCES[0] * 3)
    done = midstream("score", "logit", "--corpus", "few.txt", *FEW, "--format", "json")
    document = json.loads(done.stdout)
    assert set(document["columns"]["low"]) == {None}
    assert "too few for intervals" in " ".join(document["notes"])


def test_a_score_shows_itself_in_python(tiny, desk, capsys):
    made = ms.score(tiny, "logit", "held-out.txt", every=15, positions=60, prompts="prompts.json")
    made.show()
    assert "logit" in capsys.readouterr().out
    made.save("s.parquet")
    made.plot("s.png")
    assert {"s.parquet", "s.png"} <= {path.name for path in desk.iterdir()}
    few = made.pick(made.columns["measure"] == "kl")
    assert isinstance(few, ms.Score)
    assert len(few.arrow()) == len(few)
    with pytest.raises(RequestError, match=r"\.parquet"):
        made.save("s.csv")
    with pytest.raises(RequestError, match=r"'token'.*tokens"):
        ms.score(tiny, "logit", "held-out.txt", token=3)


WRONG = {
    "nothing to score on": (["logit"], "--corpus"),
    "no lens": ([], "Missing argument"),
    "no such lens": (["tunnel", "--corpus", "held-out.txt"], "logit"),
    "a lens that was not fitted": (["tuned", "--corpus", "held-out.txt"], "midstream fit tuned"),
    "a lens twice": (["logit", "logit", "--corpus", "held-out.txt"], "two lenses"),
    "no such corpus": (["logit", "--corpus", "none.txt"], "none.txt"),
    "a corpus of no known kind": (["logit", "--corpus", "prompts.json"], ".jsonl"),
    "no such prompts": (["logit", "--prompts", "none.json"], "none.json"),
    "prompts that are no JSON": (["logit", "--prompts", "held-out.txt"], "no JSON"),
    "prompts twice": (["logit", "--prompts", "prompts.json", "--prompts", "prompts.json"], "two prompt files"),
    "wrong ending": (["logit", "--corpus", "held-out.txt", "--out", "s.csv"], ".parquet"),
    "wrong figure": (["logit", "--corpus", "held-out.txt", "--plot", "s.txt"], ".svg"),
    "no such folder": (["logit", "--corpus", "held-out.txt", "--out", "none/s.parquet"], "none"),
    "no positions": (["logit", "--corpus", "held-out.txt", "--positions", "0"], "one or more"),
    "too few tokens": (["logit", "--corpus", "held-out.txt", "--tokens", "3"], "Give longer text"),
    "a condition on a .txt": (["logit", "--corpus", "held-out.txt", "--where", "a=b"], "no fields"),
    "an unknown field": (["logit", "--corpus", "held-out.txt", "--cluster", "author"], "author"),
    "unknown layer": (["logit", "--corpus", "held-out.txt", "--layers", "31"], "0 to 30"),
    "a figure of prompts alone": (["logit", "--prompts", "prompts.json", "--plot", "s.svg"], "--corpus FILE too"),
    "causal without text": (["logit", "--prompts", "prompts.json", "--causal"], "--corpus"),
    "causal on short text": (["logit", "--corpus", "held-out.txt", "--causal", "--tokens", "20"], "prefixes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_one_sentence(case, midstream, desk):
    before = sorted(desk.iterdir())
    words, expected = WRONG[case]
    done = midstream("score", *words)
    assert done.exit_code == 2, done.output
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert expected in flat
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert sorted(desk.iterdir()) == before


@pytest.mark.parametrize("command", [("read", "a king was", "--lens"), ("score", "--corpus", "held-out.txt", *FEW)])
def test_what_a_lens_warns_of_goes_to_standard_error(command, midstream, tiny, desk):
    from midstream.lens.file.artifact import save

    made = sample(tiny)
    save(replace(made, about=made.about | {"notes": ["its layers seem shifted"]}), desk / "shifted.safetensors")
    done = midstream(*command, "shifted.safetensors", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "midstream: its layers seem shifted" in done.stderr
    assert json.loads(done.stdout)["schema"] == SCHEMA


def test_interrupted_leaves_nothing(midstream, desk, monkeypatch):
    from midstream.run import score

    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    before = sorted(desk.iterdir())
    monkeypatch.setattr(score, "read_chunks", interrupted)
    done = midstream("score", "logit", "--corpus", "held-out.txt", "--out", "s.parquet")
    assert done.exit_code == 130
    assert "Traceback" not in done.output
    assert sorted(desk.iterdir()) == before
