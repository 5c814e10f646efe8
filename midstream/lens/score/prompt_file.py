"""Prompt files, as published with the Jacobian lens (Gurnee et al. 2026).

``{"items": [{"prompt": ..., "intermediates": [...], "target": ...}]}``; other fields are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream.errors import RequestError

LARGEST = 1 << 24
"""Bytes of the largest prompt file that is opened."""

MOST_ITEMS = 2_000
MOST_INTERMEDIATES = 10_000
"""Items of a file, and intermediates of all of them together: every intermediate is ranked at every prompt."""

LONGEST = 65_536
"""Characters of a prompt, an intermediate or a target."""


@dataclass(frozen=True)
class Item:
    """One prompt with the words that a good lens should surface, and what the model should say (not scored)."""

    prompt: str
    intermediates: tuple[str, ...]
    target: str | None = None


def load(path: str | Path) -> list[Item]:
    """The items of a prompt file. Raises RequestError, with the item's number, for whatever is not as it should be."""
    try:
        if (size := Path(path).stat().st_size) > LARGEST:
            raise RequestError(f"{str(path)!r} has {size:,} bytes: expected a prompt file of at most {LARGEST:,}.")
        found = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RequestError(f"cannot read {str(path)!r}: {error.strerror}; expected a prompt file.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{str(path)!r} is no JSON in UTF-8 ({str(error)[:100]}): expected a prompt file."
        ) from error
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(items, list) or not 0 < len(items) <= MOST_ITEMS:
        raise RequestError(
            f'{str(path)!r} holds no items: expected {{"items": [{{"prompt": ..., "intermediates": [...]}}]}}, '
            f"1 to {MOST_ITEMS:,} of them."
        )
    read = [_item(entry, f"item {number} of {str(path)!r}") for number, entry in enumerate(items, 1)]
    if (count := sum(len(item.intermediates) for item in read)) > MOST_INTERMEDIATES:
        raise RequestError(
            f"{str(path)!r} has {count:,} intermediates: expected at most {MOST_INTERMEDIATES:,} in all."
        )
    return read


def _item(entry: Any, where: str) -> Item:
    if not isinstance(entry, dict):
        raise RequestError(f"{where} is no object: expected one with prompt and intermediates.")
    given: dict[str, Any] = entry
    words = given.get("intermediates")
    if not isinstance(words, list) or not words:
        raise RequestError(f"{where} has no list of intermediates: expected at least one text.")
    target = given.get("target")
    texts = {"prompt": given.get("prompt")} | {f"intermediate {n}": word for n, word in enumerate(words, 1)}
    for name, text in texts.items() if target is None else (*texts.items(), ("target", target)):
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
            raise RequestError(f"{where}: its {name} is no text of 1 to {LONGEST:,} characters, not only blanks.")
    return Item(given["prompt"], tuple(words), target)
