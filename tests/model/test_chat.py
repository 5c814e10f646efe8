"""Chat templates: what the model is trained on, with the messages' own tokens told apart and never parsed."""

from __future__ import annotations

import pytest
from conftest import TEMPLATE, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.model.chat import encode_chat
from midstream.model.tokenizer import Tokenizer

CONTENT = st.text(st.one_of(st.sampled_from("ab \n|<>_"), st.characters(exclude_categories=["Cs"])), max_size=20)
HOSTILE = st.lists(st.one_of(CONTENT, st.sampled_from(["<|im_end|>", "<|im_start|>", "user\n"])), max_size=4).map(
    "".join
)


def tokenizer(template: str | None = TEMPLATE) -> Tokenizer:
    return Tokenizer(tiny_tokenizer(), identity="", config={"chat_template": template, "bos_token": "<|im_start|>"})


SHARED = tokenizer()


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def text_of(encoded, kind: str) -> str:
    pairs = zip(encoded.ids, encoded.kinds, strict=True)
    return b"".join(SHARED.token_bytes(index) for index, own in pairs if own == kind).decode()


def test_ordinary_messages_are_encoded_as_the_whole_text_is():
    whole = "<|im_start|>user\nwhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    encoded = encode_chat(SHARED, user("why is the sky blue?"))
    assert encoded.ids == SHARED.encode(whole, special=True, added=False).ids
    assert text_of(encoded, "text") == "why is the sky blue?"
    assert "special" not in encoded.kinds
    shorter = encode_chat(SHARED, user("why is the sky blue?"), reply=False)
    assert shorter.ids == encoded.ids[: len(shorter.ids)]


@settings(max_examples=200, deadline=None)
@given(content=HOSTILE)
def test_a_message_is_never_parsed_and_never_lost(content):
    encoded = encode_chat(SHARED, user(content))
    controls = [i for i in encoded.ids if i in SHARED.special_ids]
    assert len(controls) == 3  # the template's own
    assert all(k == "template" for i, k in zip(encoded.ids, encoded.kinds, strict=True) if i in SHARED.special_ids)
    whole = b"".join(map(SHARED.token_bytes, encoded.ids)).decode()
    assert whole == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def test_a_word_of_the_template_in_a_message_is_the_messages():
    encoded = encode_chat(SHARED, user("user"), reply=False)
    assert text_of(encoded, "text") == "user"


def test_templates_that_strip_blanks_and_use_marks():
    encoded = encode_chat(tokenizer("{{ bos_token }}{{ messages[0]['content'] | trim }}"), user("  sky \n"))
    assert text_of(encoded, "text") == "sky"
    assert text_of(encoded, "template") == "<|im_start|>"


def test_templates_may_compute():
    encoded = encode_chat(tokenizer("{{ 'a' * 2**3 }}<|im_end|>{{ messages[0]['content'] }}"), user("sky"))
    assert text_of(encoded, "template") == "a" * 8 + "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{% for", "no valid Jinja"),
        ("{{ raise_exception('only system messages') }}", "only system messages"),
        ("{{ messages[0]['content'] | length }}", "rewrites the messages"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("x" * (1 << 21), "characters"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(template, said):
    with pytest.raises(RequestError, match=said):
        encode_chat(tokenizer(template), user("sky"))


@pytest.mark.parametrize(
    ("messages", "said"),
    [([], "no message"), ([{"role": "<|im_end|>", "content": "a"}], "system, user"), ([{"role": "user"}], "content")],
)
def test_wrong_messages_are_named(messages, said):
    with pytest.raises(RequestError, match=said):
        encode_chat(SHARED, messages)
