"""Builds the tokenizer that a ``.gguf`` file describes, its pre-tokenizer included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midstream.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before byte-pair merges: by each pattern in turn, the pieces of one by the next.

    Attributes:
        patterns: regular expressions; what they match and what lies between become pieces.
        nfc: text is first brought into Unicode's composed form (lossy, so token bytes are those of the new text).
        bos: a beginning-of-text token is added where the file does not say.
        whole_words: a piece that is in the vocabulary is one token whatever the merges say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    bos: bool = False
    whole_words: bool = False


_GPT2_STYLE = PreTokenizer((_GPT2,))
_DIGITS_APART = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_STYLE = PreTokenizer((_WORDS % "{1,3}",), bos=True, whole_words=True)
_QWEN2_STYLE = PreTokenizer((_WORDS % "",), nfc=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": _GPT2_STYLE,
    "phi-2": _GPT2_STYLE,
    "mpt": _GPT2_STYLE,
    "olmo": _GPT2_STYLE,
    "smollm": _DIGITS_APART,
    "starcoder": _DIGITS_APART,
    "refact": _DIGITS_APART,
    "command-r": _DIGITS_APART,
    "codeshell": _DIGITS_APART,
    "llama-bpe": _LLAMA3_STYLE,
    "llama3": _LLAMA3_STYLE,
    "llama-v3": _LLAMA3_STYLE,
    "qwen2": _QWEN2_STYLE,
    "deepseek-r1-qwen": _QWEN2_STYLE,
}
"""``tokenizer.ggml.pre`` -> the pre-tokenizer it names; as in llama.cpp's src/llama-vocab.cpp."""

_CONTROL, _USER_DEFINED = 3, 4


def tokenizer_from_gguf(fields: Mapping[str, Any]) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer, and what belongs into Hugging Face's ``tokenizer_config.json`` (chat template, bos, eos).

    Raises:
        ModelError: if it is no byte-level BPE, has an unknown pre-tokenizer, or contradicts itself.
    """
    pre = _pre_tokenizer(fields)
    tokens: list[str] = _strings(fields, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _strings(fields, "tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError("the GGUF's tokenizer has the same token twice: the file is damaged.")
    if any(len(pair) != 2 or "".join(pair) not in vocabulary for pair in merges):
        raise ModelError("the GGUF's tokenizer merges pieces into tokens that it does not have: the file is damaged.")
    backend = _backend(vocabulary, merges, pre)
    _add_special(backend, tokens, fields.get("tokenizer.ggml.token_type", []))
    bos, eos = (_named(fields, tokens, name) for name in ("bos", "eos"))
    _add_ends(backend, fields, pre, (bos, eos))
    template = fields.get("tokenizer.chat_template")
    return backend, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template if isinstance(template, str) else None,
        "bos_token": bos,
        "eos_token": eos,
    }


def _pre_tokenizer(fields: Mapping[str, Any]) -> PreTokenizer:
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if not isinstance(model, str) or model != "gpt2":
        raise ModelError(
            f"the GGUF's tokenizer is of kind {model!r}; expected 'gpt2' (byte-level BPE). "
            "Load the original model by its hub name or folder instead."
        )
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise ModelError(
            f"the GGUF's tokenizer has the pre-tokenizer {pre!r}; expected one of {', '.join(PRE_TOKENIZERS)}. "
            "Load the original model by its hub name or folder instead."
        )
    return PRE_TOKENIZERS[pre]


def _backend(vocabulary: dict[str, int], merges: list[Any], pre: PreTokenizer) -> Backend:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre.whole_words))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"the GGUF's tokenizer cannot be built: {error}.") from error
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    if pre.nfc:
        backend.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    return backend


def _add_special(backend: Backend, tokens: list[str], kinds: Any) -> None:
    from tokenizers import AddedToken

    try:
        marked = [(token, int(kind)) for token, kind in zip(tokens, kinds, strict=False)]
    except (TypeError, ValueError) as error:
        raise ModelError("the GGUF's tokenizer has token types that are no numbers: the file is damaged.") from error
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in marked if kind == _CONTROL]
    )
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in marked if kind == _USER_DEFINED])


def _add_ends(
    backend: Backend, fields: Mapping[str, Any], pre: PreTokenizer, ends: tuple[str | None, str | None]
) -> None:
    """Begin and end tokens that the model's own tokenizer puts around a text."""
    from tokenizers import processors

    add_bos = fields.get("tokenizer.ggml.add_bos_token", pre.bos) is True
    add_eos = fields.get("tokenizer.ggml.add_eos_token") is True
    before, after = ends[0] if add_bos else None, ends[1] if add_eos else None
    used = [token for token in (before, after) if token is not None]
    if used:
        # a list, not a string: a token's text may hold a colon, which the string form takes for a type id
        single = [*([before] if before else []), "$A", *([after] if after else [])]
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=single, special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(used)]
        )


def _named(fields: Mapping[str, Any], tokens: list[str], name: str) -> str | None:
    index = fields.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None


def _strings(fields: Mapping[str, Any], name: str) -> list[str]:
    found = fields.get(name)
    if not isinstance(found, list) or not found:
        raise ModelError(f"the GGUF has no list {name!r}, so its tokenizer cannot be built.")
    return found
