"""What a model is (identity) and how it is run (circumstances), so that a lens meets the model it was fitted on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstream.model.cache import file_sha256

if TYPE_CHECKING:
    from torch import nn

_NO_FUNCTION = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_experts_implementation",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "experts_implementation",
        "finetuning_task",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "label2id",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    ]
)
"""Fields of a config that leave the function of an evaluated model as it is; every other one counts."""


@dataclass(frozen=True)
class Fingerprint:
    """A model's identity, and the circumstances that may change its numbers a little.

    Attributes:
        identity: sha256 in hex over config, tokenizer and tensors as stored.
        circumstances: engine, versions, dtype, device and how the weights were stored, by name.
    """

    identity: str
    circumstances: dict[str, str]

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are the same model; circumstances may differ (see ``differences``)."""
        return self.identity == other.identity

    def differences(self, other: Fingerprint) -> dict[str, tuple[str, str]]:
        """Circumstances that differ: name -> (here, there); empty text where one does not state it."""
        names = [*self.circumstances, *(name for name in other.circumstances if name not in self.circumstances)]
        pairs = {name: (self.circumstances.get(name, ""), other.circumstances.get(name, "")) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def identity_of_files(config: Mapping[str, Any], tokenizer: str, weights: Iterable[Path]) -> str:
    """Identity of a model that is stored: its config, its tokenizer's identity and its weight files."""
    return _digest(config, tokenizer, sorted(file_sha256(path) for path in weights))


def identity_of_module(module: nn.Module, config: Mapping[str, Any], tokenizer: str) -> str:
    """Identity of a model that is only in memory: every parameter and buffer is hashed, in the dtype it has."""
    import torch

    tensors: list[str] = []
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().reshape(-1)
        for part in flat.split(1 << 26):  # a quarter GB at a time in float32, wherever the tensor lives
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        tensors.append(digest.hexdigest())
    return _digest(config, tokenizer, tensors)


def circumstances(engine: str, *, dtype: Any, device: Any, weights: str = "") -> dict[str, str]:
    """What may change a model's numbers a little, or says how good they are.

    Args:
        weights: the types in which the tensors were stored, such as ``Q4_1 x210, F32 x61``; empty if unknown.
    """
    packages = ["midstream", "torch", *(["transformers"] if engine == "transformers" else [])]
    versions = {name: _version(name) for name in packages}
    made = {"engine": engine, **versions, "dtype": str(dtype).removeprefix("torch."), "device": str(device)}
    return made | ({"weights": weights} if weights else {})


def _digest(config: Mapping[str, Any], tokenizer: str, tensors: list[str]) -> str:
    parts = {"config": _function(config), "tokenizer": tokenizer, "tensors": tensors}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _function(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that change the function, at every depth."""
    kept = {name: value for name, value in config.items() if name not in _NO_FUNCTION and value is not None}
    return {name: _function(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""  # run from a source tree that is not installed
