"""The row types of every result, with their units; numpy only, so that views and stores need no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from midstream.errors import MissingPackageError

SCHEMA = 1
"""Version of the columns below; a file of another version is refused, not guessed at."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One declared column of a table: its numpy dtype, whether it may be undefined, its unit and meaning."""

    name: str
    dtype: str
    nullable: bool
    unit: str
    meaning: str


READING: tuple[Column, ...] = (
    Column("doc_id", "int32", False, "", "order of the document in the corpus"),
    Column("position", "int32", False, "tokens", "from the document's first token, added special tokens included"),
    Column("context", "int32", False, "tokens", "tokens before this one in the window it was read in"),
    Column("token_id", "int32", False, "", "the token read at this position"),
    Column("token", "str", False, "", "its bytes as UTF-8, each invalid byte as \\xNN"),
    Column("layer", "int16", False, "", "0 = what enters block 1, L = after the last block"),
    Column("site", "str", False, "", "resid_post, resid_mid, attn_out or mlp_out"),
    Column("lens", "str", False, "", "name of the lens"),
    Column("offset", "int16", False, "tokens", "the reading is about the token at position + offset"),
    Column("target_id", "int32", True, "", "that token; null outside the document"),
    Column("logprob", "float32", True, "nats", "log-probability of the target"),
    Column("rank", "int32", True, "", "rank of the target, 1 = best"),
    Column("lse", "float32", True, "nats", "log-sum-exp of the logits: logit = log-probability + lse"),
    Column("entropy", "float32", True, "nats", "entropy of the reading"),
    Column("kl_final_lens", "float32", True, "nats", "KL(model's output || reading)"),
    Column("kl_lens_final", "float32", True, "nats", "KL(reading || model's output)"),
    Column("final_top1_rank", "int32", True, "", "rank of the token that the model's output puts first"),
    Column("final_top1_logprob", "float32", True, "nats", "log-probability of that token"),
    Column("input_rank", "int32", True, "", "rank of the token read at this position"),
    Column("input_logprob", "float32", True, "nats", "log-probability of that token"),
    Column("kl_input_lens", "float32", True, "nats", "KL(this lens's reading at layer 0 || this reading)"),
    Column("top_ids", "int32[]", True, "", "best tokens first; equal logits by smaller id"),
    Column("top_logprobs", "float32[]", True, "nats", "their log-probabilities"),
)
"""The columns of a reading: one row per document, lens, site, layer and position, in this order."""

VERSUS: tuple[Column, ...] = (
    Column("unedited_logprob", "float32", True, "nats", "log-probability of the target without the edits"),
    Column("unedited_rank", "int32", True, "", "its rank without them"),
    Column("unedited_entropy", "float32", True, "nats", "entropy without them"),
    Column("unedited_top_id", "int32", True, "", "best token without them"),
    Column("kl_unedited", "float32", True, "nats", "KL(reading without the edits || this reading)"),
)
"""What a reading under edits has in addition where it is compared with one without; ``kl_input_lens`` is null there."""

WATCHED: tuple[Column, ...] = (
    Column("doc_id", "int32", False, "", "order of the document in the corpus"),
    Column("position", "int32", False, "tokens", "from the document's first token"),
    Column("layer", "int16", False, "", "as in a reading"),
    Column("site", "str", False, "", "as in a reading"),
    Column("lens", "str", False, "", "as in a reading"),
    Column("watch_id", "int32", False, "", "the watched token"),
    Column("logprob", "float32", True, "nats", "its log-probability"),
    Column("rank", "int32", True, "", "its rank, 1 = best"),
)
"""The columns of the table of watched tokens: one row per reading row and watched token."""

POSITIONS: tuple[Column, ...] = (
    Column("doc_id", "int32", False, "", "order of the document in the corpus"),
    Column("position", "int32", False, "tokens", "from the document's first token"),
    Column("token_id", "int32", False, "", "the token"),
    Column("kind", "str", False, "", "text, special (added by the tokenizer) or template (of the chat template)"),
)
"""The columns of the table of positions: one row per token of the text."""

