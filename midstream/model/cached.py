"""Models that the hub's library has on this machine already."""

from __future__ import annotations

import json
from pathlib import Path

DECODERS = ("ForCausalLM", "LMHeadModel")
"""How the architecture's name of a decoder-only model ends."""


def cached() -> dict[str, Path]:
    """Hub name -> folder of its newest files, of decoder-only models whose safetensors are here. Nothing is fetched."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # no cache, or one that cannot be read: nothing is found
        return {}
    newest = {
        one.repo_id: max(one.revisions, key=lambda revision: revision.last_modified).snapshot_path
        for one in sorted(found, key=lambda one: one.repo_id.lower())
        if one.repo_type == "model" and one.revisions
    }
    return {name: folder for name, folder in newest.items() if _decoder(folder)}


def _decoder(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        names = config.get("architectures") or ()
        return any(str(name).endswith(DECODERS) for name in names) and any(folder.glob("model*.safetensors"))
    except (OSError, ValueError, AttributeError, TypeError):  # what is no model is not named
        return False
