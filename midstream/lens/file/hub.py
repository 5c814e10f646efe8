"""Lens files on the Hugging Face hub: fetched and sent only when the user names one as ``hf:OWNER/NAME/FILE``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from midstream.errors import RequestError
from midstream.hub import PREFIX, explained
from midstream.lens.file.artifact import opened

_ENDINGS = (".safetensors", ".pt")


@dataclass(frozen=True)
class _Place:
    """A repository of the hub, its type, and a file in it (empty: not named)."""

    repo: str
    type: str
    file: str


def download(name: str) -> Path:
    """The local copy of a lens on the hub, fetched unless the newest one is here already.

    Args:
        name: ``hf:OWNER/NAME/FILE``, the file a ``.safetensors`` lens, a Jacobian-lens ``.pt`` or a tuned lens's
            ``params.pt`` (its ``config.json`` comes with it); ``hf:OWNER/NAME`` where that holds one ``.safetensors``;
            ``hf:spaces/OWNER/NAME/FILE`` and ``hf:datasets/...`` for the other kinds of repository.

    Raises:
        RequestError: it cannot be had, and why.
    """
    place = _parse(name)
    with explained(name):
        file = place.file or _only(place, name)
        path = _fetch(place, file)
        if file.rpartition("/")[2] == "params.pt":
            _fetch(place, f"{file[: -len('params.pt')]}config.json")
    return path


def upload(path: str | Path, name: str) -> str:
    """Sends a lens file to a repository of the user's, which is made if it does not exist.

    Args:
        path: a file that ``artifact.save`` wrote.
        name: ``hf:OWNER/NAME``, or ``hf:OWNER/NAME/FILE`` for another name there.

    Returns the address under which ``download`` finds it. Raises RequestError: it is no lens, or cannot be sent.
    """
    from huggingface_hub import HfApi

    opened(path)
    place = _parse(name)
    file = place.file or Path(path).name
    if not file.endswith(".safetensors"):
        raise RequestError(f"cannot send a lens as {file!r}: expected a name that ends in .safetensors.")
    with explained(name):
        hub = HfApi()
        hub.create_repo(place.repo, repo_type=place.type, exist_ok=True)
        hub.upload_file(path_or_fileobj=str(path), path_in_repo=file, repo_id=place.repo, repo_type=place.type)
    return f"{PREFIX}{'' if place.type == 'model' else place.type + 's/'}{place.repo}/{file}"


def _parse(name: str) -> _Place:
    found = re.fullmatch(r"hf:(spaces/|datasets/)?([\w.-]+/[\w.-]+)((?:/[\w. -]+)*)", name)
    file = found[3][1:] if found else ""
    if not found or ".." in file.split("/") or (file and not file.endswith(_ENDINGS)):
        raise RequestError(
            f"{name!r} names no lens of the hub: expected hf:OWNER/NAME/FILE, a FILE that ends in "
            f"{' or '.join(_ENDINGS)}."
        )
    return _Place(found[2], (found[1] or "models/")[:-2], file)


def _fetch(place: _Place, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(place.repo, file, repo_type=place.type))


def _only(place: _Place, name: str) -> str:
    """The one lens file of a repository. Raises RequestError, listing them, where there are several or none."""
    from huggingface_hub import HfApi

    files = [
        file for file in HfApi().list_repo_files(place.repo, repo_type=place.type) if file.endswith(".safetensors")
    ]
    if len(files) == 1:
        return files[0]
    listed = ", ".join(f"{name}/{file}" for file in files[:10]) or "no .safetensors file at all"
    raise RequestError(f"{name} holds {len(files)} lens files; name one of them: {listed}.")