DOCUMENTS: tuple[Column, ...] = (
    Column("doc_id", "int32", False, "", "order of the document in the corpus"),
    Column("source", "str", False, "", "name of the file it comes from"),
    Column("id", "str", False, "", "its field id, or the file's name and its number"),
    Column("sha256", "str", False, "", "of its text in UTF-8, hexadecimal"),
    Column("tokens", "int32", False, "tokens", "its length, added special tokens included"),
    Column("fault", "str", True, "", "why it could not be read; null where it was"),
    Column("metadata", "str", False, "", "its other fields, a JSON object"),
)
"""The columns of a store's table of documents."""

_ESTIMATE: tuple[Column, ...] = (
    Column("value", "float64", True, "unit", "the estimate"),
    Column("low", "float64", True, "unit", "lower end of its interval"),
    Column("high", "float64", True, "unit", "upper end of its interval"),
    Column("level", "float64", False, "", "coverage of the interval"),
    Column("clusters", "int32", False, "", "independent units: works, documents or prompts"),
    Column("documents", "int32", False, "", "documents (or prompts) that count"),
    Column("tokens", "int32", False, "tokens", "positions that count"),
    Column("method", "str", False, "", "how the interval was made"),
    Column("unit", "str", False, "", "of value, low and high: nats, 1 (a share) ..."),
    Column("largest_share", "float64", True, "", "share of the positions that the largest cluster holds"),
)
"""An ``Estimate`` as columns."""

PATCHING: tuple[Column, ...] = (
    Column("layer", "int16", False, "", "as in a reading"),
    Column("site", "str", False, "", "as in a reading"),
    Column("position", "int32", False, "tokens", "where the other run's stream was put in"),
    Column("token", "str", False, "", "the text's token there"),
    Column("source_token", "str", False, "", "the other text's token there"),
    Column("logprob", "float32", False, "nats", "log-probability of the chosen token at the end, with the patch"),
    Column("effect", "float32", False, "nats", "that less the log-probability without the patch"),
    Column("share", "float32", True, "1", "effect over the two texts' difference; null where that is under 0.01 nats"),
    Column("control", "float32", False, "nats", "effect of the same patch from an unrelated text"),
)
"""The columns of a patching: one row a layer and position, layers ascending."""

SUMMARY: tuple[Column, ...] = (
    Column("lens", "str", False, "", "name of the lens"),
    Column("site", "str", False, "", "as in a reading"),
    Column("layer", "int16", False, "", "as in a reading"),
    Column("group", "str", False, "", "which positions: empty = all, else a range or the value of a field"),
    Column("measure", "str", False, "", "what is averaged: a column of a reading, accuracy, agreement ..."),
    Column("against", "str", False, "", "empty, or the store whose value is subtracted, same documents"),
    *_ESTIMATE,
)
"""The columns of a summary of a store: one row an estimate."""

SCORE: tuple[Column, ...] = (
    Column("lens", "str", False, "", "name of the lens"),
    Column("layer", "int16", False, "", "as in a reading; -1 = all layers together"),
    Column("site", "str", False, "", "as in a reading"),
    Column("measure", "str", False, "", "what is estimated: kl, cross_entropy, accuracy, agreement, pass@k ..."),
    Column("against", "str", False, "", "empty, or what is subtracted: another lens or a baseline, same texts"),
    *_ESTIMATE,
)
"""The columns of a score table: one row per lens, layer, site, measure and comparison; the last ten are an
``Estimate``."""

