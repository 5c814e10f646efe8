"""transformers tokenizers that are not built on the ``tokenizers`` library, given that library's shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from midstream.errors import RequestError


@dataclass(frozen=True)
class SlowEncoding:
    """Ids of a text; 1 in the mask where the tokenizer added one."""

    ids: list[int]
    special_tokens_mask: list[int]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Not known; RequestError."""
        raise RequestError("the model's tokenizer does not say which characters a token came from: no chat with it.")


class SlowBackend:
    """The part of ``tokenizers.Tokenizer`` that midstream uses, on a transformers tokenizer written in Python."""

    decoder = SimpleNamespace(__getstate__=lambda: b'"Metaspace" "ByteFallback"')
    pre_tokenizer = None
    encode_special_tokens = False

    def __init__(self, pretrained: Any) -> None:
        """Around a transformers tokenizer."""
        self.pretrained = pretrained

    def encode(self, text: str, *, add_special_tokens: bool) -> SlowEncoding:
        """Ids of a text, with the tokenizer's own tokens around it if asked for."""
        split = {"split_special_tokens": self.encode_special_tokens}
        ids = list(self.pretrained.encode(text, add_special_tokens=False, **split))
        whole = list(self.pretrained.build_inputs_with_special_tokens(ids)) if add_special_tokens else ids
        before = next((i for i in range(len(whole)) if whole[i : i + len(ids)] == ids), 0)
        return SlowEncoding(whole, [int(not before <= i < before + len(ids)) for i in range(len(whole))])

    def id_to_token(self, token_id: int) -> str | None:
        """The piece with this id."""
        return self.pretrained.convert_ids_to_tokens(token_id) if token_id < len(self.pretrained) else None

    def get_vocab_size(self, with_added_tokens: bool) -> int:
        """Number of tokens."""
        return len(self.pretrained) if with_added_tokens else self.pretrained.vocab_size

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens by id."""
        return dict(self.pretrained.added_tokens_decoder)

    def to_str(self) -> str:
        """Its vocabulary and class, as JSON."""
        return json.dumps({"class": type(self.pretrained).__name__, "vocabulary": self.pretrained.get_vocab()})

    def no_padding(self) -> None:
        """Nothing to switch off."""

    def no_truncation(self) -> None:
        """Nothing to switch off."""
