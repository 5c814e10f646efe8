"""A model's linear maps through the read-out's float32 product: no less exact, and twice as fast on some processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from midstream.model.product import product


class FastLinear(TorchFunctionMode):
    """Inside the ``with``, ``torch.nn.functional.linear`` in float32 on the CPU is ``readout.product.product``.

    Differentiable in its input, also after the ``with``; weights whose gradients are kept are left to PyTorch.
    """

    def __torch_function__(  # noqa: D105
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.linear and not kwargs and _ours(*args[:2]):
            x, weight, *bias = args
            made: Any = _Linear.apply(x, weight)
            return made if not bias or bias[0] is None else made + bias[0]
        return func(*args, **(kwargs or {}))


def _ours(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and weight.dim() == 2
    dense = weight.layout == torch.strided and x.numel() > 0
    return plain and dense and not (weight.requires_grad and torch.is_grad_enabled())


class _Linear(torch.autograd.Function):
    """``x @ weight.T``, its first derivative in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        (g,), (weight,) = gradients, ctx.saved_tensors
        return product(g.reshape(-1, g.shape[-1]), weight.T).reshape(*g.shape[:-1], -1), None
