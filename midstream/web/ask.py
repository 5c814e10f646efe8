"""What a page may ask: values that are checked, and never a path."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from midstream.errors import RequestError, choices
from midstream.view.chart import DEFAULT

LONGEST = 200_000
"""Characters of a text that a page may send."""

Site = Literal["resid_post", "resid_mid", "attn_out", "mlp_out"]
Name = Annotated[str, Field(max_length=300)]
Text = Annotated[str, Field(max_length=LONGEST)]
LAYERS = r"^-?[0-9]+(-[0-9]+)?(,-?[0-9]+(-[0-9]+)?)*$"
POSITIONS = r"^(new|-?[0-9]+(-[0-9]*)?(,-?[0-9]+(-[0-9]*)?)*)$"
ANCHOR = r"^([0-9]{1,4}:[0-9.]{1,8})?$"
LIKE = {
    LAYERS: "layers such as 20, 3-7 or 1,5,-1",
    POSITIONS: "positions such as 4, 2-5, 3- or new, or none for all",
    ANCHOR: "a layer and a strength such as 15:0.1, or nothing",
}
"""Pattern -> what it expects, in words."""
Layers = Annotated[str, Field(max_length=800, pattern=LAYERS)]
Positions = Annotated[str, Field(max_length=800, pattern=POSITIONS)]


class Ask(BaseModel):
    """A request's body: what is not declared is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EditAsk(Ask):
    """A change to the stream, as its parts: ``docs/edit.md`` says what they mean."""

    kind: Literal["add", "replace", "interpolate", "project_out", "scale", "patch", "swap"]
    layers: Layers
    positions: Positions | None = None
    site: Site = "resid_post"
    vector: Literal["embedding", "unembedding", "lens", "random"] = "unembedding"
    lens: Name = "logit"
    token: Name = ""
    other: Name = ""
    text: Text = ""
    amount: Annotated[float, Field(allow_inf_nan=False)] | None = None
    relative: bool = True

    def spec(self, lenses: Mapping[str, str]) -> str:
        """The edit as a user of the command line writes it. Raises RequestError for a lens that is not listed."""
        pieces = [f"layers={self.layers}", f"site={self.site}"]
        pieces += [] if self.positions is None else [f"positions={self.positions}"]
        if self.kind == "scale":
            pieces.append(f"scale={0.0 if self.amount is None else self.amount:g}")
        elif self.kind == "patch":
            pieces.append(f"patch={shlex.quote(self.text)}")
        elif self.kind == "swap":
            if self.token.endswith("\\"):
                raise RequestError("a swap cannot name a token that ends in a backslash: before a bar it is an escape.")
            pair = f"{_escaped(self.token)}|{_escaped(self.other)}"
            pieces.append(f"swap={shlex.quote(f'{self._source(lenses)}:{pair}')}")
        else:
            vector = "random" if self.vector == "random" else f"{self._source(lenses)}:{_escaped(self.token)}"
            pieces.append(f"{self.kind}={shlex.quote(vector)}")
            pieces += self._strength()
        return " ".join(pieces)

    def _strength(self) -> list[str]:
        if self.amount is None:
            return ["alpha=0.1"] if self.kind == "interpolate" else []
        key = {"interpolate": "alpha", "add": "length" if self.relative else "times"}.get(self.kind)
        return [] if key is None else [f"{key}={self.amount:g}"]

    def _source(self, lenses: Mapping[str, str]) -> str:
        if self.vector != "lens":
            return self.vector
        if self.lens not in lenses:
            raise choices("lens", self.lens, lenses)
        return f"lens:{lenses[self.lens]}"


def _escaped(token: str) -> str:
    return token.replace(":", "\\:").replace("|", "\\|")


Edits = Annotated[list[EditAsk], Field(max_length=32)]


class ReadAsk(Ask):
    """A reading of one text by one model (empty: the one in memory); with edits also what these have moved."""

    text: Text
    model: Name = ""
    lenses: Annotated[list[Name], Field(max_length=8)] = []
    every: Annotated[int, Field(ge=1, le=1000)] = 1
    sites: Annotated[list[Site], Field(min_length=1, max_length=4)] = ["resid_post"]
    top_k: Annotated[int, Field(ge=1, le=50)] = 10
    special: bool = False
    statistic: Name = DEFAULT
    edits: Edits = []


class CodeAsk(ReadAsk):
    """A reading as it is on a page: ``watch`` are the ids of the tokens that are followed there."""

    watch: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []


class SampleAsk(Ask):
    """A continuation by one model (empty: the one in memory), with edits and beside it without."""

    text: Text
    model: Name = ""
    edits: Edits = []
    anchor: Annotated[str, Field(max_length=13, pattern=ANCHOR)] = ""
    tokens: Annotated[int, Field(ge=1, le=512)] = 40
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class FollowAsk(Ask):
    """Tokens to be followed exactly at one position of a reading."""

    reading: Name
    position: int
    tokens: Annotated[list[int], Field(min_length=1, max_length=16)]


class NearAsk(Ask):
    """The positions of a reading whose stream is most like that of one."""

    reading: Name
    position: int
    layer: int
    site: Site = "resid_post"


class ModelAsk(Ask):
    """Another model in place of the one in memory."""

    model: Name
