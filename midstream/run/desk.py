"""What a person at the workbench asks for: one model in memory, lenses by name, readings that come layer by layer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from midstream.errors import MidstreamError, RequestError, choices
from midstream.lens.file import folder
from midstream.lens.file.find import find
from midstream.lens.lens import BUILT_IN, Lens
from midstream.lens.read.reading import read_by_layers, read_chunks
from midstream.lens.read.request import ReadOptions, Request, default_lenses, request
from midstream.lens.read.table import join
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.outline import Outline, Planned
from midstream.record import Array, Provenance, ReadingTable
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.provenance import provenance
from midstream.run.text import LARGEST_PAGE, count_rows, encode
from midstream.stream.capture import capture_sites
from midstream.stream.vector import sinks

GROUP = 10
"""Layers that are read together: a row of 50 tokens takes some 15 ms, and each group costs two rows more."""

NEAREST = 8
"""Positions that are named as those whose stream is most alike."""

SITES = ("attn_out", "resid_mid", "mlp_out", "resid_post")
"""In the order in which a block computes them."""


class TooLongError(RequestError):
    """A text of more tokens than are read at once.

    Attributes:
        first: the part of it that would be read.
    """

    def __init__(self, text: str, first: str) -> None:
        super().__init__(text)
        self.first = first


@dataclass(frozen=True, eq=False)
class Shown:
    """A reading that is on somebody's page, and can be asked more about.

    Attributes:
        outline: its shape; request: what is read; stamp: where it comes from, the model's identity in it.
    """

    encoded: Encoded
    request: Request
    outline: Outline
    stamp: Provenance


@dataclass
class Desk:
    """One model, and what can be asked of it.

    Attributes:
        load: what names a model -> the model, as ``model.load.load``.
        models: name that may be chosen -> what ``load`` takes for it; the first one is loaded at first.
        folders: folders whose lens files may be chosen by name, beside the model's own lens folder.
        most: tokens of a text that are read at once.
    """

    load: Callable[[str], Model]
    models: Mapping[str, str]
    folders: Sequence[Path] = ()
    most: int = 2048
    chosen: str = field(init=False)
    _model: Model | None = field(init=False, default=None)
    _lenses: dict[tuple[str, int], Lens] = field(init=False, default_factory=dict[tuple[str, int], Lens])

    def __post_init__(self) -> None:
        """Load the first model."""
        self.chosen = next(iter(self.models))
        self._model = self.load(self.models[self.chosen])

    @property
    def model(self) -> Model:
        """The one in memory. Raises RequestError while there is none."""
        if self._model is None:
            raise RequestError("no model is in memory: wait until one is loaded, or choose another.")
        return self._model

    def choose(self, name: str) -> None:
        """Another model in place of this one, which leaves memory first, and comes back where the other cannot be had.

        Raises RequestError for a name that is not among ``models``, and as ``load``.
        """
        if name not in self.models:
            raise choices("model", name, self.models)
        if name == self.chosen and self._model is not None:
            return
        self._model = None
        self._lenses.clear()
        gc.collect()  # modules refer to themselves through their hooks
        try:
            self._model = self.load(self.models[name])
        except Exception as error:  # of the library too, such as too little memory
            self._model = self.load(self.models[self.chosen])
            if isinstance(error, MidstreamError):
                raise
            said = str(error).strip().partition("\n")[0]
            raise RequestError(f"{name} could not be loaded: {said or type(error).__name__}") from error
        self.chosen = name

    def lenses(self) -> dict[str, str]:
        """Name of a lens -> what ``lens.find`` takes for it: built in, in the lens folder, then the given folders'."""
        found: dict[str, str] = {name: name for name in (*BUILT_IN, *folder.available(self.model))}
        for place in self.folders:
            for file in folder.files(place):
                found.setdefault(f"{place.name}/{file.stem}", str(file))
        return found

    def watched(self, tokens: Sequence[int]) -> list[str]:
        """Each token as a text that is this token alone; those that no text is are left out."""
        found: list[str] = []
        for token in dict.fromkeys(tokens):
            if token < self.model.anatomy.vocabulary:
                with suppress(MidstreamError, UnicodeDecodeError):
                    text = self.model.tokenizer.token_bytes(token).decode()
                    found += [text] if self.model.tokenizer.single(text) == token else []
        return found

    def usual(self) -> tuple[str, ...]:
        """The lenses that are read where none are named."""
        return default_lenses(self.model)

    def show(self, text: str, options: ReadOptions, *, command: str) -> Shown:
        """What a reading will have; ``rows`` reads it.

        Args:
            options: its ``lens`` names are those of ``lenses``; its edits are texts as ``run.edit_spec`` says, whose
                files nobody checks here.
            command: what gives the same on the command line.

        Raises:
            TooLongError: the text has more than ``most`` tokens.
            RequestError: for what the model lacks, and an empty text.
        """
        encoded = self.encode(text, special=options.get("special", False))
        edits = edits_of(Setting(self.model, encoded.ids), list(options.get("edits", ())))  # pyright: ignore[reportArgumentType]
        wanted = request(self.model, {**options, "lens": self._read(options.get("lens")), "edits": edits})
        if (rows := count_rows(encoded, wanted)) > LARGEST_PAGE:
            raise RequestError(
                f"{rows:,} cells are more than a page shows well: expected at most {LARGEST_PAGE:,}; read "
                "fewer layers, lenses or tokens."
            )
        stamp = provenance(self.model, wanted, encoded.ids, command)
        return Shown(encoded, wanted, self._outline(encoded, wanted), stamp)

    def rows(self, shown: Shown) -> Iterator[ReadingTable]:
        """Its rows, the output's first, then layer by layer down."""
        self._same(shown)
        layers = sorted(shown.request.layers, reverse=True)
        groups = [layers[:1], *(layers[at : at + GROUP] for at in range(1, len(layers), GROUP))]
        for part in read_by_layers(self.model, shown.encoded, shown.request, groups):
            yield replace(part, provenance=shown.stamp)

    def follow(self, shown: Shown, position: int, tokens: Sequence[int]) -> dict[str, Array]:
        """Exact rank and log-probability of some tokens at one position, at every place and by every lens: WATCHED."""
        self._same(shown)
        count, vocabulary = len(shown.encoded.ids), self.model.anatomy.vocabulary
        if not 0 <= position < count or not all(0 <= token < vocabulary for token in tokens):
            raise RequestError(f"expected a position from 0 to {count - 1} and tokens from 0 to {vocabulary - 1}.")
        named = np.tile(np.asarray(tokens, np.int64), (count, 1))
        wanted = replace(shown.request, top_k=1, versus=False, watch=())
        parts = read_chunks(self.model, shown.encoded, wanted, named=named, positions=np.array([position]))
        return join(list(parts)).watched

    def near(self, shown: Shown, position: int, layer: int, site: str) -> list[tuple[int, float]]:
        """The positions whose stream is most like this one's there, with the cosine of what is left of both less the
        mean over the text; attention sinks are no neighbours."""
        self._same(shown)
        if not 0 <= position < len(shown.encoded.ids):
            raise RequestError(f"position {position}: expected 0 to {len(shown.encoded.ids) - 1}.")
        ids = torch.tensor([shown.encoded.ids], device=self.model.device)
        h = capture_sites(self.model, ids, [(layer, site)], edits=shown.request.edits)[layer, site][0].float()
        usual = ~sinks(h[None])[0]
        if not bool(usual[position]):
            return []
        x = h - h[usual].mean(0)
        cosine = torch.nn.functional.cosine_similarity(x, x[position], dim=-1)
        cosine[~usual] = -2
        cosine[position] = -2
        best = cosine.topk(min(NEAREST, len(cosine)))
        return [(int(i), float(c)) for i, c in zip(best.indices, best.values, strict=True) if c > -2]

    def encode(self, text: str, *, special: bool = False) -> Encoded:
        """The tokens of a text. Raises TooLongError and RequestError."""
        encoded = encode(self.model, text, special=special)
        most = min(self.most, self.model.context)
        if len(encoded.ids) > most:
            first = b"".join(self.model.tokenizer.token_bytes(token) for token in encoded.ids[:most])
            raise TooLongError(
                f"the text has {len(encoded.ids):,} tokens: at most {most:,} are read at once.",
                first.decode("utf-8", errors="ignore"),
            )
        return encoded

    def _same(self, shown: Shown) -> None:
        """Raise RequestError where the reading is another model's."""
        if shown.stamp.identity != self.model.fingerprint.identity:
            raise RequestError(
                f"this was read by {shown.stamp.model}, and {self.model.name} is in memory: read it again."
            )

    def _read(self, names: object) -> list[Lens]:
        """The lenses of these names, each file's in memory once: a reading is kept with its lenses."""
        known = self.lenses()
        listed = list(names) if isinstance(names, (list, tuple)) else list(self.usual())
        if unknown := [name for name in listed if name not in known]:
            raise choices("lens", unknown[0], known)
        return [self._found(known[name]) for name in listed]

    def _found(self, name: str) -> Lens:
        if name in BUILT_IN:
            return find(self.model, name)
        file = Path(name) if Path(name).is_file() else folder.path(self.model, name)
        key = (name, file.stat().st_mtime_ns if file.is_file() else 0)
        if key not in self._lenses:
            self._lenses[key] = find(self.model, name)
        return self._lenses[key]

    def _outline(self, encoded: Encoded, wanted: Request) -> Outline:
        tokenizer = self.model.tokenizer
        return Outline(
            model=self.model.name,
            precision=wanted.precision,
            layers=self.model.anatomy.layers,
            tokens=tuple(encoded.ids),
            kinds=tuple(encoded.kinds),
            texts={token: tokenizer.token(token) for token in set(encoded.ids)},
            top_k=wanted.top_k,
            lenses=tuple(
                Planned(lens.name, lens.offset, tuple(sorted(wanted.places(lens), key=_order)))
                for lens in wanted.lenses
            ),
        )


def _order(place: tuple[int, str]) -> tuple[int, int]:
    return place[0], SITES.index(place[1])
