"""``midstream sample``: continue a text, with edits and anchors, showing what layers read as it goes."""

from __future__ import annotations

import codecs
import json
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from midstream.cli.options import (
    Device,
    Dtype,
    EditTexts,
    EngineName,
    Every,
    Layers,
    ModelName,
    load_model,
    say_notes,
)
from midstream.cli.read import text_of
from midstream.errors import RequestError
from midstream.run.numbers import numbers

if TYPE_CHECKING:
    from midstream.lens.read.request import Request
    from midstream.model.model import Model
    from midstream.model.tokenizer import Encoded
    from midstream.run.sample import Piece
    from midstream.sample.generate import Options

SHOWN = 8
"""Layers beside each token where none are named."""


def sample(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Continue this UTF-8 file instead; - is standard input.")
    ] = None,
    model: ModelName = None,
    tokens: Annotated[int, typer.Option("--tokens", help="New tokens at most.")] = 50,
    temperature: Annotated[float, typer.Option("--temperature", help="0: the best token; 1: as the model says.")] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from the k best tokens.")] = None,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the best that reach this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Draw from those with this share of the best's.")] = 0.0,
    penalty: Annotated[float, typer.Option("--repetition-penalty", help="Of tokens already there; 1: none.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End at this text; may be given again.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw: the same seed gives the same tokens.")] = 0,
    edit: EditTexts = None,
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="LAYER:STRENGTH, as docs/sample.md says.", show_default=False)
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="Beside each token what layers read before it.")] = False,
    lens: Annotated[
        list[str] | None, typer.Option("--lens", help="With --read: as for midstream read; logit without it.")
    ] = None,
    layers: Layers = None,
    every: Every = 1,
    chat: Annotated[bool, typer.Option("--chat", help="Put the text in the model's chat template.")] = False,
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="text as it comes, or one JSON document at the end.")
    ] = "text",
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Continue a text: greedy or drawn, with edits of the stream, showing readings as it goes."""
    given = text_of(prompt, file)
    if not given:
        raise RequestError("the prompt is empty: expected at least one token to continue.")
    from midstream.sample.choose import Choice

    choice = Choice(temperature, top_k, top_p, min_p, penalty)
    if choice.note:
        print(f"midstream: {choice.note}", file=sys.stderr)
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)
    from midstream.run.anchor_spec import anchor_of
    from midstream.run.edit_spec import edits_of
    from midstream.run.edit_vector import Setting
    from midstream.run.sample import ends_of
    from midstream.sample.generate import Options

    encoded = _encoded(loaded, given, chat)
    edits = edits_of(Setting(loaded, encoded.ids, generated=True, seed=seed), edit or [])
    moved = None if anchor is None else anchor_of(loaded, anchor)
    options = Options(tokens, choice, tuple(stop or ()), ends_of(loaded), seed, tuple(edits), moved)
    if not read and (lens or layers or every > 1):
        raise RequestError("lenses or layers were named, and nothing is read: add --read, or leave them out.")
    request = _request(loaded, lens, layers, every) if read else None
    shown = _Shown(loaded, encoded, options, request, output == "json")
    shown.run()


def _encoded(model: Model, text: str, chat: bool) -> Encoded:
    if chat:
        from midstream.model.chat import encode_chat

        return encode_chat(model.tokenizer, [{"role": "user", "content": text}], reply=True)
    return model.tokenizer.encode(text)


def _request(model: Model, lens: list[str] | None, layers: str | None, every: int) -> Request:
    from midstream.lens.read.request import request

    last = model.anatomy.layers
    chosen = numbers("layers", layers) if layers else range(last + 1) if every > 1 else _spread(last)
    wanted = request(model, {"lens": lens or "logit", "layers": chosen, "every": every, "top_k": 5})
    say_notes(wanted.lenses)
    return wanted


def _spread(last: int) -> list[int]:
    """A few layers evenly over all, the last among them."""
    count = min(SHOWN, last + 1)
    return sorted({round(place * last / max(count - 1, 1)) for place in range(count)})


@dataclass(eq=False)
class _Shown:
    """Tokens as they come, on standard output, or kept for one document."""

    model: Model
    prompt: Encoded
    options: Options
    request: Request | None
    json: bool
    pieces: list[Piece] = field(default_factory=list)
    ended: str = "interrupted"

    def run(self) -> None:
        """What was made before an interruption is shown, and the interruption goes on."""
        from midstream.run.sample import sample

        pieces = sample(self.model, [self.prompt], self.options, self.request)
        try:
            for piece in pieces:
                self.pieces.append(piece)
                self.ended = piece.step.ended or self.ended
                if not self.json:
                    sys.stdout.write(self._line(piece) if self.request else next(self._text))
                    sys.stdout.flush()
        finally:
            if self.json:
                print(json.dumps(self._document(), ensure_ascii=False, allow_nan=False))
            elif self.pieces and not self.request:
                print()

    def __post_init__(self) -> None:
        self._text = self._texts()

    def _texts(self) -> Iterator[str]:
        """The text of each piece as it comes; bytes of a character wait for the rest of it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            step = self.pieces[-1].step
            new = b"" if step.ended == "end" else self.model.tokenizer.token_bytes(step.token)
            yield visible(decoder.decode(new, final=bool(step.ended)))

    def _line(self, piece: Piece) -> str:
        """The token, its log-probability, and the best token of each layer read."""
        from shutil import get_terminal_size

        from midstream.view.sample_line import header, line

        assert piece.reading is not None
        width = get_terminal_size().columns
        head = header(piece.reading, width) if len(self.pieces) == 1 else ""
        return head + line(piece.reading, piece.step.token, piece.step.logprob, width)

    def _document(self) -> dict[str, Any]:
        from midstream.run.sample import written
        from midstream.stream.edit_file import stated

        tokens = [piece.step.token for piece in self.pieces]
        options, anchor = self.options, self.options.anchor
        settings = {
            "tokens": options.tokens, **asdict(options.choice), "stop": options.stop, "seed": options.seed,
            "edits": stated(options.edits),
            "anchor": anchor and {name: getattr(anchor, name) for name in ANCHOR},
        }  # fmt: skip
        readings = [json.loads(piece.reading.json())["columns"] for piece in self.pieces if piece.reading]
        return {
            "schema": 1,
            "model": self.model.name,
            "identity": self.model.fingerprint.identity,
            "command": shlex.join(["midstream", *sys.argv[1:]]),
            "settings": settings,
            "prompt_ids": self.prompt.ids,
            "text": written(self.model, tokens[:-1] if self.ended == "end" else tokens),
            "ended": self.ended,
            "tokens": [
                {"id": step.token, "text": self.model.tokenizer.token(step.token), "position": step.position,
                 "logprob": step.logprob}
                for step in (piece.step for piece in self.pieces)
            ],
            "readings": {name: [cell for part in readings for cell in part[name]] for name in readings[0]}
            if readings else None,
        }  # fmt: skip


ANCHOR = ("layer", "alpha", "name", "keep_norm", "every_layer", "surprise")
"""What a document says of an anchor."""


def visible(text: str) -> str:
    """Text as a terminal may show it: what would move its cursor or turn its text around is spelled out."""
    return "".join(char if char in "\n\t" or not _moves(char) else ascii(char)[1:-1] for char in text)


def _moves(char: str) -> bool:
    kind = unicodedata.category(char)
    turning = unicodedata.bidirectional(char) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    return kind in ("Cc", "Cs", "Zl", "Zp") or turning
