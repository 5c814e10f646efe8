"""Opens a ``.pt`` file that should hold tensors and numbers only, and runs nothing of it.

Such a file is a zip with a pickle in it, and a pickle is a program. Its instructions are read first: one that names
anything but what a dictionary of tensors needs is refused. ``torch.load(weights_only=True)`` then reads the rest.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from midstream.errors import RequestError

_NEEDED = frozenset(
    [
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "collections OrderedDict",
        *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long")),
    ]
)
"""What the pickle of a dictionary of tensors names."""
_MOST_PICKLE = 10_000_000
"""Bytes of that pickle; a tensor takes about 200."""
_MOST_FILES = 100_000


def open_tensors(path: Path) -> Any:
    """What the file holds; tensors stay mapped from disk.

    Raises:
        RequestError: it cannot be read, is damaged, is of the format before PyTorch 1.6, or wants to run something.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            # a packed entry could become any size when it is opened, and entries over each other as well
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or len(parts) > _MOST_FILES:
                raise unusable(path, "its parts are packed, which PyTorch does not do")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise unusable(path, "its parts are larger than the file")
            # PyTorch finds them in capitals as well; TorchScript has a second one
            program = [part for part in parts if part.filename.lower().endswith(("data.pkl", "constants.pkl"))]
            if len(program) != 1 or program[0].file_size > _MOST_PICKLE:
                raise unusable(path, "it holds no list of tensors, several, or too long a one")
            _check(path, archive.read(program[0]))
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RequestError:
        raise
    except zipfile.BadZipFile as error:
        raise unusable(path, "it is not what torch.save has written since PyTorch 1.6") from error
    except Exception as error:  # whatever a reader of a damaged file may say
        raise unusable(
            path, f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        ) from error


def unusable(path: Path, why: str) -> RequestError:
    """The error for a file that is no checkpoint of a lens."""
    return RequestError(f"{path} is no usable lens checkpoint: {why}. Expected a tuned lens or a Jacobian lens.")


def _check(path: Path, program: bytes) -> None:
    """Raises RequestError if the pickle names or makes anything that a dictionary of tensors does not need."""
    before, kept = "", dict[int, str]()
    for code, argument, _ in pickletools.genops(program):
        if code.name.endswith("BINPUT"):
            kept[int(argument or 0)] = before
        elif code.name.endswith("BINGET") and kept.get(int(argument or 0)) not in _USED_TWICE:
            raise unusable(path, "it uses an entry twice that no dictionary of tensors does")
        before = code.name
        name = str(argument) if code.name == "GLOBAL" else code.name if code.name in _OTHER_NAMES else ""
        if name and name not in _NEEDED:
            raise unusable(
                path, f"it is a pickle that asks for {name.replace(' ', '.')!r:.80}, a program that was not run"
            )


_USED_TWICE = ("BINUNICODE", "GLOBAL", "EMPTY_DICT", "EMPTY_LIST", "REDUCE", "BINPERSID")
"""Instructions whose result may be used again. Not those that make tuples: one that holds another twice, and so on
sixty deep, takes 2^60 steps to hash."""
_OTHER_NAMES = ("GET", "PUT", "MEMOIZE", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
"""Instructions that reach for objects in other ways; torch.save uses none of them for tensors."""
