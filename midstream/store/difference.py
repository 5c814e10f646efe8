"""One store less another, paired by document, and by position where the tokens are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import numpy as np

from midstream.errors import RequestError
from midstream.interval import paired_ratio
from midstream.record import Array, SummaryTable
from midstream.store.ask import ask
from midstream.store.blame import blamed
from midstream.store.layout import Header
from midstream.store.query import connect
from midstream.store.store import Store
from midstream.store.summary import UNITS, Averaged, counted, curves, few, ordered, provenance, said_of, table
from midstream.store.sums import Averages, Cell, Cells, cells, documents, special

if TYPE_CHECKING:
    import duckdb


class Options(TypedDict, total=False):
    """The arguments of ``Averages`` beside ``by``."""

    measures: Sequence[str] | None
    cluster: str | None
    min_context: int
    seed: int


class _Pairs(NamedTuple):
    """Documents that both stores have: their numbers in each, and whether they are the same tokens there."""

    first: Array
    second: Array
    same: Array


def difference(store: Store, other: Store, by: str = "layer", **options: Unpack[Options]) -> SummaryTable:
    """Averages of ``store`` less those of ``other``, by lens, site, layer and group, with paired 95 % intervals.

    Documents are paired by the sha256 of their text, and count where both stores have them. Where a document has the
    same tokens in both, exactly the positions count that both have read; else all that each has. Lenses are paired by
    name; two stores of one lens each are compared whatever their names, as ``tuned - logit``. Groups and clusters are
    those of the first store's documents.

    Args:
        by, options: as in ``sums.Averages``.

    Raises:
        RequestError: as ``summary``; or the stores share no document, lens, site or layer; or groups by frequency are
            asked for and the tokens differ.
        DamagedError: a file of a store is missing or has another size.
    """
    wanted = Averages(by, **options)
    chosen = wanted.of(store, other)
    lenses = _lenses(store.header, other.header)
    connection = connect(store, other)
    try:
        with blamed(store, other):
            known = documents(connection), documents(connection, "other")
            clusters = known[0].clusters(wanted.cluster)
            pairs = _pair(connection, wanted)
            sources = map(_source, ("main", "other"))
            first, second = (cells(connection, wanted, chosen, known[0], source) for source in sources)
    finally:
        connection.close()
    matched = _match(first, second, lenses)
    if not matched:
        raise RequestError("the two stores have no site and layer in common: there is nothing to subtract.")
    against = other.path.name if other.path.name != store.path.name else str(other.path)
    rows = list(_rows(matched, chosen, clusters, against, wanted.seed))
    notes = [
        *counted(first, wanted, known[0]),
        *_said(pairs, matched, [len(part.numbers) - len(part.faults) for part in known]),
        *said_of(store, known[0], "the first store"),
        *said_of(other, known[1], "the second store"),
        *_differences(store.header, other.header),
        *few(rows),
    ]
    its = asdict(provenance(other, known[1], wanted, chosen))
    kept = ("model", "identity", "circumstances", "lenses", "corpus", "precision", "settings")
    made = provenance(store, known[0], wanted, chosen, against={name: its[name] for name in kept})
    return table(rows, notes, store, wanted, made)


def _lenses(first: Header, second: Header) -> dict[str, str]:
    """Lens of the first store -> lens of the second that is subtracted from it."""
    if both := [name for name in first.lenses if name in second.lenses]:
        return {name: name for name in both}
    if len(first.lenses) == len(second.lenses) == 1:
        return {next(iter(first.lenses)): next(iter(second.lenses))}
    raise RequestError(
        f"the stores have no lens in common: the first has {', '.join(first.lenses)}, the second "
        f"{', '.join(second.lenses)}. Expected a common name, or one lens in each."
    )


def _pair(connection: duckdb.DuckDBPyConnection, wanted: Averages) -> _Pairs:
    """Makes the tables ``wanted_main`` and ``wanted_other``: the positions of each store that count.

    Their ``first`` is the document's number in the first store, so that both are summed by the same documents.
    """
    least = int(wanted.min_context)
    texts = """SELECT doc_id, sha256, n, h, row_number() OVER (PARTITION BY sha256 ORDER BY doc_id) AS nth
        FROM {0}.documents JOIN (SELECT doc_id, count(*) AS n, sum(hash(position, token_id)) AS h
        FROM {0}.positions GROUP BY doc_id) USING (doc_id) WHERE fault IS NULL"""
    kept = """CREATE TEMP TABLE read_{0} AS SELECT DISTINCT doc_id, position FROM {0}.readings
        ANTI JOIN ({1}) USING (doc_id, position)
        WHERE context >= {2} AND (lens, site, layer) = (SELECT (lens, site, layer) FROM {0}.readings LIMIT 1)"""
    statements = [
        f"""CREATE TEMP TABLE pairs AS SELECT a.doc_id AS main, b.doc_id AS other, a.n = b.n AND a.h = b.h AS same
        FROM ({texts.format("main")}) a JOIN ({texts.format("other")}) b USING (sha256, nth) ORDER BY main""",
        *(kept.format(schema, special(least, schema), least) for schema in ("main", "other")),
        """CREATE TEMP TABLE shared AS SELECT main, other, a.position FROM pairs JOIN read_main a ON a.doc_id = main
        JOIN read_other b ON b.doc_id = other AND b.position = a.position WHERE same""",
        *(
            f"""CREATE TEMP TABLE wanted_{schema} AS
            SELECT {schema} AS doc_id, position, main AS first FROM shared
            UNION ALL SELECT doc_id, position, main AS first FROM read_{schema} JOIN pairs ON doc_id = {schema}
            WHERE NOT same"""
            for schema in ("main", "other")
        ),
    ]
    for statement in statements:
        ask(connection, lambda statement=statement: connection.execute(statement).fetchall())
    found = ask(connection, lambda: connection.execute("FROM pairs").fetchnumpy())
    pairs = _Pairs(*(np.ma.getdata(values) for values in found.values()))
    if not len(pairs.first):
        raise RequestError("the two stores have no document in common: expected stores of the same texts.")
    if wanted.by == "frequency" and not pairs.same.all():
        raise RequestError("the two stores cut the texts into other tokens: by frequency there is nothing to pair.")
    return pairs


def _source(schema: str) -> str:
    """The positions that count, documents by their number in the first store."""
    return (
        f"(SELECT r.* REPLACE (w.first AS doc_id) FROM {schema}.readings r JOIN wanted_{schema} w "
        "ON r.doc_id = w.doc_id AND r.position = w.position)"
    )


def _match(first: Cells, second: Cells, lenses: Mapping[str, str]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """(lenses, site, layer) -> group -> the two cells over the documents that both have there."""
    made: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (lens, site, layer), groups in first.items():
        theirs = second.get((lenses.get(lens, ""), site, layer), {})
        if both := {group: _both(cell, theirs[group]) for group, cell in groups.items() if group in theirs}:
            name = lens if lenses[lens] == lens else f"{lens} - {lenses[lens]}"
            made[name, site, layer] = both
    return made


def _both(first: Cell, second: Cell) -> tuple[Cell, Cell]:
    _, mine, theirs = np.intersect1d(first.documents, second.documents, assume_unique=True, return_indices=True)
    return first.pick(mine), second.pick(theirs)


def _rows(
    matched: dict[tuple[str, str, int], dict[str, Any]],
    chosen: Sequence[str],
    clusters: Array,
    against: str,
    seed: int,
) -> Iterator[Averaged]:
    for (lens, site), places in curves(matched).items():
        for number, measure in enumerate(chosen):
            pairs = [pair for groups in places.values() for pair in groups.values()]
            if not any((one.counts[number] * two.counts[number]).any() for one, two in pairs):
                continue  # undefined for one of the two lenses
            for group in ordered(places.values()):
                for layer, groups in places.items():
                    if group not in groups:
                        continue
                    pair: tuple[Cell, Cell] = groups[group]
                    estimate = paired_ratio(
                        np.stack([cell.sums[number] for cell in pair]),
                        np.stack([cell.counts[number] for cell in pair]),
                        clusters=clusters[pair[0].documents],
                        generator=np.random.default_rng(seed),
                        unit=UNITS[measure],
                    )
                    yield Averaged(lens, site, layer, group, measure, against, estimate)


def _said(pairs: _Pairs, matched: dict[tuple[str, str, int], dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    """How the stores are paired, and what that leaves out."""
    number = len(pairs.first)
    notes = [f"Differences are the first store less the second, paired by document: {number:,} are in both."]
    if alone := [size - number for size in sizes if size > number]:
        notes.append(f"{sum(alone):,} documents are in one of the stores only and left out.")
    if others := int((~pairs.same).sum()):
        notes.append(f"{others:,} documents have other tokens in the two stores: each counts over its own positions.")
    if pairs.same.any():
        notes.append(f"In {int(pairs.same.sum()):,} documents exactly the positions count that both stores have read.")
    pair = [pair for groups in matched.values() for pair in groups.values()]
    if not others and any((one.counts != two.counts).any() for one, two in pair):
        notes.append("A measure is not defined at the same positions in both stores: there each counts over its own.")
    return notes


def _differences(first: Header, second: Header) -> list[str]:
    """What of two stores is not the same."""
    found: list[str] = []
    for name in ("model", "identity", "midstream", "lenses", "request", "select", "circumstances"):
        mine, theirs = getattr(first, name), getattr(second, name)
        if isinstance(mine, Mapping):
            keys = sorted({*mine, *theirs})
            found += [
                f"{name} {key}: {_short(mine, key)} and {_short(theirs, key)}"
                for key in keys
                if _other(mine, theirs, key)
            ]
        elif mine != theirs:
            found.append(f"{name}: {mine[:60]} and {theirs[:60]}")
    if not found:
        return ["The two stores are of the same model, lenses and request."]
    return ["The stores differ in " + "; ".join(found) + "."]


def _other(mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> bool:
    return _short(mine, key, None) != _short(theirs, key, None)


def _short(values: Mapping[str, Any], key: str, length: int | None = 60) -> str:
    if key not in values:
        return "none"
    value = values[key]
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))[:length]
