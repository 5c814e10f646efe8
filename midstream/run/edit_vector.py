"""Vectors as a user names them in an edit: ``unembedding: Paris``, ``lens:tuned: Paris``, ``difference:a.txt:b``.

In a token ``\\|`` is a bar and ``\\:`` a colon, where a bare one would end it; a backslash before anything else is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError, choices
from midstream.lens.file.find import find
from midstream.lens.read.direction import direction
from midstream.lens.read.reading import READERS
from midstream.model.model import Model
from midstream.stream.capture import capture
from midstream.stream.edit import Positions
from midstream.stream.vector import mean_difference, random_like, sinks

SOURCES = ("embedding", "unembedding", "lens", "difference", "random")

DOCUMENTS = 10_000
"""Of each file that a difference averages at most."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What edits are made for.

    Attributes:
        ids: the text's tokens, or those of the prompt where more are generated.
        generated: whether more are.
        seed: of random vectors; two of them are not the same.
    """

    model: Model
    ids: Sequence[int]
    generated: bool = False
    seed: int = 0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Makes the generator that all edits share."""
        object.__setattr__(self, "generator", torch.Generator().manual_seed(self.seed))

    @property
    def tensor(self) -> Tensor:
        """The tokens, ``[1, t]`` on the model's device. Raises RequestError where they do not fit in the context."""
        return whole(self.model, self.ids, "text")


def whole(model: Model, ids: Sequence[int], name: str) -> Tensor:
    """A text for one pass, ``[1, t]`` on the model's device.

    Raises RequestError where it is longer than the context: what is read in windows has no one stream to take from.
    """
    if len(ids) > model.context:
        raise RequestError(
            f"the {name} has {len(ids):,} tokens, and vectors are taken from a text of at most {model.context:,}, the "
            "model's context: give a shorter one, or vectors that come from no text."
        )
    return torch.tensor([ids], device=model.device)


@dataclass(frozen=True)
class Places:
    """Where an edit applies."""

    layers: tuple[int, ...]
    positions: Positions
    site: str

    def indices(self, tokens: int) -> list[int] | None:
        """Its positions as indices into that many tokens, ascending; None: all, or those still to come."""
        return sorted({p % tokens for p in self.positions}) if isinstance(self.positions, tuple) else None


def vectors(setting: Setting, places: Places, given: str) -> dict[int, Tensor]:
    """Layer -> the vector that ``given`` names there, ``[d]``, or ``[1, m, d]`` for the m edited positions.

    A lens direction is taken at each edited position of the text as it is; where positions are still to come it is the
    mean of the unit directions over the text's own. A vector that is the same at all layers is the same tensor.

    Raises:
        RequestError: for a source, token, lens or file that is not there.
    """
    source, _, rest = given.partition(":")
    if source not in SOURCES:
        raise choices("source of a vector", source, SOURCES)
    if source == "lens":
        return _lens(setting, places, rest)
    if source == "difference":
        return _difference(setting, places, rest)
    return dict.fromkeys(places.layers, _one(setting, source, rest))


def listed(given: str) -> list[str]:
    """``SOURCE:TOKEN|TOKEN`` -> ``SOURCE:TOKEN`` of each token."""
    source, _, tokens = _parted(given) if given.startswith("lens:") else given.partition(":")
    return [f"{source}:{token}" for token in re.split(r"(?<!\\)\|", tokens)]


def rows_of(setting: Setting, places: Places, names: Sequence[str]) -> dict[int, Tensor]:
    """Layer -> the vectors that the names give there, one each for all positions: ``[k, d]``."""
    found = [vectors(setting, places, name) for name in names]
    return {layer: torch.stack([mean_of(vector[layer]) for vector in found]) for layer in places.layers}


def mean_of(vector: Tensor) -> Tensor:
    """One vector ``[d]`` for all positions."""
    return vector if vector.dim() == 1 else vector.flatten(0, -2).mean(0)


def _one(setting: Setting, source: str, token: str) -> Tensor:
    anatomy = setting.model.anatomy
    if source == "random":
        if token:
            raise RequestError(f"a random vector was given {token!r}: it takes nothing; the seed chooses it.")
        return random_like(torch.full((anatomy.width,), anatomy.width**-0.5), setting.generator)
    ids = torch.tensor([_single(setting, token)], device=setting.model.device)
    return (anatomy.input_rows(ids) if source == "embedding" else anatomy.output_rows(ids))[0]


def _single(setting: Setting, token: str) -> int:
    return setting.model.tokenizer.single(re.sub(r"\\([:|])", r"\1", token))


def _parted(given: str) -> tuple[str, str, str]:
    """``NAME:TOKEN`` -> name, colon, token; a name may hold colons, so the last bare one parts them."""
    *name, token = re.split(r"(?<!\\):", given)
    return ":".join(name), ":" if name else "", token


def _lens(setting: Setting, places: Places, given: str) -> dict[int, Tensor]:
    name, colon, token = _parted(given)
    if not colon:
        raise RequestError(f"lens:{given} names no token: expected lens:NAME:TOKEN, for example 'lens:logit: Paris'.")
    model = setting.model
    lens, tokens = find(model, name), torch.tensor([_single(setting, token)])
    reader = READERS[lens.reader](model.anatomy)
    named = places.indices(len(setting.ids))
    averaged = named is None and setting.generated
    found: dict[int, Tensor] = {}
    for layer, h in capture(model, setting.tensor, layers=places.layers, site=places.site).items():
        rows = h[0] if named is None else h[0][named]
        if averaged and len(rows) > 1:
            rows = h[0][~sinks(h)[0]]
        towards = direction(reader, lens, layer, rows, tokens.expand(len(rows)))
        found[layer] = torch.nn.functional.normalize(towards, dim=-1).mean(0) if averaged else towards[None]
    return found


def _difference(setting: Setting, places: Places, given: str) -> dict[int, Tensor]:
    towards, colon, away = given.partition(":")
    if not colon:
        raise RequestError(f"difference:{given} names one file: expected difference:FILE:FILE.")
    model = setting.model

    def texts(file: str) -> list[list[int]]:
        documents = islice(open_corpus(file), DOCUMENTS)
        return [model.tokenizer.encode(document.text).ids[: model.context] for document in documents]

    return mean_difference(model, texts(towards), texts(away), places.layers, site=places.site)
