"""A store's averages by layer with intervals that count clusters of documents, never tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from midstream.interval import FEWEST, ratio
from midstream.record import SUMMARY, Array, Estimate, Provenance, SummaryTable
from midstream.store.blame import blamed, left_out
from midstream.store.layout import documents_digest
from midstream.store.query import FEWEST_BEFORE, MEASURES, connect
from midstream.store.sealed import printable
from midstream.store.store import Store
from midstream.store.sums import CLUSTERS, Averages, Cells, Documents, cells, documents, text_only

UNITS = {name: "nats" if name == column else "1" for name, column in MEASURES.items()}
"""Of the measures; 1: a share of the positions."""


@dataclass(frozen=True, eq=False)
class Averaged:
    """One row of a summary; ``record.SUMMARY`` says what the fields mean."""

    lens: str
    site: str
    layer: int
    group: str
    measure: str
    against: str
    estimate: Estimate


def summary(
    store: Store,
    by: str = "layer",
    *,
    measures: Sequence[str] | None = None,
    cluster: str | None = None,
    min_context: int = FEWEST_BEFORE,
    seed: int = 0,
) -> SummaryTable:
    """Averages over the positions of a store, by lens, site, layer and group, with 95 % intervals.

    Positions count whose token is text, not special, and was read with at least ``min_context`` tokens before it; each
    measure where it is defined. Arguments as in ``sums.Averages``.

    Raises:
        RequestError: a measure that is not kept, a field that no document has or that has more than 50 values.
        DamagedError: a file of the store is missing or has another size.
    """
    wanted = Averages(by, measures, cluster, min_context, seed)
    chosen = wanted.of(store)
    connection = connect(store)
    try:
        with blamed(store):
            known = documents(connection)
            clusters = known.clusters(cluster)
            source = f"readings {text_only(connection, min_context)} WHERE context >= {int(min_context)}"
            found = cells(connection, wanted, chosen, known, source)
    finally:
        connection.close()
    rows = list(_rows(found, chosen, clusters, seed))
    notes = [*counted(found, wanted, known), *said_of(store, known), *few(rows)]
    return table(rows, notes, store, wanted, provenance(store, known, wanted, chosen))


def _rows(found: Cells, chosen: Sequence[str], clusters: Array, seed: int) -> Iterator[Averaged]:
    """By lens, site, measure, group and layer, so that what follows each other is one curve."""
    for (lens, site), places in curves(found).items():
        for number, measure in enumerate(chosen):
            if not any(cell.counts[number].any() for groups in places.values() for cell in groups.values()):
                continue  # undefined for this lens
            for group in ordered(places.values()):
                for layer, groups in places.items():
                    if group not in groups:
                        continue
                    cell = groups[group]
                    estimate = ratio(
                        cell.sums[number],
                        cell.counts[number],
                        clusters=clusters[cell.documents],
                        generator=np.random.default_rng(seed),
                        unit=UNITS[measure],
                    )
                    yield Averaged(lens, site, layer, group, measure, "", estimate)


def curves(found: Cells) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """(lens, site) -> layer -> group -> its cell."""
    made: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for (lens, site, layer), groups in found.items():
        made.setdefault((lens, site), {})[layer] = groups
    return made


def ordered(places: Iterable[dict[str, Any]]) -> list[str]:
    """The groups that occur, in the order of the layer that has most of them, then the others."""
    most = sorted(places, key=len, reverse=True)
    return list(dict.fromkeys(group for groups in most for group in groups))


def counted(found: Cells, wanted: Averages, known: Documents) -> list[str]:
    """What the averages are over."""
    first = next(iter(found.values()))
    positions = sum(int(cell.positions.sum()) for cell in first.values())
    read = {number for cell in first.values() for number in cell.documents.tolist()}
    name = f"the field {wanted.cluster}" if wanted.cluster else f"the field {' or '.join(CLUSTERS)}, where given"
    clusters = len(set(known.clusters(wanted.cluster)[sorted(read)].tolist()))
    notes = [
        f"Averages are over {positions:,} positions of {len(read):,} documents: tokens of the text, with at least "
        f"{wanted.min_context} before them.",
        f"Intervals count {clusters:,} clusters: {name}, else the document.",
    ]
    if wanted.by == "frequency":
        notes.append("Groups are how often the token that the reading is about stands in the store's texts.")
    return notes


def said_of(store: Store, known: Documents, name: str = "the store") -> list[str]:
    """What a store lacks."""
    notes: list[str] = []
    if known.faults:
        named = "; ".join(printable(f"{document}: {fault}") for document, fault in known.faults[:3])
        more = " ..." if len(known.faults) > 3 else ""
        notes.append(f"{len(known.faults):,} documents of {name} could not be read and are left out: {named}{more}.")
    notes += left_out(store, name)
    if store.finished is None:
        notes.append(f"The scan of {name} has not ended: only what it has read so far counts.")
    if (share := store.header.select["share"]) < 1:
        notes.append(f"Of the positions of {name} a share of {share:g} was kept, drawn at random.")
    return notes


def few(rows: Sequence[Averaged]) -> list[str]:
    """The note on rows without an interval."""
    without = sum(row.estimate.clusters < FEWEST for row in rows)
    return [f"{without:,} of {len(rows):,} rows have fewer than {FEWEST} clusters and no interval."] if without else []


def provenance(store: Store, known: Documents, wanted: Averages, chosen: Sequence[str], **more: Any) -> Provenance:
    """Where a summary comes from; its corpus is the digest of the store's documents. ``more`` goes to the settings."""
    header = store.header
    precision = header.request.get("precision", {})
    return Provenance(
        model=header.model,
        identity=header.identity,
        circumstances=dict(header.circumstances),
        lenses=dict(header.lenses),
        corpus=documents_digest(zip(known.numbers.tolist(), known.sha256, strict=True)),
        seed=wanted.seed,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=dict(precision) if isinstance(precision, dict) else {"name": precision},
        settings={
            "store": store.path.name,
            "by": wanted.by,
            "measures": list(chosen),
            "cluster": wanted.cluster,
            "min_context": wanted.min_context,
            "select": dict(header.select),
            **more,
        },
    )


def table(
    rows: Sequence[Averaged], notes: Sequence[str], store: Store, wanted: Averages, made: Provenance
) -> SummaryTable:
    """The rows as a table."""
    names = {field.name for field in fields(Estimate)}
    columns = {
        column.name: np.array(
            [getattr(row.estimate if column.name in names else row, column.name) for row in rows],
            dtype=object if column.dtype == "str" else column.dtype,
        )
        for column in SUMMARY
    }
    return SummaryTable(columns, by=wanted.by, provenance=made, notes=tuple(notes), layers=store.header.layers)