Kind = Literal["text", "special", "template"]


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from; enough to make it again.

    Attributes:
        model: the name the user gave.
        identity: sha256 of what the model is (config, tokenizer, tensors as stored).
        circumstances: engine, versions, dtype, device, threads, how the weights were stored.
        lenses: lens name -> hash of its file, or ``""`` for lenses that need none.
        corpus: sha256 of what was read: the decimal token ids with blanks between them.
        seed: seed of every random draw, ``None`` where nothing was drawn.
        command: what was typed or called.
        time: UTC, ISO 8601.
        precision: ``exact`` or ``fast``, with the measured error of each statistic in nats.
        settings: what else the numbers depend on, such as the tokens and positions that a score read.
    """

    model: str = ""
    identity: str = ""
    circumstances: dict[str, str] = field(default_factory=dict)
    lenses: dict[str, str] = field(default_factory=dict)
    corpus: str = ""
    seed: int | None = None
    command: str = ""
    time: str = ""
    precision: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty; undefined parts are NaN.

    Attributes:
        value: the estimate, in ``unit``.
        low, high: ends of the interval at ``level``; NaN where there are too few clusters.
        method: how the interval was made.
        largest_share: share of the tokens that the largest cluster holds, 0 to 1.
    """

    value: float
    low: float
    high: float
    level: float
    clusters: int
    documents: int
    tokens: int
    method: str
    unit: str
    largest_share: float = float("nan")


