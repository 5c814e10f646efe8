"""Every causal language model of transformers, one row each: read, or refused with the reason.

``python -m tests.walk`` writes docs/models.md; tests/model/test_families.py holds each row against it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from midstream.errors import ModelError
from midstream.model.addition import Tap
from midstream.model.anatomy import Anatomy, find
from midstream.model.families import family
from midstream.model.forward import new_cache, seen
from midstream.model.proof import prove
from tests.tiny import causal_models, tiny

PAGE = Path(__file__).parent.parent / "docs" / "models.md"

REQUIRED = (
    *("gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "falcon", "mpt", "llama", "mistral", "mixtral", "qwen2"),
    *("qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "stablelm", "granite"),
    *("cohere", "smollm3"),
)
"""The families that must be read."""

IDS = torch.arange(20, 36)[None]
"""``[1, 16]`` token ids on which every tiny model is proved."""


@dataclass(frozen=True)
class Walked:
    """A tiny model that was read."""

    module: nn.Module
    anatomy: Anatomy


def walk(model_type: str) -> Walked | str:
    """Build, find and prove one family; a string is the reason why it is refused."""
    if reason := family(model_type).refused:
        return reason
    module = tiny(model_type)
    try:
        anatomy = find(module, module.config)
    except ModelError as error:
        return str(error).removeprefix(f"{model_type}: ").rstrip(".")
    prove(module, anatomy, probe_ids=IDS, dtype=torch.float32)
    return Walked(module, anatomy)


def line(model_type: str, walked: Walked | str) -> str:
    """The family's row in docs/models.md."""
    if isinstance(walked, str):
        return f"| `{model_type}` | no | | | | {walked} |"
    found = walked.anatomy
    entry = [
        "scale" if found.embedding_scale != 1.0 else "",
        "norm" if found.embedding_norm is not None else "",
        "position" if found.positions_added else "",
    ]
    end = [
        "norm" if found.final_norm is not None else "",
        "bias" if getattr(found.unembedding, "bias", None) is not None else "",
        "scale" if found.logit_scale != 1.0 else "",
        "soft cap" if found.soft_cap else "",
    ]
    kinds = {4: "all", 3: "no `resid_mid`", 1: "`resid_post`"}[len(found.sites)]
    cells = [kinds, ", ".join(filter(None, entry)), ", ".join(filter(None, end)), "; ".join(found.exceptions)]
    return f"| `{model_type}` | yes | " + " | ".join(cells) + " |"


def streams(found: Walked, ids: Tensor, *, mask: Tensor | None = None, cache: object | None = None) -> Tensor:
    """Every layer's stream, ``[L + 1, b, t, d]``."""
    taps = [Tap(found.anatomy.blocks[0], "input"), *(sites["resid_post"] for sites in found.anatomy.taps)]
    return torch.stack(seen(found.anatomy, ids, taps, mask=mask, cache=cache))


def chunked(found: Walked, ids: Tensor) -> Tensor | None:
    """The same in chunks of 7, 5 and 4 tokens over a cache; ``None`` for a family without one."""
    cache = new_cache(found.module, found.anatomy)
    if cache is None:
        return None
    return torch.cat([streams(found, chunk, cache=cache) for chunk in ids.split([7, 5, 4], dim=1)], dim=2)


def page(lines: list[str]) -> str:
    """docs/models.md from its rows."""
    import transformers

    read = sum("| yes |" in line for line in lines)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return "\n".join(
        [
            "# Models",
            "",
            "Every entry of transformers' mapping of causal language models, built with random weights from a tiny",
            "config (biases not zero, norms not one) and proved: the parts found in it, put together again from the",
            "captured stream, give the model's own logits, and each block's parts add up to the block. A checkpoint is",
            "proved again when it is loaded, so a model that differs from its family is refused, not misread.",
            "",
            f"{read} of {len(lines)} are read. Last run on: {', '.join(devices)} ({platform.machine()}), transformers "
            f"{transformers.__version__}, torch {torch.__version__.split('+')[0]}.",
            "",
            "*Sites*: `resid_mid`, `attn_out`, `mlp_out`, `resid_post`, or which. *Layer 0*: what happens to a token's",
            "row on its way in. *Logits*: what stands between layer L and the logits beside the unembedding.",
            "This page is written by `python -m tests.walk`; a test holds it against the walk.",
            "",
            "| model type | read | sites | layer 0 | logits | to know |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page([line(name, walk(name)) for name in causal_models()]), encoding="utf-8")
