"""What a reading is going to have, known before any of it has been read: for views that show it as it comes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planned:
    """One lens of a reading.

    Attributes:
        offset: it is about the token at position + offset.
        places: (layer, site) of its rows, layer 0 first, within a block in the order of computation.
    """

    lens: str
    offset: int
    places: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Outline:
    """A reading's shape.

    Attributes:
        model, precision: as the reading's provenance names them; layers: blocks of the model.
        tokens, kinds: id and kind of every token of the text.
        texts: token id -> its text, of the tokens of the text.
        top_k: best tokens of each row.
    """

    model: str
    precision: str
    layers: int
    tokens: tuple[int, ...]
    kinds: tuple[str, ...]
    texts: dict[int, str]
    top_k: int
    lenses: tuple[Planned, ...]
