"""Text to token ids and back to exact bytes, on the ``tokenizers`` library."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream.errors import ModelError, RequestError
from midstream.record import Kind

_LARGEST_FILE = 1 << 28
"""Bytes of the largest tokenizer.json that is opened; the largest in use have some 40 million."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text and where each comes from: the text, the tokenizer's own additions, or a chat template."""

    ids: list[int]
    kinds: list[Kind]


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        vocabulary: one more than its largest token id.
        special_ids: ids of its control tokens, such as ``<|im_end|>``.
        chat_template: Jinja source of the model's chat template; None if it has none.
        marks: the variables ``bos_token`` and ``eos_token`` of that template, where the model has them.
        identity: sha256 of its definition, in hex.
        limit: number of rows of the model's embedding, where it is known: ids beyond it are refused.
    """

    def __init__(self, backend: Any, *, identity: str, config: Mapping[str, Any] | None = None) -> None:
        """Around a ``tokenizers.Tokenizer``; ``config`` is what Hugging Face keeps in ``tokenizer_config.json``."""
        config = config or {}
        self._backend, self._lock = backend, threading.Lock()
        added = backend.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._unit = _unit(backend)
        self._bytes: dict[int, bytes] = {}
        self.vocabulary: int = max([backend.get_vocab_size(True), *(index + 1 for index in added)])
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.chat_template = _template(config.get("chat_template"))
        self.marks = {name: text for name in ("bos_token", "eos_token") if (text := _content(config.get(name)))}
        self.identity = identity
        self.limit: int | None = None

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """From a ``tokenizer.json``, and ``tokenizer_config.json`` and ``chat_template.jinja`` beside it.

        Raises:
            ModelError: if it cannot be read or is no such file.
        """
        from tokenizers import Tokenizer as Backend

        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ModelError(f"{path} has {path.stat().st_size} bytes: too large for a tokenizer.")
            definition = path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}.") from error
        with _broken(str(path)):
            backend = Backend.from_buffer(definition)
            backend.no_padding()
            backend.no_truncation()
        return cls(backend, identity=hashlib.sha256(definition).hexdigest(), config=_config_beside(path))

    @classmethod
    def from_transformers(cls, pretrained: Any) -> Tokenizer:
        """From a ``transformers`` tokenizer, which is copied: its own settings stay as they are."""
        from tokenizers import Tokenizer as Backend

        from midstream.model.slow_tokenizer import SlowBackend

        own = getattr(pretrained, "backend_tokenizer", None)
        if not isinstance(own, Backend) and not callable(getattr(pretrained, "convert_ids_to_tokens", None)):
            raise ModelError(
                f"a tokenizer of type {type(pretrained).__name__} was given; expected a midstream or transformers one."
            )
        with _broken(type(pretrained).__name__):
            backend = Backend.from_str(own.to_str()) if isinstance(own, Backend) else SlowBackend(pretrained)
        backend.no_padding()
        backend.no_truncation()
        config = {name: getattr(pretrained, name, None) for name in ("chat_template", "bos_token", "eos_token")}
        return cls(backend, identity=_identity(backend), config=config)

    def encode(self, text: str, *, special: bool = False, added: bool = True) -> Encoded:
        """Token ids of a text.

        Args:
            special: read ``<|im_end|>`` and its like as the control token; otherwise it is ordinary text.
            added: put the tokenizer's own tokens (beginning of text) around it, marked ``special``.

        Raises:
            RequestError: for text that is no Unicode (lone surrogates), or ids that the model has no row for.
        """
        encoding = self._encode(text, special, added)
        return Encoded(encoding.ids, ["special" if mark else "text" for mark in encoding.special_tokens_mask])

    def spans(self, text: str, *, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text without additions, and the characters ``[start, end)`` that each came from."""
        encoding = self._encode(text, special, False)
        return encoding.ids, encoding.offsets

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; none for an id that the tokenizer does not use.

        A tokenizer that puts a blank before the first word has it in that word's bytes.
        """
        if token_id not in self._bytes:
            self._bytes[token_id] = self._find_bytes(token_id)
        return self._bytes[token_id]

    def token(self, token_id: int) -> str:
        """A token as text: its bytes as UTF-8, each invalid byte as ``\\xNN``; ``[unused N]`` for an unused id."""
        found = self.token_bytes(token_id)
        if not found and self._piece(token_id) is None:
            return f"[unused {token_id}]"
        return found.decode("utf-8", errors="backslashreplace")

    def single(self, text: str) -> int:
        """The id of the one token that ``text`` is.

        Raises:
            RequestError: if it is none or several, which are listed.
        """
        ids = self.encode(text, special=True, added=False).ids
        if len(ids) != 1:
            pieces = ", ".join(repr(self.token(index)) for index in ids[:20])
            raise RequestError(
                f"{text!r} is {len(ids)} tokens ({pieces}), expected exactly one. "
                "A blank before a word is part of its token: try ' word' as well as 'word'."
            )
        return ids[0]

    def _encode(self, text: str, special: bool, added: bool) -> Any:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the text holds {text[error.start]!r} at {error.start}, which is no character: expected "
                "text; bytes that are not UTF-8 come out like this, so convert them first."
            ) from error
        with self._lock:
            self._backend.encode_special_tokens = not special
            encoding = self._backend.encode(text, add_special_tokens=added)
        beyond = next((i for i in encoding.ids if i >= self.limit), None) if self.limit is not None else None
        if beyond is not None:
            raise RequestError(
                f"the text holds the token {self.token(beyond)!r} with id {beyond}, and the model has only "
                f"{self.limit} tokens: tokenizer and model do not belong together."
            )
        return encoding

    def _piece(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id) if token_id >= 0 else None

    def _find_bytes(self, token_id: int) -> bytes:
        piece = self._added.get(token_id)
        if piece is not None:
            return piece.encode("utf-8")
        piece = self._piece(token_id) or ""
        if self._unit == "bytes" and all(character in _BYTE_OF for character in piece):
            return bytes(_BYTE_OF[character] for character in piece)
        if self._unit == "words":
            if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
                return bytes([int(piece[3:5], 16)])
            piece = piece.replace("▁", " ")
        return piece.encode("utf-8")


def _byte_characters() -> dict[str, int]:
    """GPT-2's way to write any byte as a visible character: printable Latin-1 as itself, the rest from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_characters()


