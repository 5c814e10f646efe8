"""Score lenses: held-out documents and prompt files in, a table of estimates out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from midstream.corpus.source import Corpus, cluster_of, open_corpus
from midstream.errors import RequestError
from midstream.lens.file.find import find_all
from midstream.lens.lens import Lens
from midstream.lens.read.reading import Readers, read_chunks
from midstream.lens.read.request import Precision, Request, request
from midstream.lens.score import baseline, causal, prompts
from midstream.lens.score import causal_estimates as score_causal
from midstream.lens.score.baseline import Answers, baselines, maps
from midstream.lens.score.estimates import DocumentSums, Scored, add_up, columns, estimates
from midstream.lens.score.prompt_file import Item, load
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import Array, ScoreTable
from midstream.run import score_text
from midstream.run.provenance import provenance
from midstream.run.score_text import Given

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how much of it is done, and how much there is: ``("positions", 120, 4000)``."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a user may ask of a score.

    Attributes:
        tokens: that are read of each document, its first ones.
        positions: read in all, spread evenly over documents and within each.
        layers, every: layers to read, as for a reading; None: all.
        where: conditions ``FIELD=VALUE`` on the documents of a file.
        cluster: field of the documents of a file that says which belong together; None: ``work``, or the document.
        unseen: leave out documents that a lens was fitted on, instead of refusing them.
        prompts: prompt files, for pass@k.
        strip: take the blanks off the end of each prompt.
        causal: give the causal score too.
        precision: ``exact`` or ``fast``.
        seed: of bootstraps, permutations and the causal score's draws.
    """

    tokens: int = 256
    positions: int = 4000
    layers: int | Iterable[int] | None = None
    every: int = 1
    where: Sequence[str] = ()
    cluster: str | None = None
    unseen: bool = False
    prompts: Sequence[str | Path] = ()
    strip: bool = False
    causal: bool = False
    precision: Precision = "exact"
    seed: int = 0


