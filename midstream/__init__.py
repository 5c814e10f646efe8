"""midstream reads a language model in the middle of its thinking.

The names a user types; each is imported when first used, so that ``import midstream`` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Waiting OpenMP threads spin by default and cost four times the run time beside another job; torch reads this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# oneDNN and PyTorch keep 1,024 products each, compiled by shape: texts of many lengths would fill them for minutes.
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "16")

__version__ = "0.1.0"
__all__ = [
    "Add", "Edit", "Interpolate", "Lens", "Patching", "ProjectOut", "Reading", "Replace", "Sample", "Scale", "Score",
    "SetCoordinates", "Store", "Summary", "fit", "generate", "load", "load_edits", "open", "patch", "read",
    "run_study", "save_edits", "scan", "score",
]  # fmt: skip

if TYPE_CHECKING:
    from midstream.facade import *


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("midstream.facade"), name)
    raise AttributeError(f"module 'midstream' has no attribute {name!r}: it has {', '.join(__all__)}.")
