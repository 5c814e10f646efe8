"""A continuation with edits, and beside it, token by token, the one without."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from midstream.errors import RequestError
from midstream.model.model import Model
from midstream.run.anchor_spec import anchor_of
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.sample import ends_of
from midstream.sample.generate import Options, Step, generate

EDITED, PLAIN = "edited", "plain"


@dataclass(frozen=True)
class New:
    """One new token.

    Attributes:
        branch: ``edited`` or ``plain``.
        text: what can be written of it: bytes of a character wait for the rest of it.
        logprob: under the model that chose it, nats.
        ended: why the continuation ends here, as ``sample.generate.Step``; empty where it goes on.
    """

    branch: str
    token: int
    text: str
    logprob: float
    ended: str


def continued(model: Model, prompt: str, options: Options, edits: Sequence[str], anchor: str) -> Iterator[New]:
    """Both continuations in turn; only the plain one where there is nothing to edit. Draws are those of equal seeds.

    Args:
        options: how to go on; where the model's texts end is added.
        edits, anchor: texts as ``run.edit_spec`` and ``run.anchor_spec`` say, empty for none.

    Raises RequestError for an empty prompt, and for what does not fit the model.
    """
    encoded = model.tokenizer.encode(prompt)
    if not encoded.ids:
        raise RequestError("the text is empty: expected at least one token to continue.")
    plain = replace(options, ends=ends_of(model))
    branches = {PLAIN: plain}
    if edits or anchor:
        setting = Setting(model, encoded.ids, generated=True)  # random vectors are those of a reading
        made = tuple(edits_of(setting, list(edits)))
        branches = {
            EDITED: replace(plain, edits=made, anchor=anchor_of(model, anchor) if anchor else None),
            PLAIN: plain,
        }
    return _in_turn(model, {name: generate(model, [encoded.ids], chosen) for name, chosen in branches.items()})


def _in_turn(model: Model, branches: dict[str, Iterator[Step]]) -> Iterator[New]:
    writers = {name: codecs.getincrementaldecoder("utf-8")(errors="replace") for name in branches}
    while branches:
        for name in list(branches):
            step = next(branches[name], None)
            if step is None:
                del branches[name]
                continue
            bytes_ = b"" if step.ended == "end" else model.tokenizer.token_bytes(step.token)
            text = writers[name].decode(bytes_, final=bool(step.ended))
            yield New(name, step.token, text, step.logprob, step.ended)
