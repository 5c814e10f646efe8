"""Model folders on disk: config and safetensors, checked before anything is loaded from them."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstream.errors import ModelError
from midstream.model.plain import PlainLM
from midstream.model.plain_config import plain_config

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_MOST_HEADER = 100_000_000
"""Bytes that a safetensors header may have; the limit of the safetensors library."""
_MOST_CONFIG = 10_000_000
_MOST_DIMENSIONS = 8
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file: where it is, its dtype by the format's name, its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A model folder whose headers have been read.

    Attributes:
        config: ``config.json``.
        files: its safetensors files.
        entries: its tensors by name.
    """

    folder: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    entries: Mapping[str, Entry]

    @property
    def elements(self) -> int:
        """Number of stored numbers."""
        return sum(math.prod(entry.shape) for entry in self.entries.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of them have."""
        sizes: dict[str, int] = {}
        for entry in self.entries.values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + math.prod(entry.shape)
        return _DTYPES.get(max(sizes, key=lambda name: sizes[name]), torch.float32)


def open_folder(folder: Path) -> Stored:
    """Reads a folder's config and the headers of its safetensors files.

    Raises:
        ModelError: if there is no model, only pickled weights, or a damaged file.
    """
    config = _json(folder / "config.json", _MOST_CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type, so it does not describe a language model.")
    files = _weight_files(folder)
    entries: dict[str, Entry] = {}
    for file in files:
        for name, entry in header(file).items():
            if name in entries:
                raise ModelError(
                    f"{folder} holds the tensor {name!r} twice, in {entries[name].file.name} and {file.name}."
                )
            entries[name] = entry
    if not entries:
        raise ModelError(f"{folder} holds no tensors.")
    return Stored(folder, config, files, entries)


def counted(kinds: Iterable[str]) -> str:
    """The types of tensors in words, the most frequent first: ``Q4_1 x210, F32 x61``."""
    return ", ".join(f"{kind} x{count}" for kind, count in Counter(kinds).most_common())


def refuse_pickle(path: Path) -> None:
    """Raises ModelError for a pickled checkpoint, which can run any program when it is opened."""
    if path.suffix in _PICKLES:
        raise ModelError(
            f"{path} is a pickled checkpoint, which can run any program when it is opened. midstream reads safetensors "
            "and GGUF: convert it (transformers: save_pretrained, which writes safetensors), or name another copy."
        )


def load_plain(stored: Stored, *, dtype: torch.dtype, device: torch.device) -> PlainLM:
    """The plain model with a folder's tensors, frozen; on the CPU in the stored dtype they stay mapped from disk.

    Raises:
        ModelError: if tensors are missing, unknown or of another shape than the config says.
    """
    module, names = fitted(stored)
    state = _tensors(stored, names, dtype, device)
    module.load_state_dict(state, assign=True, strict=False)
    config = plain_config(stored.config)
    copied = config.tie_word_embeddings and "lm_head.weight" in names
    if copied and torch.equal(module.lm_head.weight, module.get_input_embeddings().weight):
        module.config = config
    module.tie()
    return module.requires_grad_(False).eval()


def fitted(stored: Stored) -> tuple[PlainLM, dict[str, str]]:
    """The plain model without its tensors, and its name for each -> the checkpoint's; reads no tensor.

    Raises:
        ModelError: as ``load_plain``.
    """
    config = plain_config(stored.config)
    if config.num_hidden_layers > len(stored.entries):  # before a module is built for each of them
        raise ModelError(
            f"{stored.folder} states {config.num_hidden_layers} blocks and holds too few tensors for them."
        )
    copied = config.tie_word_embeddings and "lm_head.weight" in stored.entries
    with torch.device("meta"):
        module = PlainLM(replace(config, tie_word_embeddings=config.tie_word_embeddings and not copied))
    names = {_plain_name(name, config.model_type): name for name in stored.entries}
    names.pop("", None)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if module.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    _check_shapes(stored, names, expected)
    return module, names


def _tensors(stored: Stored, names: Mapping[str, str], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    state: dict[str, Tensor] = {}
    for file in stored.files:
        try:
            with safe_open(str(file), framework="pt", device="cpu") as opened:
                for name, source in names.items():
                    if stored.entries[source].file == file:
                        state[name] = opened.get_tensor(source).to(device=device, dtype=dtype)
        except (SafetensorError, OSError) as error:
            raise _damaged(file, str(error)) from error
    return state


def _plain_name(name: str, model_type: str) -> str:
    """A checkpoint's name for a tensor -> the plain model's; empty for buffers that old checkpoints carry."""
    if name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")):
        return ""
    if name == "lm_head.weight" or model_type != "gpt2":
        return name
    return "model." + name.removeprefix("transformer.")  # the oldest GPT-2 checkpoints have no prefix


def _check_shapes(stored: Stored, names: Mapping[str, str], expected: Mapping[str, tuple[int, ...]]) -> None:
    for problem, found in (
        ("lacks", [name for name in expected if name not in names]),
        ("has, unexpectedly,", [names[name] for name in names if name not in expected]),
    ):
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ModelError(
                f"{stored.folder} {problem} the tensors {', '.join(found[:3])}{more}: not the model of its config."
            )
    for name, shape in expected.items():
        entry, where = stored.entries[names[name]], f"{stored.folder}: tensor {names[name]}"
        if entry.shape != shape:
            raise ModelError(f"{where} has the shape {list(entry.shape)}, and its config asks for {list(shape)}.")
        if entry.dtype not in _DTYPES:
            raise ModelError(f"{where} is of type {entry.dtype}, expected {', '.join(_DTYPES)}.")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return (single,)
    if index.is_file():
        shards = _json(index, _MOST_HEADER).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        # a name with a folder in it could point anywhere on the disk
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ModelError(f"{index} does not list files of its own folder.")
        missing = [name for name in sorted(names) if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}, which its index lists: fetch the model again.")
        return tuple(folder / name for name in sorted(names))
    for path in sorted(folder.iterdir()):
        refuse_pickle(path)
    raise ModelError(f"{folder} holds no model.safetensors and no model.safetensors.index.json.")


def header(file: Path, most: int = _MOST_HEADER) -> dict[str, Entry]:
    """The tensors that a safetensors file states, once its sizes have been checked against its length.

    Args:
        most: bytes that the header may have; reading it takes up to 25 times as much.

    Raises:
        ModelError: if it cannot be read, or is damaged.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if length < 10 or not 2 <= size <= min(most, length - 8):
                raise _damaged(file, f"it states a header of {size} bytes in a file of {length}")
            header = json.loads(opened.read(size))
        header.pop("__metadata__", None)
        entries = {name: _entry(file, value) for name, value in header.items()}
        ends = [value["data_offsets"][1] for value in header.values()]
        if max(ends, default=0) != length - 8 - size:
            raise _damaged(file, f"its tensors end at byte {max(ends, default=0)} of {length - 8 - size}")
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(file, f"its header is no list of tensors ({str(error)[:100]})") from error
    return entries


def _entry(file: Path, stated: dict[str, Any]) -> Entry:
    """One tensor of a header, if its shape and its dtype give the bytes it says it has."""
    dtype, shape = stated["dtype"], stated["shape"]
    if len(shape) > _MOST_DIMENSIONS or any(operator.index(n) < 0 for n in shape):
        raise ValueError(f"a shape is no list of at most {_MOST_DIMENSIONS} whole numbers")
    start, end = map(operator.index, stated["data_offsets"])
    elements, size = math.prod(shape), end - start
    # of other types, such as those of quantised models, only the least is known: half a byte a number
    if elements * _DTYPES[dtype].itemsize != size if dtype in _DTYPES else elements > 2 * size:
        raise ValueError(f"a tensor of type {dtype!r:.20} has {elements} numbers in {size} bytes")
    return Entry(file, dtype, tuple(shape))


def _json(path: Path, most: int) -> dict[str, Any]:
    try:
        if path.stat().st_size > most:
            raise ModelError(f"{path} has {path.stat().st_size} bytes: too large for what it should hold.")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} holds no {path.name}, so it is no model folder.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {str(error)[:200]}.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object.")
    return found


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} is no usable safetensors file: {why}. It may be truncated or damaged: fetch it again.")
