"""Tokens and bytes: exact in both directions, whatever the text."""

from __future__ import annotations

import json
from functools import cache
from types import MappingProxyType

import pytest
from conftest import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import ModelError, RequestError
from midstream.model.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    return Tokenizer.from_file(path)


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """As Llama 2's: words with ▁, and bytes for what is not in the vocabulary."""
    from tokenizers import AddedToken, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as Backend

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab"]
    merges = [("▁", "a"), ("▁a", "b")]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in ("<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    return Tokenizer(backend, identity="")


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_byte_level_tokens_are_the_bytes_of_the_text(byte_level, text):
    ids = byte_level.encode(text).ids
    assert b"".join(byte_level.token_bytes(index) for index in ids) == text.encode()


@settings(max_examples=200, deadline=None)
@given(text=TEXT.filter(lambda text: text and "▁" not in text))
def test_sentencepiece_tokens_are_the_bytes_after_one_blank(sentencepiece, text):
    ids = sentencepiece.encode(text, added=False).ids
    assert b"".join(sentencepiece.token_bytes(index) for index in ids) == b" " + text.encode()


def test_control_tokens_in_a_text_are_text_unless_asked_for(byte_level):
    end = byte_level.single("<|im_end|>")
    assert end in byte_level.special_ids
    text = "a<|im_end|>b"
    plain, parsed = byte_level.encode(text), byte_level.encode(text, special=True)
    assert end not in plain.ids
    assert parsed.ids.count(end) == 1
    assert set(parsed.kinds) == {"text"}
    for encoded in (plain, parsed):
        assert b"".join(map(byte_level.token_bytes, encoded.ids)) == text.encode()


def test_the_tokenizers_own_tokens_are_marked_and_can_be_left_out(sentencepiece):
    with_bos = sentencepiece.encode("ab")
    assert with_bos.ids[0] == 1
    assert with_bos.kinds == ["special"] + ["text"] * (len(with_bos.ids) - 1)
    without = sentencepiece.encode("ab", added=False)
    assert without.ids == with_bos.ids[1:]
    assert "special" not in without.kinds


def test_half_a_character_is_shown_as_its_byte(byte_level):
    halves = [byte_level.token(index) for index in byte_level.encode("é").ids]
    assert halves == ["\\xc3", "\\xa9"]


def test_single_wants_one_token_and_lists_what_it_got(byte_level):
    assert byte_level.token(byte_level.single(" Paris")) == " Paris"
    with pytest.raises(RequestError, match="' Paris', ' is'"):
        byte_level.single(" Paris is")
    with pytest.raises(RequestError, match="0 tokens"):
        byte_level.single("")


def test_ids_without_a_token(byte_level):
    assert byte_level.token_bytes(byte_level.vocabulary) == b""
    assert byte_level.token(byte_level.vocabulary) == f"[unused {byte_level.vocabulary}]"


def test_ids_beyond_the_models_rows_are_refused(byte_level):
    limited = Tokenizer.from_transformers(_fast())
    limited.limit = 256
    assert limited.encode("zq").ids
    with pytest.raises(RequestError, match="do not belong together"):
        limited.encode(" Paris")


def test_lone_surrogates_are_refused(byte_level):
    with pytest.raises(RequestError, match="no character"):
        byte_level.encode("a\ud800")


def test_a_transformers_tokenizer_gives_the_same_and_is_left_as_it_was(byte_level):
    fast = _fast()
    fast.backend_tokenizer.enable_truncation(3)
    ours = Tokenizer.from_transformers(fast)
    text = "The capital of France is <|im_end|> Paris"
    assert ours.encode(text).ids == byte_level.encode(text).ids
    assert ours.identity == Tokenizer.from_transformers(_fast()).identity
    assert fast.backend_tokenizer.truncation["max_length"] == 3
    assert not fast.backend_tokenizer.encode_special_tokens
    assert ours.chat_template == "x"


def test_named_templates_and_token_objects(tmp_path):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    templates = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]
    config = {"chat_template": templates, "bos_token": {"content": "<|im_start|>"}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert found.chat_template == "yes"
    assert found.marks == {"bos_token": "<|im_start|>"}
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").chat_template == "file"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    whole = definition()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(data.draw(st.sampled_from([whole[:cut], whole[:cut] + b"\x00" + whole[cut + 1 :], b"[]", b"{}"])))
    with pytest.raises(ModelError):
        Tokenizer.from_file(path)
    with pytest.raises(ModelError):
        Tokenizer.from_file(path.with_name("missing.json"))


def test_an_object_that_is_no_tokenizer_is_named():
    with pytest.raises(ModelError, match="type int"):
        Tokenizer.from_transformers(3)


class Slow:
    """A transformers tokenizer written in Python, as far as midstream looks at it: one token a character."""

    chat_template = None
    bos_token = "<s>"
    vocab_size = 128
    added_tokens_decoder = MappingProxyType({})

    def __len__(self):
        return 128

    def encode(self, text, add_special_tokens, split_special_tokens):
        return [ord(character) for character in text]

    def build_inputs_with_special_tokens(self, ids):
        return [1, *ids, 2]

    def convert_ids_to_tokens(self, index):
        return "▁" if index == 32 else chr(index)

    def get_vocab(self):
        return {self.convert_ids_to_tokens(index): index for index in range(128)}


def test_a_tokenizer_written_in_python():
    slow = Tokenizer.from_transformers(Slow())
    encoded = slow.encode("a b")
    assert encoded.ids == [1, 97, 32, 98, 2]
    assert encoded.kinds == ["special", "text", "text", "text", "special"]
    assert slow.token_bytes(32) == b" "
    with pytest.raises(RequestError, match="no chat"):
        slow.spans("a")


@cache
def definition() -> bytes:
    return tiny_tokenizer().to_str().encode()


def _fast():
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())
    fast.chat_template = "x"
    return fast
