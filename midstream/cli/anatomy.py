"""``midstream anatomy``: what was found in a model, and whether the proof holds."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from midstream.cli.options import Device, Dtype, EngineName, ModelName, load_model


def anatomy(
    model: ModelName = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
) -> None:
    """Print the parts found in a model, whether its embeddings are tied, and the proof's error."""
    found = _described(load_model(model, engine=engine, device=device, dtype=dtype))
    if output == "json":
        print(json.dumps(found, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(Text(name, style="bold"), Text(shown or "none"))
    Console().print(table)


def _described(model: Any) -> dict[str, Any]:
    """What the command prints, by name; shared by both formats so that they cannot differ."""
    parts, proof = model.anatomy, model.proof
    names = {id(module): name for name, module in model.module.named_modules()}

    def place(module: Any) -> str:
        return "none" if module is None else f"{names.get(id(module), '?')} ({type(module).__name__})"

    return {
        "model": model.name,
        "family": parts.family,
        "engine": model.engine,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "layers": f"0 to {parts.layers} ({parts.layers} blocks)",
        "width": parts.width,
        "vocabulary": parts.vocabulary,
        "context": model.context,
        "input embedding": place(parts.embedding),
        "blocks": f"{place(parts.blocks[0])} to {place(parts.blocks[-1])}",
        "final norm": place(parts.final_norm),
        "unembedding": place(parts.unembedding),
        "bias": "yes" if getattr(parts.unembedding, "bias", None) is not None else "no",
        "logit scale": parts.logit_scale,
        "soft cap": parts.soft_cap or "none",
        "input and output embeddings": parts.tied,
        "sites": list(parts.sites),
        "exceptions": list(parts.exceptions),
        "proof": f"the parts give the model's own logits to {proof.error:.1e} (bound {proof.bound:.0e})",
        "blocks checked": f"{', '.join(proof.checked)}: largest relative error {proof.blocks:.1e}",
        "not checked": list(proof.skipped),
        "fingerprint": model.fingerprint.identity,
        **model.fingerprint.circumstances,
    }
