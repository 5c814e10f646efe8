"""From the read-out's columns to the record: labels, nulls, and chunks joined into one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from midstream.lens.lens import Lens
from midstream.lens.read.chunks import Chunk, Texts
from midstream.model.model import Model
from midstream.readout.read import Columns
from midstream.record import READING, VERSUS, WATCHED, Array, Provenance, ReadingTable

TARGET, FINAL, INPUT, OWN = 0, 1, 2, 3
"""Which named token of a row is which; from ``OWN`` on they are the followed ones."""


@dataclass(frozen=True)
class Part:
    """The rows of one lens, site and layer over the positions of a chunk; each lens has its own sites and layers.

    ``tokens`` ``[n, 3 + T]`` are the ids that the columns ``logprob`` and ``rank`` are about. ``unedited``, where it
    was read, has the columns of the same rows without edits; ``columns.kl_base`` then compares with these.
    """

    lens: Lens
    site: str
    layer: int
    tokens: Array
    columns: Columns
    unedited: Columns | None = None


def table(model: Model, texts: Texts, chunk: Chunk, parts: Sequence[Part]) -> ReadingTable:
    """The record of a chunk's positions, rows ordered as ``parts`` are, then as positions are."""
    at = chunk.positions
    start = texts.start[at]
    whole = {
        "doc_id": texts.number[at],
        "position": at - start,
        "context": at - start.clamp(min=chunk.window.start),
        "token_id": texts.ids[at],
    }
    here = {name: values.numpy().astype(np.int32) for name, values in whole.items()}
    blocks = [_block(part, here) for part in parts]
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    watched = [rows for part in parts for rows in _watched(part, here)]
    none = {column.name: np.zeros(0, dtype=_numpy(column.dtype)) for column in WATCHED}
    seen = {name: np.concatenate([none[name], *(rows[name] for rows in watched)]) for name in none}
    token = here["token_id"]
    versus = "kl_unedited" in columns
    named = [columns[name].ravel() for name in ("top_ids", "target_id", *(["unedited_top_id"] if versus else []))]
    occurring = np.unique(np.concatenate([*named, token, seen["watch_id"]]))
    vocabulary = {int(i): model.tokenizer.token(int(i)) for i in occurring if i >= 0}
    columns["token"] = np.array([vocabulary[int(i)] for i in columns["token_id"]], dtype=object)
    declared = (*READING, *VERSUS) if versus else READING
    return ReadingTable(
        {column.name: columns[column.name].astype(_numpy(column.dtype)) for column in declared},
        {name: here[name] for name in ("doc_id", "position", "token_id")} | {"kind": texts.kinds[at.numpy()]},
        seen,
        vocabulary,
        Provenance(),
        model.anatomy.layers,
    )


def join(chunks: Sequence[ReadingTable]) -> ReadingTable:
    """One table of a document's chunks, in the order of a reading: lens, site, layer, then position.

    Every position has a row in the same groups of (lens, site, layer).
    """
    groups = len(chunks[0]) // len(chunks[0].positions["position"])
    followed = max(1, len(chunks[0].watched["watch_id"]) // len(chunks[0].positions["position"]))
    watched = _joined([chunk.watched for chunk in chunks], followed)
    return replace(
        chunks[0],
        columns=_joined([chunk.columns for chunk in chunks], groups),
        positions=_joined([chunk.positions for chunk in chunks], 1),
        watched={name: values[watched["watch_id"] >= 0] for name, values in watched.items()},
        vocabulary={key: text for chunk in chunks for key, text in chunk.vocabulary.items()},
    )


def _joined(tables: Sequence[dict[str, Array]], groups: int) -> dict[str, Array]:
    """Concatenate along positions, which run fastest within each of ``groups`` groups of rows."""
    joined: dict[str, Array] = {}
    for name in tables[0]:
        rows = [values[name].reshape(groups, -1, *values[name].shape[1:]) for values in tables]
        joined[name] = np.concatenate(rows, axis=1).reshape(-1, *rows[0].shape[2:])
    return joined


def _block(part: Part, here: dict[str, Array]) -> dict[str, Array]:
    lens, read, at = part.lens, part.columns, here["position"]

    def calibrated(values: Array) -> Array:
        return values if lens.calibrated else np.full_like(values, np.nan)

    other, more = part.unedited, {}
    if other is not None:
        more = {
            "unedited_logprob": calibrated(other.logprob[:, TARGET]),
            "unedited_rank": other.rank[:, TARGET],
            "unedited_entropy": calibrated(other.entropy),
            "unedited_top_id": other.top_ids[:, 0],
            "kl_unedited": calibrated(read.kl_base),
        }
    return {
        **here,
        **more,
        "layer": np.full_like(at, part.layer),
        "site": np.full(len(at), part.site, dtype=object),
        "lens": np.full(len(at), lens.name, dtype=object),
        "offset": np.full_like(at, lens.offset),
        "target_id": part.tokens[:, TARGET],
        "logprob": calibrated(read.logprob[:, TARGET]),
        "rank": read.rank[:, TARGET],
        "lse": calibrated(read.lse),
        "entropy": calibrated(read.entropy),
        "kl_final_lens": read.kl_final_lens,
        "kl_lens_final": read.kl_lens_final,
        "final_top1_rank": read.rank[:, FINAL],
        "final_top1_logprob": calibrated(read.logprob[:, FINAL]),
        "input_rank": read.rank[:, INPUT],
        "input_logprob": calibrated(read.logprob[:, INPUT]),
        "kl_input_lens": np.full_like(read.kl_base, np.nan) if more else read.kl_base,
        "top_ids": read.top_ids,
        "top_logprobs": calibrated(read.top_logprobs),
    }


def _watched(part: Part, here: dict[str, Array]) -> list[dict[str, Array]]:
    """A table for each followed token, every position in it; rows where none is followed have watch_id -1."""
    read, lens, at = part.columns, part.lens, here["position"]
    return [
        {
            "doc_id": here["doc_id"],
            "position": at,
            "layer": np.full(len(at), part.layer, dtype=np.int16),
            "site": np.full(len(at), part.site, dtype=object),
            "lens": np.full(len(at), lens.name, dtype=object),
            "watch_id": part.tokens[:, column].astype(np.int32),
            "logprob": read.logprob[:, column] if lens.calibrated else np.full(len(at), np.nan, dtype=np.float32),
            "rank": read.rank[:, column],
        }
        for column in range(OWN, read.rank.shape[1])
    ]


def _numpy(dtype: str) -> str:
    base = dtype.removesuffix("[]")
    return "object" if base == "str" else base
