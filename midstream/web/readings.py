"""The last readings, held in memory for who asks more about them."""

from __future__ import annotations

import secrets
from collections import OrderedDict

from midstream.errors import RequestError
from midstream.web.desk import Kept

KEPT = 8
"""Readings held: of the longest, 300,000 cells, some 70 MB each."""


class GoneError(RequestError):
    """A reading that is no longer held, or never was."""


class Readings:
    """Readings by names that cannot be guessed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, kept: Kept) -> str:
        """The name under which it can be had, until ``KEPT`` others have come."""
        name = secrets.token_urlsafe(12)
        self._kept[name] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Kept:
        """Raises GoneError."""
        found = self._kept.get(name)
        if found is None:
            raise GoneError("this reading is no longer held: read the text again.")
        return found
