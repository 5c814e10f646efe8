"""Which documents a study reads: sets that share no work, as many documents of each work as of any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from midstream.corpus.source import Document, cluster_of
from midstream.corpus.split import held_out
from midstream.errors import RequestError
from midstream.model.model import Model
from midstream.run.score_text import LONG_TOKEN, first_tokens
from midstream.study.study import Need, Text

SPLITS = {"fit": "fit", "reserve": "tune", "eval": "confirm"}
"""Value of the field ``split`` -> set, where documents have that field."""


SPARE = 4
"""Times as many works are kept as a set needs documents, since some will be too short."""


@dataclass
class Kept:
    """Documents of one set by work, those of the works whose names' hashes are smallest: a draw that no order moves.

    Attributes:
        most: works that are kept, up to twice as many while it fills; of each document no more than ``characters``.
    """

    most: int
    characters: int
    seed: int
    works: dict[str, list[Document]] = field(default_factory=dict[str, list[Document]])
    _limit: bytes = b"\xff" * 32

    @classmethod
    def enough(cls, needs: Iterable[Need], seed: int) -> Kept:
        """For the largest of some needs of one set."""
        every = list(needs)
        documents = max((need.documents for need in every), default=1)
        tokens = max((need.tokens for need in every), default=1)
        return cls(SPARE * documents, SPARE * LONG_TOKEN * tokens, seed)

    def add(self, work: str, document: Document) -> None:
        """Keep the start of a document, as long as its work is among those kept and has not more than its share."""
        if self.key(work) > self._limit:
            return
        members = self.works.setdefault(work, [])
        if len(members) < max(1, self.most // len(self.works)):
            members.append(replace(document, text=document.text[: self.characters]))
        if len(self.works) >= 2 * self.most:
            self.works = {name: self.works[name] for name in self.order()[: self.most]}
            self._limit = max(map(self.key, self.works))

    def key(self, work: str) -> bytes:
        """What works are ordered by."""
        return hashlib.sha256(f"{self.seed}:{work}".encode()).digest()

    def order(self) -> list[str]:
        """The works, in the order in which they are read."""
        return sorted(self.works, key=self.key)


@dataclass
class Sets:
    """The documents of a corpus by set and work.

    Attributes:
        by_field: whether sets are those of the field ``split``; else they are drawn by work.
        seen: documents looked at; outside: of those, how many have another value of ``split`` and are in no set.
        unit: what belongs together: the field, or ``document`` where no document has it.
        digest: sha256 over the sha256 of each document looked at.
    """

    members: dict[str, Kept]
    by_field: bool
    seen: int
    outside: int
    unit: str
    digest: str


def gather(
    documents: Iterable[Document], needs: Mapping[str, Sequence[Need]], *, cluster: str | None, seed: int
) -> Sets:
    """Sorts documents into sets: by the field ``split`` where any has one that is known, else by a draw of works.

    Args:
        needs: set -> what may be asked of it, by any arm at any size; the starts of enough documents are kept.
        cluster: the field that says which belong together; None: ``work``, or the document itself.

    Raises RequestError as ``cluster_of`` does, and for a work that the field has in two sets.
    """
    declared, drawn = ({name: Kept.enough(needs.get(name, ()), seed) for name in SPLITS.values()} for _ in range(2))
    digest, home, seen, outside = hashlib.sha256(), dict[str, str](), 0, 0
    unit = cluster or "document"
    for document in documents:
        seen += 1
        digest.update(bytes.fromhex(document.sha256))
        work = cluster_of(document, cluster)
        if cluster is None and document.metadata.get("work"):
            unit = "work"
        if not home:
            drawn[_drawn(work, seed)].add(work, document)
        value = document.metadata.get("split")
        name = SPLITS.get(value) if isinstance(value, str) else None
        if name is None:
            outside += 1
            continue
        if home.setdefault(work, name) != name:
            raise RequestError(
                f"{unit} {work!r} has documents in {home[work]} and in {name}: what is chosen on it cannot be "
                "confirmed on it. Mend the field split, or name another field with --cluster."
            )
        declared[name].add(work, document)
    return Sets(declared if home else drawn, bool(home), seen, outside if home else 0, unit, digest.hexdigest())


def _drawn(work: str, seed: int) -> str:
    if held_out(work, seed=seed, share=0.4):
        return "confirm"
    return "tune" if held_out(f"{work} again", seed=seed, share=0.4) else "fit"


def texts(model: Model, sets: Sets, needs: Mapping[str, Need]) -> dict[str, list[Text]]:
    """The first tokens of documents of each set that is needed: one of every work, then a second, as far as it goes.

    Raises RequestError where a set that is needed has none.
    """
    found = {name: _set(model, sets.members[name], need) for name, need in needs.items()}
    if empty := [name for name, members in found.items() if not members]:
        wanted = needs[empty[0]]
        which = next(value for value, name in SPLITS.items() if name == empty[0])
        raise RequestError(
            f"of {sets.seen:,} documents none can be used to {empty[0]}: expected some of {_fewest(wanted)} tokens "
            + (f"or more, with split={which}." if sets.by_field else "or more; give a larger corpus.")
        )
    return found


def _set(model: Model, kept: Kept, need: Need) -> list[Text]:
    found: list[Text] = []
    left = {work: list(kept.works[work]) for work in kept.order()}
    while left and len(found) < need.documents:
        for work in list(left):
            if not left[work]:
                del left[work]
            elif len(found) < need.documents:
                found += _text(model, left[work].pop(0), work, need)
    return found


def _text(model: Model, document: Document, work: str, need: Need) -> Sequence[Text]:
    ids = first_tokens(model, document.text, need.tokens)
    if len(ids) < _fewest(need):
        return ()
    return (Text(document.number, work, tuple(ids.tolist())),)


def _fewest(need: Need) -> int:
    """Tokens that a document must have."""
    return need.tokens if need.whole else 2
