"""Continue prompts, with readings of chosen layers as the tokens come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from midstream.errors import RequestError
from midstream.lens.read.reading import Readers, read_captured
from midstream.lens.read.request import Request
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import ReadingTable
from midstream.sample.generate import Options, Step, generate


@dataclass(frozen=True, eq=False)
class Piece:
    """One new token and what was read where it was chosen.

    Attributes:
        step: the token, its text and its log-probability.
        reading: the rows of the position before it, its target the token itself; None where nothing was to be read.
    """

    step: Step
    reading: ReadingTable | None


def sample(
    model: Model, prompts: Sequence[Encoded], options: Options, request: Request | None = None
) -> Iterator[Piece]:
    """Generate, token by token; with a request each token comes with its reading.

    Raises:
        RequestError: as ``generate``, and for a lens about tokens further on than the next.
    """
    ids = [prompt.ids for prompt in prompts]
    if request is None:
        return (Piece(step, None) for step in generate(model, ids, options))
    if request.edits or request.versus:
        raise RequestError("what is read while a text is generated has its edits: give them to the generation itself.")
    if far := [lens.name for lens in request.lenses if lens.offset > 1]:
        raise RequestError(f"lens {far[0]!r} reads tokens that are still to come: it has nothing to be compared with.")
    last = (model.anatomy.layers, "resid_post")
    start = (0, "resid_post")
    places = dict.fromkeys([last, start, *(place for lens in request.lenses for place in request.places(lens))])
    steps = generate(model, ids, replace(options, wanted=tuple(places)))
    return _read(model, [Encoded([*prompt.ids], [*prompt.kinds]) for prompt in prompts], steps, request)


def _read(model: Model, texts: list[Encoded], steps: Iterator[Step], request: Request) -> Iterator[Piece]:
    readers = Readers.of(model, request.lenses)
    for step in steps:
        text = texts[step.text]
        text.ids.append(step.token)
        text.kinds.append("text")
        table = read_captured(model, text, request, step.position - 1, dict(step.stream), readers)
        table.columns["doc_id"][:] = step.text
        yield Piece(step, table)


def ends_of(model: Model) -> tuple[int, ...]:
    """The ids of tokens that end a text: the tokenizer's own, and those of the model's settings for generation."""
    text = model.tokenizer.marks.get("eos_token")
    own = [] if text is None else [model.tokenizer.single(text)]
    settings = getattr(model.module, "generation_config", None)
    more = getattr(settings, "eos_token_id", None)
    return tuple(dict.fromkeys([*own, *([] if more is None else [more] if isinstance(more, int) else more)]))


def written(model: Model, tokens: Sequence[int]) -> str:
    """The text that tokens make, bytes that are no UTF-8 (yet) as ``\\ufffd``."""
    return b"".join(model.tokenizer.token_bytes(token) for token in tokens).decode("utf-8", errors="replace")
