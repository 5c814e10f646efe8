"""How a study's pages become HTML: templates in which every text is escaped, one style, a strict content policy."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from midstream.view import study_text

if TYPE_CHECKING:
    from jinja2 import Environment


def page(template: str, **values: Any) -> str:
    """The template of that name as one page without outside requests and without scripts.

    Every value is text: made harmless by ``prose``, then escaped.
    """
    look = _static("study.css")
    digest = base64.b64encode(hashlib.sha256(look.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _templates().get_template(f"{template}.html.jinja").render(look=_trusted(look), policy=policy, **values)


def inline(figure: bytes) -> str:
    """A figure, SVG or PNG, as an address that holds it: an image, in which nothing can run or be fetched."""
    kind = "png" if figure.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(figure).decode()}"


def address(path: str) -> str:
    """A relative path as a link: what could make it a scheme, a host or markup is percent-encoded."""
    return quote(path.lstrip("/"), safe="/.-_~")


def _static(name: str) -> str:
    return files("midstream.view").joinpath("static", name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # our own style sheet, which holds nothing of a report


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        autoescape=True, loader=FunctionLoader(_static), undefined=StrictUndefined, finalize=_harmless,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shared: dict[str, Any] = made.globals
    shared |= {"words": study_text, "inline": inline, "address": address}
    return made


def _harmless(value: object) -> object:
    return study_text.prose(value) if type(value) is str else value
