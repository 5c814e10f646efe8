"""The tokenizer that a .gguf describes, pre-tokenizer included."""

from __future__ import annotations

import pytest
from conftest import SENTENCES, tiny_tokenizer
from gguf_fixture import write_gguf
from tiny import tiny

from midstream.errors import ModelError
from midstream.model.gguf_file import read_gguf
from midstream.model.gguf_tokenizer import PRE_TOKENIZERS, tokenizer_from_gguf
from midstream.model.tokenizer import Tokenizer

TRICKY = ["x\n\n12", "a  12", "  two", "I'll DON'T 1234567\r\n\r\n", "naïve — 北京 ½ <|im_end|>", *SENTENCES]


def fields(**changes):
    """The metadata fields of the tests' small tokenizer."""
    import json

    tokenizer = tiny_tokenizer()
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
    }
    return {**found, **{f"tokenizer.ggml.{name}": value for name, value in changes.items()}}


def built(described):
    backend, config = tokenizer_from_gguf(described)
    return Tokenizer(backend, identity="", config=config)


@pytest.mark.parametrize("text", TRICKY)
def test_gpt2_equals_the_byte_level_tokenizer_it_was_written_from(text):
    found = built(fields())
    expected = tiny_tokenizer()
    expected.encode_special_tokens = True
    assert found.encode(text).ids == expected.encode(text).ids
    assert found.encode(text, special=True).ids == tiny_tokenizer().encode(text).ids


@pytest.mark.parametrize("text", TRICKY)
def test_smollm_equals_digits_then_byte_level(text):
    """Hugging Face's own definition of SmolLM's tokenizer: digits stand alone, then GPT-2's pieces."""
    from tokenizers import pre_tokenizers

    expected = tiny_tokenizer()
    digits = pre_tokenizers.Digits(individual_digits=True)
    expected.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    found = built(fields(pre="smollm"))
    assert found.encode(text, special=True).ids == expected.encode(text).ids


def test_digits_after_blanks_stand_alone():
    """Without the pre-tokenizer of the file the last blank joins the digit (STACK.md 1)."""
    found = built(fields(pre="smollm"))
    for text in ("x\n\n12", "a  12"):
        assert [found.token(index) for index in found.encode(text).ids][-2:] == ["1", "2"]
    old = built(fields(pre="gpt-2"))
    digits_split = PRE_TOKENIZERS["smollm"].patterns[0]
    assert digits_split not in PRE_TOKENIZERS["gpt-2"].patterns
    assert len(old.encode("a  1").ids) <= len(found.encode("a  1").ids)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
@pytest.mark.parametrize("text", TRICKY)
def test_every_known_one_keeps_all_bytes(pre, text):
    found = built(fields(pre=pre))
    ids = found.encode(text, added=False).ids
    assert b"".join(map(found.token_bytes, ids)) == text.encode()


def test_llama3_adds_its_beginning_unless_the_file_says_otherwise():
    bos = fields()["tokenizer.ggml.bos_token_id"]
    assert built(fields(pre="llama-bpe")).encode("a").ids[0] == bos
    assert built(fields(pre="llama-bpe", add_bos_token=False)).encode("a").ids[0] != bos
    encoded = built(fields(add_bos_token=True)).encode("a")
    assert encoded.ids[0] == bos
    assert encoded.kinds == ["special", "text"]


def test_unknown_kinds_are_refused_with_the_list():
    with pytest.raises(ModelError, match="'tekken'; expected one of gpt-2"):
        built(fields(pre="tekken"))
    with pytest.raises(ModelError, match="kind 'llama'; expected 'gpt2'"):
        built(fields(model="llama"))


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": ["a", "a"]},
        {"tokens": None},
        {"merges": ["a b c"]},
        {"merges": ["qqq zzz"]},
        {"merges": 7},
        {"token_type": 7},
        {"token_type": ["x"]},
        {"model": ["gpt2"]},
        {"pre": ["gpt-2"]},
    ],
)
def test_contradictions_are_a_sentence(changes):
    with pytest.raises(ModelError, match="tokenizer"):
        built(fields(**changes))


def test_through_a_file(tmp_path):
    model = tiny("llama", vocab_size=tiny_tokenizer().get_vocab_size())
    file = read_gguf(write_gguf(tmp_path / "m.gguf", model, tokenizer=tiny_tokenizer(), pre="smollm"))
    assert built(file.fields).encode("a 12").ids == built(fields(pre="smollm")).encode("a 12").ids