def _unit(backend: Any) -> str:
    """How pieces spell bytes: ``bytes`` (GPT-2's characters), ``words`` (sentencepiece), or ``text`` (as they are)."""
    for part in (backend.decoder, backend.pre_tokenizer):
        state = b"" if part is None else part.__getstate__()
        if b'"ByteLevel"' in state:
            return "bytes"
        if b'"Metaspace"' in state or b'"ByteFallback"' in state or "▁".encode() in state:
            return "words"
    return "text"


def _identity(backend: Any) -> str:
    definition = json.loads(backend.to_str())
    definition.pop("padding", None)
    definition.pop("truncation", None)
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def _template(found: Any) -> str | None:
    """The chat template; of several named ones, the one called ``default``, or else the first."""
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, Mapping)}
    if isinstance(found, Mapping):
        found = found.get("default", next(iter(found.values()), None))
    return found if isinstance(found, str) else None


def _content(token: Any) -> str | None:
    """The text of a token that a config gives as a string or as an object."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None


def _config_beside(path: Path) -> dict[str, Any]:
    """What the files beside a ``tokenizer.json`` say; nothing where there are none."""
    config: dict[str, Any] = {}
    settings, template = path.with_name("tokenizer_config.json"), path.with_name("chat_template.jinja")
    try:
        if settings.is_file() and settings.stat().st_size <= _LARGEST_FILE:
            found = json.loads(settings.read_text(encoding="utf-8"))
            config = found if isinstance(found, dict) else {}
        if template.is_file() and template.stat().st_size <= _LARGEST_FILE:
            config["chat_template"] = template.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the tokenizer's settings beside {path}: {error}.") from error
    return config


@contextmanager
def _broken(what: str) -> Generator[None]:
    """Turns whatever the tokenizers library raises while building one into a sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ModelError):
        raise
    except BaseException as error:  # a panic of the library's Rust code is no Exception
        raise ModelError(f"{what} is no usable tokenizer: {str(error)[:200]}.") from error
