"""Models in the hub's cache, as its library lays them out."""

from __future__ import annotations

import json
import os

import pytest

from midstream.model.cached import cached
from midstream.model.load import load


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Makes ``owner/name`` at a revision out of files; newer than what was made before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = []

    def make(name, revision, files):
        repo = tmp_path / f"models--{name.replace('/', '--')}"
        folder = repo / "snapshots" / revision
        folder.mkdir(parents=True)
        (repo / "blobs").mkdir(exist_ok=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(revision)
        for file, source in files.items():
            blob = repo / "blobs" / f"{revision}{file}"
            blob.write_bytes(source)
            made.append(blob)
            os.utime(blob, (len(made), len(made)))
            (folder / file).symlink_to(blob)
        return folder

    return make


def config(architecture):
    return json.dumps({"architectures": [architecture]}).encode()


def test_decoders_with_safetensors_are_found_by_their_newest_files(cache, tiny_folder, tiny):
    files = {file.name: file.read_bytes() for file in tiny_folder.iterdir()}
    cache("owner/tiny", "a" * 40, {**files, "config.json": config("LlamaForCausalLM")})
    newest = cache("owner/tiny", "b" * 40, files)
    cache("owner/encoder", "c" * 40, {"config.json": config("BertForMaskedLM"), "model.safetensors": b""})
    cache("owner/pickled", "d" * 40, {"config.json": config("GPT2LMHeadModel"), "pytorch_model.bin": b""})
    cache("owner/broken", "e" * 40, {"config.json": b"[1", "model.safetensors": b""})
    cache("owner/odd", "f" * 40, {"config.json": b"[]", "model.safetensors": b""})
    cache("gpt2", "0" * 40, {"config.json": config("GPT2LMHeadModel"), "model-00001-of-00002.safetensors": b""})
    found = cached()
    assert list(found) == ["gpt2", "owner/tiny"]
    assert found["owner/tiny"] == newest
    assert load(found["owner/tiny"]).fingerprint.identity == tiny.fingerprint.identity


def test_no_cache_holds_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert cached() == {}