def score(
    model: Model,
    lenses: Sequence[str | Path | Lens],
    corpus: str | Path | Corpus | Iterable[Given] | None,
    options: ScoreOptions | None = None,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> ScoreTable:
    """What lenses are good for, on documents that none of them was fitted on, and on prompts.

    Args:
        lenses: names, files or lenses; differences are those of each less every comparable one after it.
        corpus: a file of documents, or documents each with its cluster; None: prompts only.
        progress: called as the work goes on.

    Raises:
        RequestError: a lens was fitted on some of the documents, nothing is left to read, or an option is wrong.
    """
    job = _plan(model, lenses, corpus, options or ScoreOptions(), progress or _silent)
    rows: list[Scored] = []
    notes = [note for lens in job.lenses for note in lens.about.get("notes", ())]
    settings: dict[str, Any] = {"layers": list(job.wanted.layers)}
    digest = ""
    if job.source is not None:
        rows, text = job.text()
        notes, settings, digest = notes + text.notes, settings | text.settings, text.digest
    for name, items in job.files.items():
        found = job.prompts(items, name)
        rows += prompts.estimates(found, name, job.lenses, seed=job.options.seed)
        notes += prompts.notes(found, name, strip=job.options.strip)
    made = replace(
        provenance(model, job.wanted, [], command),
        lenses={lens.name: lens.digest for lens in job.lenses},
        corpus=digest,
        seed=job.options.seed,
        settings=settings,
    )
    return ScoreTable(columns(rows), made, tuple(notes), model.anatomy.layers)


def _plan(
    model: Model,
    lenses: Sequence[str | Path | Lens],
    corpus: str | Path | Corpus | Iterable[Given] | None,
    options: ScoreOptions,
    progress: Progress,
) -> _Job:
    """Everything that can be wrong, checked before anything runs."""
    if corpus is None and not options.prompts:
        raise RequestError("nothing to score on: expected a corpus (--corpus FILE), prompts (--prompts FILE), or both.")
    if corpus is None and options.causal:
        raise RequestError("the causal score moves the stream in running text: expected a corpus (--corpus FILE).")
    if min(options.tokens, options.positions) < 1:
        raise RequestError(
            f"{options.positions} positions of the first {options.tokens} tokens: expected one or more of each."
        )
    if not 0 <= options.seed < 1 << 63:
        raise RequestError(f"the seed is {options.seed}: expected a number from 0 to {(1 << 63) - 1}.")
    files = {"-".join(Path(path).stem.split()): load(path) for path in options.prompts}
    if len(files) < len(options.prompts):
        raise RequestError(f"two prompt files of one name among {', '.join(files)}: each needs its own.")
    source = open_corpus(corpus, where=options.where) if isinstance(corpus, (str, Path)) else corpus
    chosen = find_all(model, lenses)
    if options.prompts and (rows := [lens.name for lens in chosen if lens.source != "stream"]):
        raise RequestError(f"{rows[0]!r} reads input rows, not the stream: it has no pass@k; score it without prompts.")
    if options.causal and not any(map(causal.suits, chosen)):
        raise RequestError("none of the lenses has a causal score: expected one about the next token, such as logit.")
    wanted = request(
        model,
        {
            "lens": [*chosen, *maps(chosen)],
            "layers": options.layers,
            "every": options.every,
            "top_k": 1,
            "precision": options.precision,
            "seed": options.seed,
        },
    )
    return _Job(model, chosen, wanted, source, files, options, progress)


def _silent(_counted: str, _done: int, _of: int) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class _Text:
    """What was said of the text that was scored."""

    notes: list[str]
    settings: dict[str, Any]
    digest: str


@dataclass(frozen=True, eq=False)
class _Job:
    """A score that can be made: names resolved, files read, options checked."""

    model: Model
    lenses: tuple[Lens, ...]
    wanted: Request
    source: Corpus | Iterable[Given] | None
    files: dict[str, list[Item]]
    options: ScoreOptions
    progress: Progress

    def text(self) -> tuple[list[Scored], _Text]:
        """The estimates from the corpus, and what was read of it."""
        options, span = self.options, score_text.Span.of(self.lenses, self.options.tokens)
        found = score_text.find(self.model, self._documents(), self.lenses, span, most=options.positions)
        score_text.check(found, span, unseen=options.unseen)
        chosen = score_text.spread([span.room(held.ids) for held in found.held], options.positions)
        taken = [
            (held.cluster, held.ids.astype(np.int64), at + span.before)
            for held, at in zip(found.held, chosen, strict=True)
            if len(at)
        ]
        said = score_text.notes(found, span, [(cluster, len(at)) for cluster, _, at in taken])
        said += baseline.notes(self.lenses)
        said += [
            f"{lens.name!r} does not say which text it was fitted on: it may have seen this."
            for lens in self.lenses
            if lens.transports and "documents" not in lens.about
        ]
        moved = self._causal([(cluster, ids) for cluster, ids, _ in taken], said) if options.causal else []
        documents = list(self._read(taken, span.ahead))
        rows = estimates(documents, self.lenses, baselines(self.lenses), last=self.last, seed=options.seed) + moved
        if isinstance(self.source, Corpus) and (skipped := str(self.source.skipped)):
            said.append(f"Not counted among them: {skipped}.")
        return rows, _Text(said, score_text.settings(found, span, options.positions), found.digest)

    def prompts(self, items: Sequence[Item], name: str) -> prompts.PromptScores:
        """The ranks of what one prompt file asks for."""
        return prompts.score(
            self.model,
            self.lenses,
            items,
            wanted=self.wanted,
            strip=self.options.strip,
            progress=lambda done: self.progress(f"prompts of {name}", done, len(items)),
        )

    def _causal(self, documents: Sequence[tuple[str, Array]], said: list[str]) -> list[Scored]:
        """The causal score on prefixes of documents evenly spaced among those long enough."""
        long = [(cluster, ids[: causal.PREFIX].tolist()) for cluster, ids in documents if len(ids) >= causal.PREFIX]
        count = min(causal.PREFIXES, len(long))
        taken = [long[number * len(long) // count] for number in range(count)]
        texts = [ids for _, ids in taken]
        lenses = [lens for lens in self.lenses if causal.suits(lens)]
        whole = self.options.layers is None and self.options.every == 1
        found = {
            lens.name: causal.causal(
                self.model,
                lens,
                texts,
                layers=None if whole else [layer for layer, _ in self.wanted.places(lens) if layer < self.last],
                seed=self.options.seed,
                progress=lambda done, name=lens.name: self.progress(f"prefixes for {name}", done, count),
            )
            for lens in lenses
        }
        said.append(
            f"causal score: {count:,} prefixes of {causal.PREFIX} tokens, one a document; {len(lenses)} lenses."
        )
        return score_causal.estimates(found, lenses, [cluster for cluster, _ in taken], seed=self.options.seed)

    @property
    def last(self) -> int:
        """The last layer, L."""
        return self.model.anatomy.layers

    def _documents(self) -> Iterator[Given]:
        if isinstance(self.source, Corpus):
            return ((document, cluster_of(document, self.options.cluster)) for document in self.source)
        return iter(self.source or ())

    def _read(self, taken: Sequence[tuple[str, Array, Array]], ahead: int) -> Iterator[DocumentSums]:
        answers = Answers(self.lenses, [(ids, at) for _, ids, at in taken])
        done, total = 0, sum(len(at) for _, _, at in taken)
        readers = Readers.of(self.model, self.wanted.lenses, positions=total)
        for cluster, every, at in taken:
            ids = every[: at[-1] + ahead + 1]
            encoded = Encoded(ids.tolist(), ["text"] * len(ids))
            named = answers.named(ids)
            tables = list(read_chunks(self.model, encoded, self.wanted, named=named, positions=at, readers=readers))
            yield add_up(cluster, tables, answers.values(ids, at, tables))
            done += len(at)
            self.progress("positions", done, total)
