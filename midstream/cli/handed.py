"""The desk as the web app takes it: what a page asked, as calls of ``run.desk``; and as the code that says the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from midstream.errors import RequestError
from midstream.view.chart import usual

if TYPE_CHECKING:
    from midstream.record import Array, ReadingTable
    from midstream.run.desk import Desk
    from midstream.web.ask import FollowAsk, NearAsk, ReadAsk, SampleAsk


class Handed:
    """See ``web.desk.Desk`` for what its functions give."""

    def __init__(self, desk: Desk, given: Mapping[str, str | None] | None = None) -> None:
        """``given``: what every model is loaded with: options of ``load`` -> value, None where it was not said."""
        self._desk = desk
        self._given = {name: value for name, value in (given or {}).items() if value is not None}
        self.models = tuple(desk.models)
        self._about = self._now()

    def choose(self, name: str) -> None:
        """Another model."""
        self._desk.choose(name)

    def about(self) -> dict[str, Any]:
        """What is in memory, or was until another began to be loaded."""
        with suppress(RequestError):
            self._about = self._now()
        return self._about

    def _now(self) -> dict[str, Any]:
        model = self._desk.model
        return {
            "model": self._desk.chosen,
            "name": model.name,
            "blocks": model.anatomy.layers,
            "sites": list(model.anatomy.sites),
            "lenses": list(self._desk.lenses()),
            "usual": list(self._desk.usual()),
            "tokens": min(self._desk.most, model.context),
        }

    def show(self, ask: ReadAsk) -> Any:
        """What a reading will have; with edits also what they have moved."""
        known = self._desk.lenses()
        options: Any = {
            "lens": ask.lenses or None,
            "every": ask.every,
            "site": ask.sites,
            "top_k": ask.top_k,
            "special": ask.special,
            "edits": [edit.spec(known) for edit in ask.edits],
            "versus": bool(ask.edits),
        }
        return self._desk.show(ask.text, options, command=self.code(ask)["command"])

    def rows(self, shown: Any) -> Iterator[ReadingTable]:
        """Its rows."""
        return self._desk.rows(shown)

    def follow(self, shown: Any, ask: FollowAsk) -> Mapping[str, Array]:
        """Exact ranks."""
        return self._desk.follow(shown, ask.position, ask.tokens)

    def near(self, shown: Any, ask: NearAsk) -> Sequence[tuple[int, float]]:
        """Nearest positions."""
        return self._desk.near(shown, ask.position, ask.layer, ask.site)

    def sample(self, ask: SampleAsk) -> Iterator[Any]:
        """Continuations."""
        from midstream.run.desk_sample import continued
        from midstream.sample.choose import Choice
        from midstream.sample.generate import Options

        specs = [edit.spec(self._desk.lenses()) for edit in ask.edits]
        options = Options(ask.tokens, Choice(temperature=ask.temperature, top_p=ask.top_p), seed=ask.seed)
        return continued(self._desk.model, ask.text, options, specs, ask.anchor)

    def code(self, ask: ReadAsk, watch: Sequence[int] = ()) -> dict[str, str]:
        """The command, and the Python, that read the same. Raises RequestError where another model is in memory."""
        known, chosen = self._desk.lenses(), self._desk.chosen
        if ask.model not in ("", chosen):
            raise RequestError(f"{ask.model} is no longer in memory, but {chosen}: read the text again.")
        lenses, edits = [known.get(name, name) for name in ask.lenses], [edit.spec(known) for edit in ask.edits]
        named: dict[str, Any] = {"model": None if chosen == "default" else chosen, **self._given}
        named |= {"lens": lenses, "edit": edits}
        named |= {
            "site": ask.sites if ask.sites != ["resid_post"] else [],
            "every": None if ask.every == 1 else ask.every,
        }
        named |= {"top-k": None if ask.top_k == 10 else ask.top_k, "watch": self._desk.watched(watch)}
        named |= {"color": None if ask.statistic in ("", usual(bool(ask.edits))) else ask.statistic}
        return {"command": _command(ask, named), "python": _python(ask, named, self._given)}


def _command(ask: ReadAsk, named: dict[str, Any]) -> str:
    words = ["midstream", "read"]
    for name, value in named.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{name}", str(one)]
    words += ["--versus"] if ask.edits else []
    words += ["--special"] if ask.special else []
    return shlex.join([*words, *(["--"] if ask.text.startswith("-") else []), ask.text])


def _python(ask: ReadAsk, named: dict[str, Any], given: dict[str, str]) -> str:
    names = {"edit": "edits", "top-k": "top_k"}
    left = ("model", "color", *given)
    options: dict[str, Any] = {name: value for name, value in named.items() if value and name not in left}
    options |= ({"versus": True} if ask.edits else {}) | ({"special": True} if ask.special else {})
    loaded = [] if named["model"] is None else [repr(named["model"])]
    loaded += [f"{name}={value!r}" for name, value in given.items()]
    read = "".join(f", {names.get(name, name)}={value!r}" for name, value in options.items())
    colour = "" if named["color"] is None else repr(named["color"])
    return (
        f"import midstream as ms\n\nmodel = ms.load({', '.join(loaded)})\n"
        f"reading = ms.read(model, {ask.text!r}{read})\nreading.show({colour})\n"
    )
