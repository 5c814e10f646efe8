"""The questions by name, a file of ``questions`` each: what stands here is what ``midstream study`` lists."""

from __future__ import annotations

from importlib import import_module

from midstream.errors import choices
from midstream.study.study import Study

NAMES = (
    "can_the_input_still_be_read",
    "does_anchoring_help",
    "is_the_input_stored_in_the_guess",
    "what_happens_after_a_surprise",
)


def study(name: str) -> Study:
    """The study of a name. Raises RequestError that lists all of them."""
    if name not in NAMES:
        raise choices("study", name, NAMES)
    return import_module(f"midstream.study.questions.{name}").STUDY
