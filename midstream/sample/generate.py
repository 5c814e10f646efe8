"""Generation: our own small loop over the model's cache, with edits and anchors, that yields as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.forward import held, new_cache, rewind
from midstream.model.model import Model
from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader, output_reader
from midstream.readout.sums import finish
from midstream.sample.anchor import Anchor, cache_of, check
from midstream.sample.choose import Choice
from midstream.stream.capture import capture_sites
from midstream.stream.edit import Edit, verify, within
from midstream.stream.site import Place


@dataclass(frozen=True, eq=False)
class Options:
    """How to generate.

    Attributes:
        tokens: new ones at most, of each text.
        stop: texts at which one ends; the tokens that make it are kept.
        ends: ids of tokens at which one ends, such as the model's end of text; kept as well.
        seed: of every draw, 0 to 2^31 - 1; each text has its own generator, made from the seed and its index.
        edits: changes to the stream, their positions those of each text (``new``: what is generated).
        anchor: moves what lies behind each generated token towards it.
        wanted: places whose stream is handed out with each token: the one that it was chosen from.
        cached: keep keys and values; otherwise every token runs the whole text again.
    """

    tokens: int = 50
    choice: Choice = field(default_factory=Choice)
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    seed: int = 0
    edits: tuple[Edit, ...] = ()
    anchor: Anchor | None = None
    wanted: tuple[Place, ...] = ()
    cached: bool = True


@dataclass(frozen=True, eq=False)
class Step:
    """One new token of one text.

    Attributes:
        text: index of the prompt.
        position: of the token, from the start of its prompt.
        token: its id.
        logprob: under the model's own distribution, no choice applied, nats.
        stream: place -> ``[d]``, the stream at the position before it.
        ended: why its text ends here: ``stop``, ``end``, ``length`` (as many as were asked for), ``context`` (the model
            has no room for more); empty where it goes on.
    """

    text: int
    position: int
    token: int
    logprob: float
    stream: dict[Place, Tensor]
    ended: str = ""


def generate(model: Model, prompts: Sequence[Sequence[int]], options: Options) -> Iterator[Step]:
    """Continue prompts, one step a token, those of equal length in a batch: no text is padded.

    Args:
        prompts: token ids, at least one each.

    Yields the steps of a batch in the order of its texts, token by token; then the next batch.

    Raises:
        RequestError: before anything runs: an empty prompt, one that leaves no room in the context, an edit or anchor
            that does not fit.
    """
    _check(model, prompts, options)
    return _steps(model, prompts, options)


def _steps(model: Model, prompts: Sequence[Sequence[int]], options: Options) -> Iterator[Step]:
    reader = output_reader(model.anatomy)
    lengths: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(index)
    for indices in lengths.values():
        yield from _Batch(model, reader, options, indices, [list(prompts[index]) for index in indices]).steps()


def _check(model: Model, prompts: Sequence[Sequence[int]], options: Options) -> None:
    if not isinstance(options.tokens, int) or options.tokens < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"{options.tokens!r} tokens are to be generated: expected a whole number of 1 or more.")
    if not isinstance(options.seed, int) or not 0 <= options.seed < 2**31:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"the seed is {options.seed!r}: expected a whole number from 0 to {2**31 - 1}.")
    if not all(isinstance(stop, str) and stop for stop in options.stop):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"the texts to stop at are {options.stop!r}: expected texts of one character or more.")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise RequestError(f"prompt {number + 1} is empty: expected at least one token to continue.")
        if len(prompt) >= model.context:
            raise RequestError(
                f"prompt {number + 1} has {len(prompt):,} tokens and fills the model's context of {model.context:,}: "
                "there is no room to continue it; give a shorter one."
            )
        verify(model.anatomy, options.edits, len(prompt), generated=True)
    if options.anchor is not None:
        check(model, options.anchor)
        if not options.cached:
            raise RequestError("an anchor works on the cache: leave it on.")


@dataclass(eq=False)
class _Batch:
    """Texts of equal length on their way; ``texts`` grow."""

    model: Model
    reader: Reader
    options: Options
    indices: list[int]
    texts: list[list[int]]
    prompt: int = field(init=False)
    logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.texts[0])
        seeds = (self.options.seed * 1_000_003 + index for index in self.indices)
        self.generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
        self.ended = [""] * len(self.texts)

    def steps(self) -> Iterator[Step]:
        final = (self.model.anatomy.layers, "resid_post")
        places = list(dict.fromkeys([*self.options.wanted, final]))
        cache = self._cache()
        surprise: Tensor | None = None
        while not all(self.ended):
            stream = {place: h[:, -1] for place, h in self._pass(cache, places, surprise).items()}
            with full_float32():
                x = self.reader.prepare(stream[final])
                every = slice(0, len(self.reader.weight))
                logits = finish(product(x, self.reader.weight), self.reader, torch.ones(len(x)), every)
            if not bool(torch.isfinite(logits).all()):
                raise RequestError(
                    f"the model's output at position {len(self.texts[0]) - 1} holds NaN or infinity: nothing can be "
                    "chosen from it; a smaller edit or another dtype may help."
                )
            tokens = self.options.choice.pick(logits, self.texts, self.generators)
            logprob = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            surprise = -logprob
            yield from self._taken(tokens.tolist(), logprob.tolist(), stream)

    def _cache(self) -> object | None:
        if self.options.anchor is not None:
            return cache_of(self.model)
        return new_cache(self.model.module, self.model.anatomy) if self.options.cached else None

    def _pass(self, cache: object | None, places: list[Place], surprise: Tensor | None) -> dict[Place, Tensor]:
        """The stream of what is not in the cache yet; with an anchor the last position but one is moved first."""
        start, stop, anchor = held(cache), len(self.texts[0]), self.options.anchor
        ids = torch.tensor([text[start:] for text in self.texts], device=self.model.device)
        edits = within(self.options.edits, start, stop, self.prompt)
        if anchor is not None and surprise is not None:
            chosen = (surprise > anchor.surprise)[:, None] if anchor.surprise > 0 else torch.ones(len(ids), 1).bool()
            edits += anchor.edits(self.model.anatomy, ids[:, -1:], chosen, (stop - start - 2,))
        stream = capture_sites(self.model, ids, places, cache=cache, edits=edits)
        if anchor is not None:
            assert cache is not None
            rewind(cache, 1)
        return stream

    def _taken(self, tokens: list[int], logprobs: list[float], stream: dict[Place, Tensor]) -> Iterator[Step]:
        for row, text in enumerate(self.texts):
            going = not self.ended[row]
            text.append(tokens[row])
            if going:
                self.ended[row] = self._why(text)
                at = {place: stream[place][row] for place in self.options.wanted}
                yield Step(self.indices[row], len(text) - 1, tokens[row], logprobs[row], at, self.ended[row])

    def _why(self, text: list[int]) -> str:
        """Why a text ends after its last token; empty where it does not."""
        new = text[self.prompt :]
        if text[-1] in self.options.ends:
            return "end"
        if self.options.stop:
            longest = max(len(stop.encode()) for stop in self.options.stop)
            written = b"".join(self.model.tokenizer.token_bytes(token) for token in new[-longest:])
            if any(stop.encode() in written for stop in self.options.stop):
                return "stop"
        if len(new) >= self.options.tokens:
            return "length"
        return "context" if len(text) >= self.model.context else ""
