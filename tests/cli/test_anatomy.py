from __future__ import annotations

import json


def test_both_formats_say_the_same(midstream, tiny_folder):
    as_json = midstream("anatomy", "--model", str(tiny_folder), "--format", "json")
    found = json.loads(as_json.stdout)
    assert found["family"] == "llama"
    assert found["input and output embeddings"] == "same tensor"
    assert found["sites"] == ["attn_out", "resid_mid", "mlp_out", "resid_post"]
    assert found["unembedding"].startswith("lm_head")
    assert "bound" in found["proof"]
    text = midstream("anatomy", "--model", str(tiny_folder))
    assert text.exit_code == 0
    for name in found:
        assert name in text.stdout


def test_engines_agree_on_what_they_found(midstream, tiny_folder):
    found = [
        json.loads(midstream("anatomy", "--model", str(tiny_folder), "--format", "json", "--engine", engine).stdout)
        for engine in ("plain", "transformers")
    ]
    for name in (
        "family",
        "layers",
        "width",
        "vocabulary",
        "sites",
        "logit scale",
        "soft cap",
        "input and output embeddings",
    ):
        assert found[0][name] == found[1][name]
    assert [one["engine"] for one in found] == ["plain", "transformers"]


def test_a_model_that_is_none_is_a_sentence(midstream, tmp_path):
    done = midstream("anatomy", "--model", str(tmp_path))
    assert done.exit_code == 2
    assert str(tmp_path) in done.stderr.replace("\n", "")
