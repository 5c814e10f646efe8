"""Messages through a model's chat template, with the template's tokens told apart from the messages' own.

A chat template is a program by the model's author. It runs in jinja's immutable sandbox, out of reach of files and
Python, but without limits on time and memory: a hostile one can take all of both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from midstream.errors import RequestError, choices
from midstream.model.tokenizer import Encoded, Tokenizer
from midstream.record import Kind

ROLES = ("system", "user", "assistant", "tool")
_MOST = 1 << 20
"""Characters of the longest template that is run."""


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> Encoded:
    """Token ids of messages in the model's chat template.

    A message's content is ordinary text: ``<|im_end|>`` in it is not the control token. The template is code of the
    model's author, run in a sandbox without limits on time and memory.

    Args:
        messages: each with ``role`` (one of ``ROLES``) and ``content``.
        reply: end with what opens the assistant's reply.

    Returns:
        ids with the kind ``template`` where they come from the template and ``text`` where from a message.

    Raises:
        RequestError: if the model has no template, or the template refuses the messages or rewrites them.
    """
    _check(tokenizer, messages)
    text, owned = _render(tokenizer, messages, reply)
    ids, spans = tokenizer.spans(text, special=True)
    if any(
        index in tokenizer.special_ids and any(owned[start:end]) for index, (start, end) in zip(ids, spans, strict=True)
    ):
        ids, spans = _by_pieces(tokenizer, text, owned)
    kinds: list[Kind] = ["text" if any(owned[start:end]) else "template" for start, end in spans]
    return Encoded(ids, kinds)


def _check(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> None:
    if not tokenizer.chat_template:
        raise RequestError("this model has no chat template: read the text as it is, without --chat.")
    if len(tokenizer.chat_template) > _MOST:
        raise RequestError(
            f"the model's chat template has {len(tokenizer.chat_template)} characters, at most {_MOST} are run."
        )
    if not messages:
        raise RequestError("there is no message: give at least one with a role and a content.")
    for message in messages:
        if not isinstance(message.get("content"), str):
            raise RequestError(f"a message needs a text as its content, not {message.get('content')!r}.")
        if message.get("role") not in ROLES:
            raise choices("role of a message", message.get("role"), ROLES)


def _render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], reply: bool) -> tuple[str, list[bool]]:
    """The text, and for every character whether it comes from a message.

    The template runs twice: on the messages, and on messages between two marks. Without the marks both must be the same
    text, so that what stands between marks is a message's. Templates often strip blanks around a message: then the
    marks stand inside them.
    """
    run = _compiled(tokenizer, reply)
    plain = run([dict(message) for message in messages])
    everything = plain + str(tokenizer.chat_template)
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in everything)
    for pattern in (r"(?s)(.*)", r"(?s)\s*(.*?)\s*"):
        marked = run([{**message, "content": _between(mark, pattern, message["content"])} for message in messages])
        pieces = marked.split(mark)
        if "".join(pieces) == plain and len(pieces) % 2:
            return plain, [index % 2 == 1 for index, piece in enumerate(pieces) for _ in piece]
    raise RequestError(
        "the model's chat template rewrites the messages, so that its own text cannot be told from theirs."
    )


def _between(mark: str, pattern: str, content: str) -> str:
    match = re.fullmatch(pattern, content)
    start, end = match.span(1) if match else (0, len(content))
    return content[:start] + mark + content[start:end] + mark + content[end:]


def _by_pieces(tokenizer: Tokenizer, text: str, owned: list[bool]) -> tuple[list[int], list[tuple[int, int]]]:
    """As ``Tokenizer.spans``, but control tokens are read only where no character is a message's."""
    marks = sorted((tokenizer.token(index) for index in tokenizer.special_ids), key=len, reverse=True)
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    found = [
        m.span() for m in re.finditer("|".join(map(re.escape, marks)), text) if not any(owned[m.start() : m.end()])
    ]
    for start, end in [*found, (len(text), len(text))]:
        for part, special in (((at, start), False), ((start, end), True)):
            part_ids, part_spans = tokenizer.spans(text[slice(*part)], special=special)
            ids += part_ids
            spans += [(part[0] + first, part[0] + last) for first, last in part_spans]
        at = end
    return ids, spans


def _compiled(tokenizer: Tokenizer, reply: bool) -> Any:
    """The template as a function of messages; set up as in transformers, which templates are written for."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def now(form: str) -> str:
        return datetime.now().strftime(form)

    def run(messages: list[dict[str, str]]) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=reply, **tokenizer.marks)
        except Exception as error:  # a template is a program: it may raise anything
            raise RequestError(f"the model's chat template refuses the messages: {str(error)[:300]}") from error

    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    own: dict[str, Any] = {"raise_exception": refuse, "strftime_now": now}
    sandbox.globals.update(own)
    try:
        template = sandbox.from_string(str(tokenizer.chat_template))
    except (TemplateError, RecursionError) as error:
        raise RequestError(f"the model's chat template is no valid Jinja: {str(error)[:300]}") from error
    return run