@dataclass(frozen=True, eq=False)
class Table:
    """Columns as a subclass declares them; undefined is NaN in float columns and -1 in integer ones.

    Attributes:
        columns: name -> array with one entry a row.
        DECLARED: the columns, in order.
    """

    columns: dict[str, Array]
    DECLARED: ClassVar[tuple[Column, ...]] = ()

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.columns.values())))

    @property
    def declared(self) -> tuple[Column, ...]:
        """The columns that this table has, in order."""
        return self.DECLARED

    def pick(self, mask: Array) -> Self:
        """The rows where ``mask`` (bool, one entry a row) is true."""
        return replace(self, columns={name: values[mask] for name, values in self.columns.items()})

    def arrow(self) -> Any:
        """A ``pyarrow.Table`` with nulls where undefined. Raises MissingPackageError without pyarrow."""
        pa = _package("pyarrow", "arrow")
        types = {column.name: _arrow_type(pa, column.dtype) for column in self.declared}
        return pa.table({name: pa.array(as_list(self.columns[name]), kind) for name, kind in types.items()})

    def pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises MissingPackageError without pandas or pyarrow."""
        _package("pandas", "pandas")
        return self.arrow().to_pandas()

    def polars(self) -> Any:
        """A ``polars.DataFrame``. Raises MissingPackageError without polars or pyarrow."""
        return _package("polars", "polars").from_arrow(self.arrow())


@dataclass(frozen=True, eq=False)
class ReadingTable(Table):
    """Readings as columns, with what is needed to label and reproduce them.

    Attributes:
        columns: as declared in ``READING``; ``top_ids`` and ``top_logprobs`` are ``[rows, k]``. Where a reading under
            edits is compared with one without, those of ``VERSUS`` follow.
        positions: the table ``POSITIONS``.
        watched: the table ``WATCHED``; zero rows when nothing was watched.
        vocabulary: token id -> token text, for every id that occurs in any column.
        layers: number L of blocks of the model, so that views know which layer is the last.
    """

    positions: dict[str, Array]
    watched: dict[str, Array]
    vocabulary: dict[int, str]
    provenance: Provenance
    layers: int
    DECLARED: ClassVar[tuple[Column, ...]] = READING

    @property
    def declared(self) -> tuple[Column, ...]:
        """As ``Table.declared``."""
        return (*READING, *VERSUS) if VERSUS[-1].name in self.columns else READING

    def keys(self) -> list[tuple[str, str]]:
        """The (lens, site) pairs that occur, in order of first appearance."""
        pairs = zip(self.columns["lens"].tolist(), self.columns["site"].tolist(), strict=True)
        return list(dict.fromkeys(pairs))

    def json(self) -> str:
        """One JSON document: ``{"schema", "provenance", "columns"}``; undefined is null; ``top_tokens`` are added."""
        columns = {column.name: as_list(self.columns[column.name]) for column in self.declared}
        top = self.columns["top_ids"].tolist()
        columns["top_tokens"] = [[self.vocabulary.get(i) for i in row] for row in top]
        document = {"schema": SCHEMA, "provenance": asdict(self.provenance), "columns": columns}
        if len(self.watched["watch_id"]):
            watched = {column.name: as_list(self.watched[column.name]) for column in WATCHED}
            watched["watch_token"] = [self.vocabulary[i] for i in watched["watch_id"]]
            document["watched"] = watched
        return json.dumps(document, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, eq=False)
class PatchTable(Table):
    """What putting one run's stream into another does to a token's log-probability: columns as in ``PATCHING``.

    Attributes:
        chosen: the token whose log-probability is measured, as text.
        unpatched, source: its log-probability at the end of the text and of the other text, nats.
        layers: number L of blocks of the model.
    """

    chosen: str
    unpatched: float
    source: float
    provenance: Provenance
    layers: int
    DECLARED: ClassVar[tuple[Column, ...]] = PATCHING

    def json(self) -> str:
        """One JSON document: ``{"schema", "provenance", "chosen", "unpatched", "source", "columns"}``."""
        more = {"chosen": self.chosen, "unpatched": self.unpatched, "source": self.source}
        columns = {column.name: as_list(self.columns[column.name]) for column in PATCHING}
        document = {"schema": SCHEMA, "provenance": asdict(self.provenance), **more, "columns": columns}
        return json.dumps(document, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, eq=False)
class ScoreTable(Table):
    """What lenses are good for: one row an estimate, columns as declared in ``SCORE``.

    Attributes:
        notes: what was counted and left out, one sentence each.
        layers: number L of blocks of the model.
    """

    provenance: Provenance
    notes: tuple[str, ...]
    layers: int
    DECLARED: ClassVar[tuple[Column, ...]] = SCORE

    def json(self) -> str:
        """One JSON document: ``{"schema", "provenance", "notes", "columns"}``; undefined is null.

        An interval without an end on one side, which 6 to 11 clusters can have, ends in null there as well.
        """
        return _json(self, {"notes": self.notes})


@dataclass(frozen=True, eq=False)
class SummaryTable(Table):
    """A store's averages with their intervals: one row an estimate, columns as declared in ``SUMMARY``.

    Attributes:
        by: what the groups are: layer (one group), position, frequency, or the name of a field.
        notes: what was counted and left out, one sentence each.
        layers: number L of blocks of the model.
    """

    by: str
    provenance: Provenance
    notes: tuple[str, ...]
    layers: int
    DECLARED: ClassVar[tuple[Column, ...]] = SUMMARY

    def json(self) -> str:
        """One JSON document: ``{"schema", "provenance", "by", "notes", "columns"}``; undefined is null."""
        return _json(self, {"by": self.by, "notes": self.notes})


def _json(table: ScoreTable | SummaryTable, more: dict[str, Any]) -> str:
    """A table of estimates as JSON, where an interval without an end on one side ends in null there."""
    bounded = {name: np.where(np.isinf(table.columns[name]), np.nan, table.columns[name]) for name in ("low", "high")}
    columns = {column.name: as_list((table.columns | bounded)[column.name]) for column in table.DECLARED}
    document = {"schema": SCHEMA, "provenance": asdict(table.provenance), **more, "columns": columns}
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def as_list(values: Array) -> list[Any]:
    """The array as Python values, with None where it is undefined (NaN, or a negative id, rank or target)."""
    if values.dtype.kind == "f":
        boxed = values.astype(object)
        boxed[np.isnan(values)] = None
        return boxed.tolist()
    if values.dtype.kind == "i" and values.dtype.itemsize == 4:
        boxed = values.astype(object)
        boxed[values < 0] = None
        return boxed.tolist()
    return values.tolist()


def _package(name: str, method: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"{method}() needs {name}: pip install {name}.") from error


def _arrow_type(pa: Any, dtype: str) -> Any:
    if dtype.endswith("[]"):
        return pa.list_(_arrow_type(pa, dtype[:-2]))
    return pa.string() if dtype == "str" else getattr(pa, dtype)()
