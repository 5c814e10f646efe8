"""The only file that registers PyTorch hooks; they are always removed, whatever happens inside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Side = Literal["input", "output"]
"""Which end of a module is seen: its first input or its first output."""

See = Callable[[Tensor], Tensor | None]
"""Called with the tensor as it passes; what it returns takes the tensor's place, ``None`` leaves it."""

Point = tuple[nn.Module, Side, See]
"""One place to look at: a module, its side, and what to call with the tensor there."""


class Stop(BaseException):
    """Raised by a ``See`` to end the forward pass early; ``hooked`` catches it.

    It is no ``Exception``, so that no ``except Exception`` inside a model swallows it.
    """


@contextmanager
def hooked(points: Iterable[Point]) -> Generator[None]:
    """Inside the ``with``, every module of ``points`` shows its first input or output to its ``See``.

    The hooks are removed on leaving, also by an exception or Ctrl-C. ``Stop`` ends the block quietly.
    """
    handles: list[RemovableHandle] = []
    try:
        for module, side, see in points:
            handles.append(_register(module, side, see))
        yield
    except Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


def first(value: Any) -> Tensor | None:
    """The first tensor of a module's output: itself, the first of a tuple or of a model output; else ``None``."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list) and value:
        return first(value[0])
    if isinstance(value, Mapping):
        return first(next(iter(value.values()), None))
    if is_dataclass(value) and fields(value):
        return first(getattr(value, fields(value)[0].name))
    return None


def _register(module: nn.Module, side: Side, see: See) -> RemovableHandle:
    if side == "output":

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            tensor = first(output)
            changed = None if tensor is None else see(tensor)
            return None if changed is None else _with_first(output, changed)

        return module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = _first_argument(args, kwargs)
        if place is None:
            return None
        changed = see(args[place] if isinstance(place, int) else kwargs[place])
        if changed is None:
            return None
        if isinstance(place, int):
            return (*args[:place], changed, *args[place + 1 :]), kwargs
        return args, {**kwargs, place: changed}

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str | None:
    """Where the stream comes in: the first tensor among the positional arguments, or ``hidden_states``."""
    for index, value in enumerate(args):
        if isinstance(value, Tensor):
            return index
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return "hidden_states"
    return next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)


def _with_first(output: Any, tensor: Tensor) -> Any:
    """The same output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple | list):
        return type(output)([_with_first(output[0], tensor), *output[1:]])
    if isinstance(output, Mapping):
        name = next(iter(output))
        return type(output)(**{**output, name: tensor})
    return replace(output, **{fields(output)[0].name: tensor})
