"""A synthetic reading that looks like a logit lens: noise in low layers, the right token late. Seeded, no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from midstream.record import READING, WATCHED, Provenance, ReadingTable

_WORDS = (
    " The the a Paris London France city of in is tower located Eiffel that which was and to for with on as by at from "
    "river Rome north capital 19 museum built iron , . ; : ( ) - 's ing ed ly tion able ic al ment ous pre un"
)
HOSTILE = (
    "<script>window.__pwned=1</script>", '"><img src=x onerror=window.__pwned=1>', "</script>", "\n", "\t",
    " \u202eabc", "\ud83d", "\\xf0\\x9f", "[red]x[/red]", "'", "&amp;", "e\u0301\u0301\u0301\u0301\u0301", "\u0301",
    "日本語", "👍", "مرحبا", "\u200b", "\x00", "\x85", "$x^2$", "`${1}`", "",
)  # fmt: skip


VERSUS_OF = ("unedited_rank", "unedited_entropy")
"""Columns of a comparison with the unedited run, which here has the same numbers; its log-probability differs."""


def vocabulary(size: int = 400) -> dict[int, str]:
    """Token id -> text: words with a leading space, pieces, and then the hostile ones at the end."""
    rng = np.random.default_rng(3)
    texts = [(" " if len(word) > 2 else "") + word for word in _WORDS.split(" ")]
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    while len(texts) < size - len(HOSTILE):
        piece = "".join(rng.choice(letters, rng.integers(2, 9)))
        texts.append((" " if rng.random() < 0.6 else "") + piece)
    return dict(enumerate(texts[: size - len(HOSTILE)] + list(HOSTILE)))


def reading(
    *, tokens: int = 12, layers: int = 30, size: int = 400, subs: bool = False, watch: tuple[int, ...] = (4,)
) -> tuple[ReadingTable, dict[str, np.ndarray]]:
    """A table of one text (lens ``logit``, top 10) and its tracks, exact by construction.

    ``subs`` adds the three sites inside each block. The last position's output is " Paris"; its target is unknown.
    """
    rng = np.random.default_rng(tokens * 1000 + layers)
    words = vocabulary(size)
    ids = rng.integers(0, size - len(HOSTILE), tokens).astype(np.int32)
    mean = min(tokens // 2, len(HOSTILE))
    ids[tokens - 1 - mean : tokens - 1] = np.arange(size - len(HOSTILE), size)[:mean]
    final = rng.gumbel(size=(tokens, size)) * 1.6
    final[np.arange(tokens - 1), ids[1:]] += np.where(rng.random(tokens - 1) < 0.55, 15.0, 6.0)
    final[-1, 4] += 14.0
    parts = []
    for site in ("attn_out", "mlp_out", "resid_mid", "resid_post") if subs else ("resid_post",):
        for layer in range(0 if site == "resid_post" else 1, layers + 1):
            parts.append((layer, site, _logits(rng, final, ids, layer / layers, site)))
    columns = _join([_columns(z, final, ids, layer, site, parts[-layers - 1][2]) for layer, site, z in parts])
    columns["token"] = np.array([words[i] for i in columns["token_id"].tolist()], object)
    columns |= {name: columns[name.removeprefix("unedited_")] for name in VERSUS_OF}
    columns["unedited_top_id"] = columns["top_ids"][:, 1]
    columns["kl_unedited"] = rng.exponential(size=len(columns["rank"])).astype(np.float32)
    columns["unedited_logprob"] = columns["logprob"] * rng.lognormal(size=len(columns["rank"])).astype(np.float32)
    firsts = columns["top_ids"][:, 0].reshape(-1, tokens)
    led = [sorted(set(firsts[:, p].tolist())) for p in range(tokens)]
    kinds = np.array(["special", *["text"] * (tokens - 1)], object)
    places = {"doc_id": np.zeros(tokens, np.int32), "position": np.arange(tokens), "token_id": ids, "kind": kinds}
    made = Provenance(model="SmolLM2-135M-Instruct", precision={"name": "exact"}, time="2026-01-01T00:00:00Z")
    watched = _tracks(parts, [list(watch)] * tokens)
    return ReadingTable(columns, places, watched, words, made, layers), _tracks(parts, led)


def several(**options: int) -> tuple[ReadingTable, dict[str, np.ndarray]]:
    """The same text by three lenses: ``logit``; ``future:1`` (offset 2); ``input`` (only ranks, layers 0 to 3)."""
    table, tracks = reading(**options)
    ahead, back = {**table.columns}, {**table.columns}
    length = len(table.positions["position"])
    ids = table.positions["token_id"]
    known = table.columns["position"] + 2 < length
    ahead |= {"lens": np.full(len(table), "future:1", object), "offset": np.full(len(table), 2, np.int16)}
    ahead["target_id"] = np.where(known, np.append(ids, [-1, -1])[table.columns["position"] + 2], -1).astype(np.int32)
    back |= {name: np.full_like(v, np.nan) for name, v in back.items() if v.dtype.kind == "f"}
    back |= {"lens": np.full(len(table), "input", object), "offset": np.zeros(len(table), np.int16)}
    back |= {"target_id": table.columns["token_id"], "rank": table.columns["input_rank"]}
    back["final_top1_rank"] = np.full(len(table), -1, np.int32)
    few = table.columns["layer"] < 4
    columns = _join([table.columns, ahead, {name: values[few] for name, values in back.items()}])
    return replace(table, columns=columns), tracks


def _logits(rng: np.random.Generator, final: np.ndarray, ids: np.ndarray, depth: float, site: str) -> np.ndarray:
    """``[n, V]``: at depth 0 the input token leads, in the middle noise, at depth 1 the output."""
    late = 1 / (1 + np.exp(-22 * (depth - rng.normal(0.86, 0.05, (len(ids), 1)))))
    late = np.where(depth == 1, 1.0, late) if site == "resid_post" else late * 0.7
    noise = rng.gumbel(size=final.shape) * (1.2 + 1.5 * np.sin(np.pi * depth))
    z = late * final + (1 - late) * noise
    z[np.arange(len(ids)), ids] += 14 * max(0.0, 1 - 3 * depth)
    return z


def _columns(
    z: np.ndarray, final: np.ndarray, ids: np.ndarray, layer: int, site: str, base: np.ndarray
) -> dict[str, np.ndarray]:
    n = len(ids)
    at, lp, lf, lb = np.arange(n), _log_softmax(z), _log_softmax(final), _log_softmax(base)
    target = np.append(ids[1:], -1)
    order = np.argsort(-lp, axis=1, kind="stable")[:, :10]
    named = {"": target, "final_top1_": final.argmax(1), "input_": ids}
    columns = {
        "doc_id": np.zeros(n), "position": at, "context": at, "token_id": ids, "layer": np.full(n, layer),
        "site": np.full(n, site, object), "lens": np.full(n, "logit", object), "offset": np.ones(n),
        "target_id": target, "lse": np.log(np.exp(z).sum(1)), "entropy": -(np.exp(lp) * lp).sum(1),
        "kl_final_lens": _kl(lf, lp), "kl_lens_final": _kl(lp, lf), "kl_input_lens": _kl(lb, lp), "top_ids": order,
        "top_logprobs": np.take_along_axis(lp, order, 1),
    }  # fmt: skip
    for prefix, named_ids in named.items():
        known = named_ids >= 0
        own = lp[at, np.maximum(named_ids, 0)]
        columns[prefix + "logprob"] = np.where(known, own, np.nan)
        columns[prefix + "rank"] = np.where(known, 1 + (lp > own[:, None]).sum(1), -1)
    dtypes = {column.name: column.dtype.removesuffix("[]") for column in READING}
    return {name: value.astype(object if dtypes[name] == "str" else dtypes[name]) for name, value in columns.items()}


def _tracks(parts: list[tuple[int, str, np.ndarray]], chosen: list[list[int]]) -> dict[str, np.ndarray]:
    rows = []
    for layer, site, z in parts:
        lp = _log_softmax(z)
        for position, tokens in enumerate(chosen):
            for token in tokens:
                own = lp[position, token]
                rows.append((0, position, layer, site, "logit", token, own, 1 + int((lp[position] > own).sum())))
    made = zip(*rows, strict=True) if rows else [[]] * len(WATCHED)
    return {
        column.name: np.array(list(values), object if column.dtype == "str" else column.dtype)
        for column, values in zip(WATCHED, made, strict=True)
    }


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (np.exp(p) * (p - q)).sum(1)


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))
