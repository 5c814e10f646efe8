"""Loads a model by whatever names it: nothing (the default), a .gguf, a folder, a hub name, or live objects."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from midstream.errors import ModelError, RequestError, choices
from midstream.model.anatomy import find, text_config
from midstream.model.bundled import NAME, bundled
from midstream.model.cache import file_sha256, sealed_folder
from midstream.model.fingerprint import Fingerprint, circumstances, identity_of_files, identity_of_module
from midstream.model.model import Engine, Model
from midstream.model.placement import checked_device, checked_dtype, fitting_dtype
from midstream.model.plain import PlainLM
from midstream.model.plain_config import is_plain
from midstream.model.proof import prove
from midstream.model.stored import Stored, counted, load_plain, open_folder, refuse_pickle
from midstream.model.tokenizer import Tokenizer

ENGINES = ("plain", "transformers")
_UNSTATED = 2048
"""Context of a model whose config does not say."""
_CONTEXTS = (
    "max_position_embeddings",
    "max_target_positions",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "context_length",
)
"""Names that configs have for the context."""
PROBE = "The Eiffel Tower, built in 1889, is located in the city of Paris."
"""The text on which the anatomy is proved."""
_FORMAT = 2
"""Version of what is kept of a .gguf; raise it when the conversion changes."""


@dataclass(frozen=True)
class _Loaded:
    """What all ways of loading end in."""

    module: nn.Module
    tokenizer: Tokenizer
    engine: Engine
    identity: str
    weights: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wish:
    """What the user asked for, checked."""

    engine: str | None
    device: torch.device
    dtype: torch.dtype | None


def load(
    name: str | Path | tuple[Any, Any] | None = None,
    *,
    engine: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Model:
    """Loads a model, finds its parts and proves them.

    Args:
        name: None for ``$MIDSTREAM_MODEL`` or else the bundled default; a ``.gguf`` file; a folder with ``config.json``
            and safetensors; a hub name; or a loaded ``(module, tokenizer)`` pair, whose module is put into eval mode
            and stays in it.
        engine: ``plain`` or ``transformers``; None takes plain where it can.
        device: ``cpu`` (the default), ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None is float32 unless that takes over half the free memory.

    Raises:
        ModelError, RequestError: in one sentence, what is wrong with the model or the request.
    """
    if engine is not None and engine not in ENGINES:
        raise choices("engine", engine, ENGINES)
    if isinstance(name, tuple):
        if device is not None or dtype is not None or engine is not None:
            raise RequestError("a loaded model keeps its engine, device and dtype: move it yourself before passing it.")
        if len(name) != 2:
            raise RequestError(f"{len(name)} objects were given as a model; expected the pair (module, tokenizer).")
        return _model(type(name[0]).__name__, _live(*name))
    wish = _Wish(engine, checked_device(device or "cpu"), checked_dtype(dtype))
    name = str(name) if name is not None else os.environ.get("MIDSTREAM_MODEL") or "default"
    loaded = _model(NAME if name == "default" else name, _named(name, wish))
    path = Path(os.path.expanduser(name))  # noqa: PTH111  as in _named
    return replace(loaded, source=str(path.resolve()) if name != "default" and path.exists() else name)


def _named(name: str, wish: _Wish) -> _Loaded:
    path = bundled() if name == "default" else Path(os.path.expanduser(name))  # noqa: PTH111  leaves ~nobody as it is
    try:
        kind = "folder" if path.is_dir() else "file" if path.is_file() else ""
    except OSError as error:
        raise ModelError(f"cannot open {name!r}: {error.strerror}.") from error
    if kind == "folder":
        return _folder(open_folder(path), wish)
    if kind == "file":
        refuse_pickle(path)
        if path.suffix == ".safetensors":
            raise ModelError(
                f"{path} holds tensors only: name its folder, which needs config.json and a tokenizer too."
            )
        return _gguf(path, wish)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or path.suffix in (".gguf", ".safetensors") or name[0] == ".":
        raise ModelError(f"there is no file or folder {name!r}, and it is no hub name (such as gpt2 or owner/model).")
    refuse_pickle(path)
    return _hub(name, wish)


def _gguf(path: Path, wish: _Wish) -> _Loaded:
    """A ``.gguf``, through the folder that it is converted to once; its own hash stands for all that it holds."""
    from midstream.model.gguf_model import WEIGHTS, convert_gguf

    sha256 = file_sha256(path)
    folder = sealed_folder(f"gguf/{sha256}-{_FORMAT}", lambda work: convert_gguf(path, work))
    stored = open_folder(folder)
    loaded = _folder(stored, wish, identity=identity_of_files({}, "", [path]))
    return replace(loaded, weights=str(stored.config.get(WEIGHTS, "")))


def _folder(stored: Stored, wish: _Wish, *, identity: str | None = None) -> _Loaded:
    reason = is_plain(stored.config)
    if wish.engine == "plain" and reason:
        raise ModelError(f"the plain engine cannot run {stored.folder}: {reason}. Leave --engine out.")
    dtype, note = (wish.dtype, None) if wish.dtype else fitting_dtype(stored.elements, stored.dtype, wish.device)
    definition = stored.folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(definition) if definition.is_file() else None
    if wish.engine == "plain" and tokenizer is None:
        raise ModelError(f"{stored.folder} holds no tokenizer.json, which the plain engine needs. Leave --engine out.")
    if wish.engine == "transformers" or reason or tokenizer is None:
        from midstream.model.transformers_engine import load_transformers

        module, own = load_transformers(str(stored.folder), dtype=dtype, device=wish.device)
        tokenizer, engine = tokenizer or Tokenizer.from_transformers(own), "transformers"
    else:
        module, engine = load_plain(stored, dtype=dtype, device=wish.device), "plain"
    identity = identity or identity_of_files(stored.config, tokenizer.identity, stored.files)
    weights = counted(entry.dtype for entry in stored.entries.values())
    return _Loaded(module, tokenizer, engine, identity, weights, (note,) if note else ())


def _hub(name: str, wish: _Wish) -> _Loaded:
    """A model of the hub: its files, fetched or already here, are a folder like any other."""
    from midstream.model.transformers_engine import load_transformers

    folder = _fetched(name)
    if folder is not None:
        return _folder(open_folder(folder), wish)
    if wish.engine == "plain":
        raise ModelError(f"the plain engine found no safetensors of {name!r}, on this machine or on the hub.")
    # it says why the name cannot be had
    module, own = load_transformers(name, dtype=wish.dtype or torch.float32, device=wish.device)
    tokenizer = Tokenizer.from_transformers(own)
    identity = identity_of_module(module, _config_of(module), tokenizer.identity)
    return _Loaded(module, tokenizer, "transformers", identity)


def _fetched(name: str) -> Path | None:
    """The folder of a hub model's files; None if the hub or the name does not give any safetensors."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [
        "config.json",
        "model*.safetensors*",
        "tokenizer*",
        "special_tokens_map.json",
        "vocab*",
        "merges.txt",
        "*.jinja",
    ]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"cannot load {name!r}: it is not on this machine, and the hub cannot be reached or offline mode is on."
        ) from error
    except Exception:  # load_transformers meets the same and says what it means
        return None
    return folder if any(folder.glob("model*.safetensors*")) else None


