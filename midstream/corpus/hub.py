"""Data sets of the Hugging Face hub: their files, fetched one at a time and only when the user names the data set."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from midstream.corpus.file import ENDINGS, File
from midstream.errors import RequestError
from midstream.hub import PREFIX, explained


def files(name: str) -> list[File]:
    """The files of a data set that can be read, by name, none fetched yet.

    Args:
        name: ``hf:OWNER/NAME``, all of it; ``hf:OWNER/NAME/PATH``, a file or folder of it. ``hf:datasets/OWNER/NAME``
            means the same.

    The newest commit is looked up once, and each file is fetched as it is there. Raises RequestError where the data
    set cannot be had, or holds no such file.
    """
    found = re.fullmatch(r"hf:(?:datasets/)?([\w.-]+/[\w.-]+)((?:/[\w. =+@,()-]+)*)/?", name)
    if not found or ".." in name.split("/"):
        raise RequestError(f"{name!r} names no data set of the hub: expected hf:OWNER/NAME or hf:OWNER/NAME/PATH.")
    repo, inside = found[1], found[2][1:]
    with explained(name):
        from huggingface_hub import HfApi

        about = HfApi().dataset_info(repo, files_metadata=True)
        commit = str(about.sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise RequestError(f"the hub names no commit of {name}: it said {commit[:80]!r}.")
        sizes = {entry.rfilename: entry.size for entry in about.siblings or ()}
    held = [file for file in sizes if not inside or file == inside or file.startswith(f"{inside}/")]
    chosen = sorted(filter(_is_read, held), key=lambda file: file.split("/"))
    if not chosen:
        kinds = ", ".join(sorted({PurePosixPath(file).suffix for file in held} - {""})[:20]) or "nothing"
        raise RequestError(f"{name} holds no {', '.join(ENDINGS)} file that could be read; it holds {kinds}.")
    return [
        File(
            Path(file),
            f"{PREFIX}{repo}/{file}",
            f"{PREFIX}{repo}/{file}",
            sizes[file],
            partial(_fetch, repo, file, commit),
        )
        for file in chosen
    ]


def _is_read(file: str) -> bool:
    """Whether a file is of a kind that can be read, and neither hidden nor meant to lie outside its repository."""
    return file.lower().endswith(ENDINGS) and all(part and part[0] != "." for part in file.split("/"))


def _fetch(repo: str, file: str, commit: str) -> Path:
    with explained(f"{PREFIX}{repo}/{file}"):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, file, repo_type="dataset", revision=commit))
