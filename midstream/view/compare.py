"""Two readings held against each other where their texts have the same tokens: one grid of what differs, and curves."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from midstream.errors import RequestError
from midstream.record import Array, ReadingTable

MEASURES = {
    "logprob": "log-probability of the token that came, nats",
    "accuracy": "share of positions whose best token is the one that came",
    "entropy": "entropy, nats",
    "kl_final_lens": "KL(output ‖ reading), nats",
}
"""What the curves show: a mean over the positions that both have and after which the same token came."""


LONGEST = 10_000
"""Tokens of two texts that are aligned: seconds, and 13 MB."""


def aligned(one: ReadingTable, other: ReadingTable) -> list[tuple[int, int]]:
    """The most pairs of positions (of ``one``, of ``other``) at which the texts have the same token, in order.

    Raises RequestError for texts that are both so long that it would take minutes.
    """
    numbers: dict[str, int] = {}
    texts = [
        np.array([numbers.setdefault(table.vocabulary[token], len(numbers)) for token in tokens])
        for table in (one, other)
        for tokens in [table.positions["token_id"].tolist()]
    ]
    places = [table.positions["position"].tolist() for table in (one, other)]
    return [(places[0][a], places[1][b]) for a, b in _agreeing(*texts)]


def _agreeing(one: Array, other: Array) -> list[tuple[int, int]]:
    """A longest common subsequence, row by row: what texts of few and repeated tokens cost is what all others cost."""
    short = min(len(one), len(other))
    differs = np.flatnonzero(one[:short] != other[:short])
    same = int(differs[0]) if len(differs) else short
    a, b = one[same:], other[same:]
    if len(a) * len(b) > LONGEST**2:
        raise RequestError(
            f"two texts of {len(one):,} and {len(other):,} tokens cannot be aligned: expected at most some {LONGEST:,}."
        )
    length, longer = np.zeros(len(b) + 1, np.int32), np.zeros((len(a), (len(b) + 7) // 8), np.uint8)
    for i, token in enumerate(a):
        now = length.copy()
        np.maximum(now[1:], length[:-1] + (b == token), out=now[1:])
        now = np.maximum.accumulate(now)
        longer[i] = np.packbits(now[1:] > length[1:])  # than without this token of the first text
        length = now
    found: list[tuple[int, int]] = []
    i, j = len(a) - 1, len(b) - 1
    while i >= 0 and j >= 0:
        if a[i] == b[j]:
            found.append((same + i, same + j))
            i, j = i - 1, j - 1
        elif longer[i, j >> 3] >> (7 - (j & 7)) & 1:
            j -= 1
        else:
            i -= 1
    return [(at, at) for at in range(same)] + found[::-1]


def difference(one: ReadingTable, other: ReadingTable) -> ReadingTable:
    """The second reading by its first lens, with what the first reading's first lens had as what was before.

    Rows that the first lacks (another token, layer or site) keep NaN there, ranks and ids -1; so do log-probability and
    rank where another token came after, and best tokens whose id is another token to the second. The provenance is the
    second's, the first's in its settings as ``less``. Raises RequestError for lenses about different tokens, and where
    no token agrees.
    """
    rows = [_rows(table) for table in (one, other)]
    offsets = [
        int(table.columns["offset"][next(iter(found.values()))])
        for table, found in zip((one, other), rows, strict=True)
    ]
    if offsets[0] != offsets[1]:
        raise RequestError(
            f"{_lens(one)} is about the token at {offsets[0]:+d} and {_lens(other)} at {offsets[1]:+d}: expected "
            "lenses about the same token."
        )
    pairs = {b: a for a, b in aligned(one, other)}
    if not pairs:
        raise RequestError("the two texts have no token in common: nothing can be compared.")
    mine = np.array(list(rows[1].values()))
    before = np.array([rows[0].get((layer, site, pairs.get(at, -1)), -1) for layer, site, at in rows[1]])
    came = [_texts(table, table.columns["target_id"][at]) for table, at in ((one, before), (other, mine))]
    columns = {name: values[mine] for name, values in other.columns.items() if not _versus(name)}
    for name in ("logprob", "rank"):
        columns[f"unedited_{name}"] = _taken(one.columns[name], np.where(came[0] == came[1], before, -1))
    columns["unedited_entropy"] = _taken(one.columns["entropy"], before)
    columns["unedited_top_id"] = _taken(_known(one, other), before)
    columns["kl_unedited"] = np.full(len(mine), np.nan, np.float32)
    stamp = replace(other.provenance, settings={**other.provenance.settings, "less": asdict(one.provenance)})
    vocabulary = one.vocabulary | other.vocabulary
    return replace(other, columns=columns, vocabulary=vocabulary, watched=_none(other), provenance=stamp)


def curves(one: ReadingTable, other: ReadingTable) -> dict[str, Any]:
    """Means by layer of the stream after the blocks, over the positions at which the same token came after the same.

    ``{"layers", "positions", "measures": {name: {"label", "one", "other"}}}``; a layer that one lacks is null there.
    """
    came = [_came(table) for table in (one, other)]
    pairs = [(a, b) for a, b in aligned(one, other) if a in came[0] and came[0][a] == came[1].get(b)]
    found: dict[str, Any] = {name: {"label": label} for name, label in MEASURES.items()}
    layers = sorted({layer for table in (one, other) for layer in table.columns["layer"].tolist()})
    for side, table in enumerate((one, other)):
        own = (table.columns["lens"] == _lens(table)) & (table.columns["site"] == "resid_post")
        own &= np.isin(table.columns["position"], [pair[side] for pair in pairs])
        for name in MEASURES:
            values = (table.columns["rank"] == 1).astype(float) if name == "accuracy" else table.columns[name]
            found[name]["other" if side else "one"] = [
                _mean(values[own & (table.columns["layer"] == layer)]) for layer in layers
            ]
    return {"layers": layers, "positions": len(pairs), "measures": found}


def _came(table: ReadingTable) -> dict[int, str]:
    """Position -> the token that came there, as its first lens is asked for it; not where none came."""
    rows = {at: row for (_, _, at), row in _rows(table).items()}
    ids = table.columns["target_id"][list(rows.values())].tolist()
    return {at: table.vocabulary[token] for at, token in zip(rows, ids, strict=True) if token >= 0}


def _texts(table: ReadingTable, ids: Array) -> Array:
    return np.array([table.vocabulary.get(token, "") for token in ids.tolist()], dtype=object)


def _known(one: ReadingTable, other: ReadingTable) -> Array:
    """The first's best tokens, -1 for those whose id is another token to the second."""
    best = one.columns["top_ids"][:, 0]
    mine, its = _texts(one, best), _texts(other, best)
    return np.where((its == "") | (mine == its), best, -1)


def _lens(table: ReadingTable) -> str:
    return str(table.columns["lens"][0])


def _rows(table: ReadingTable) -> dict[tuple[int, str, int], int]:
    """(layer, site, position) -> row, of its first lens."""
    columns = table.columns
    own = np.flatnonzero(columns["lens"] == _lens(table))
    keys = zip(*(columns[name][own].tolist() for name in ("layer", "site", "position")), strict=True)
    return dict(zip(keys, own.tolist(), strict=True))


def _taken(values: Array, at: Array) -> Array:
    missing = np.nan if values.dtype.kind == "f" else -1
    return np.where(at < 0, missing, values[np.maximum(at, 0)]).astype(values.dtype)


def _versus(name: str) -> bool:
    return name.startswith("unedited_") or name == "kl_unedited"


def _none(table: ReadingTable) -> dict[str, Array]:
    return {name: values[:0] for name, values in table.watched.items()}


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