def _live(module: Any, tokenizer: Any) -> _Loaded:
    if not isinstance(module, nn.Module):
        raise RequestError(f"a model of type {type(module).__name__} was given; expected a PyTorch module.")
    module.eval()
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_transformers(tokenizer)
    identity = identity_of_module(module, _config_of(module), tokenizer.identity)
    return _Loaded(module, tokenizer, "plain" if isinstance(module, PlainLM) else "transformers", identity)


def _model(name: str, loaded: _Loaded) -> Model:
    module, tokenizer = loaded.module, loaded.tokenizer
    anatomy = find(module, getattr(module, "config", None))
    tokenizer.limit = anatomy.vocabulary
    weight = next(anatomy.blocks[0].parameters())
    context = _context(getattr(module, "config", None))
    ids = tokenizer.encode(PROBE).ids[:context]
    if not ids:
        raise ModelError(f"the tokenizer of {name!r} makes no tokens of ordinary text: it is damaged.")
    proof = prove(module, anatomy, probe_ids=torch.tensor([ids], device=weight.device), dtype=weight.dtype)
    made = circumstances(loaded.engine, dtype=weight.dtype, device=weight.device, weights=loaded.weights)
    return Model(
        name=name,
        module=module,
        tokenizer=tokenizer,
        anatomy=anatomy,
        engine=loaded.engine,
        fingerprint=Fingerprint(loaded.identity, made),
        proof=proof,
        context=context,
        notes=loaded.notes,
    )


def _context(config: Any) -> int:
    """The longest text that a config allows, under the names that families have for it."""
    found = (getattr(text_config(config), name, None) for name in _CONTEXTS)
    return next((tokens for tokens in found if isinstance(tokens, int) and tokens > 0), _UNSTATED)


def _config_of(module: nn.Module) -> dict[str, Any]:
    """A live module's config as a dictionary."""
    config = getattr(module, "config", None)
    if callable(getattr(config, "to_dict", None)):
        return dict(config.to_dict())  # pyright: ignore[reportOptionalMemberAccess]
    return dict(vars(config)) if config is not None else {}
