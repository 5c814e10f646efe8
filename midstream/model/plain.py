"""GPT-2 and Llama from token ids to logits, in one file that reads from top to bottom.

Both are the same machine: a token's embedding opens a *residual stream*; every block reads it, through a norm, twice
(attention, then MLP), and adds what it found; a last norm and the unembedding turn the stream into scores for the next
token. Parameter names are those of Hugging Face checkpoints, so that their tensors load as they are.

Letters for shapes: b texts, t new positions, s positions already in the cache, d width, V vocabulary,
H query heads, K key/value heads (H is a multiple of K), c width of one head.

Sources: Radford et al. 2019 (GPT-2), Touvron et al. 2023 (Llama), Su et al. 2021 (rotary positions),
Ainslie et al. 2023 (grouped queries).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PlainConfig:
    """The sizes of a model; names as in Hugging Face's ``config.json`` of Llama."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False


class PlainCache:
    """Keys and values of the positions seen so far: of each layer, two tensors ``[b, K, s, c]``."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self) -> int:
        """Number s of positions held."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends ``[b, K, t, c]`` to a layer; gives its keys and values of all s + t positions."""
        old = self.layers.get(layer)
        self.layers[layer] = (k, v) if old is None else (torch.cat([old[0], k], dim=2), torch.cat([old[1], v], dim=2))
        return self.layers[layer]

    def rewind(self, tokens: int) -> None:
        """Forgets the last ``tokens`` positions."""
        self.layers = {layer: (k[:, :, :-tokens], v[:, :, :-tokens]) for layer, (k, v) in self.layers.items()}

    def expanded(self, b: int) -> PlainCache:
        """A new cache in which the one text of this one stands ``b`` times."""
        copy = PlainCache()
        copy.layers = {n: (k.expand(b, -1, -1, -1), v.expand(b, -1, -1, -1)) for n, (k, v) in self.layers.items()}
        return copy


@dataclass(frozen=True)
class Hidden:
    """What a trunk gives: the stream after the final norm, ``[b, t, d]``."""

    last_hidden_state: Tensor


@dataclass(frozen=True)
class Scores:
    """What a whole model gives: logits ``[b, t, V]``."""

    logits: Tensor


@dataclass(frozen=True)
class Pass:
    """What all blocks of one forward pass share.

    Attributes:
        positions: of the new tokens, ``[b or 1, t]``.
        mask: which of s + t keys each new position may look at, ``[b or 1, 1, t, s + t]``; None: all up to itself.
        cache: where keys and values are kept for later, if they are.
    """

    positions: Tensor
    mask: Tensor | None
    cache: PlainCache | None


def begin(ids: Tensor, attention_mask: Tensor | None, positions: Tensor | None, cache: PlainCache | None) -> Pass:
    """The pass over ids ``[b, t]`` that follow what the cache holds; unstated positions count on from there."""
    s, t = cache.get_seq_length() if cache is not None else 0, ids.shape[1]
    if positions is None:
        positions = torch.arange(s, s + t, device=ids.device)[None]
    return Pass(positions, visible(attention_mask, t, s, ids.device), cache)


# ---------------------------------------------------------------- attention, shared by both families


def visible(attention_mask: Tensor | None, t: int, s: int, device: torch.device) -> Tensor | None:
    """Which of s + t keys each of the t new positions may look at: bool ``[b or 1, 1, t, s + t]``.

    ``attention_mask`` is ``[b, s + t]``, 0 at padding. A padding position sees itself, so that its softmax is over
    something; nothing else sees it. ``None`` is the plain triangle, for which PyTorch has a faster path. One of four
    dimensions, to be added to the scores, says it all.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    if attention_mask is not None and bool(attention_mask.all()):
        attention_mask = None
    if attention_mask is None and s == 0:
        return None
    key = torch.arange(s + t, device=device)  # [s+t]
    query = key[s:, None]  # [t, 1]
    earlier, own = key <= query, key == query  # [t, s+t]
    if attention_mask is None:
        return earlier[None, None]
    real = attention_mask.bool()[:, None, None, :]  # [b, 1, 1, s+t]
    return (earlier & real) | own


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``softmax(q·k / √c) v``: each position gathers values from those it may see.

    q ``[b, H, t, c]``, k and v ``[b, K, s+t, c]``; gives ``[b, t, H·c]``. H / K query heads share a key head.
    """
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)  # [b, H, s+t, c]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)  # [b, H, t, c]
    return mixed.transpose(1, 2).flatten(2)


def rows(count: int, d: int) -> nn.Embedding:
    """One row per token or position. Drawn uniformly: the usual normal draw makes PyTorch load its compiler (1 s)."""
    return nn.Embedding.from_pretrained(torch.empty(count, d).uniform_(-0.02, 0.02), freeze=False)


def heads(x: Tensor, c: int) -> Tensor:
    """``[b, t, n·c]`` cut into n heads of width c: ``[b, n, t, c]``."""
    return x.unflatten(-1, (-1, c)).transpose(1, 2)


# ---------------------------------------------------------------- GPT-2


class Conv1D(nn.Module):
    """A linear map whose weight is stored ``[inputs, outputs]``, as GPT-2's checkpoints have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-0.02, 0.02))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return x @ self.weight + self.bias


class GPT2Attention(nn.Module):
    """Every position gathers from earlier ones; one map makes queries, keys and values."""

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__()
        d = config.hidden_size
        self.layer, self.c = layer, config.head_dim
        self.c_attn = Conv1D(d, 3 * d)
        self.c_proj = Conv1D(d, d)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        """``[b, t, d]`` to ``[b, t, d]``."""
        q, k, v = (heads(part, self.c) for part in self.c_attn(x).chunk(3, dim=-1))  # each [b, H, t, c]
        if now.cache is not None:
            k, v = now.cache.extend(self.layer, k, v)  # [b, H, s+t, c]
        return self.c_proj(attend(q, k, v, now.mask))


class GPT2MLP(nn.Module):
    """Widen, bend, narrow: at each position by itself."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.hidden_size, config.intermediate_size)
        self.c_proj = Conv1D(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[b, t, d]`` to ``[b, t, d]``; GPT-2's GELU is the tanh approximation."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class GPT2Block(nn.Module):
    """Reads the stream twice and adds to it twice."""

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = GPT2MLP(config)

    def forward(self, h: Tensor, now: Pass) -> Tensor:
        """The stream ``[b, t, d]`` after this block."""
        h = h + self.attn(self.ln_1(h), now)
        return h + self.mlp(self.ln_2(h))


class GPT2Trunk(nn.Module):
    """GPT-2 up to and with its final norm."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.wte = rows(config.vocab_size, d)
        self.wpe = rows(config.max_position_embeddings, d)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(d, config.norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: PlainCache | None = None,
    ) -> Hidden:
        """Ids ``[b, t]`` (the t that follow what the cache holds) to the final stream ``[b, t, d]``."""
        now = begin(input_ids, attention_mask, position_ids, past_key_values)
        h = self.wte(input_ids) + self.wpe(now.positions)  # [b, t, d]: the stream at layer 0
        for block in self.h:
            h = block(h, now)
        return Hidden(self.ln_f(h))


# ---------------------------------------------------------------- Llama


class RMSNorm(nn.Module):
    """Divides a vector by its root mean square, in float32, then scales each coordinate."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., d]``, in the dtype it came in."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotations(position_ids: Tensor, c: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[b, 1, t, c]`` of the angle by which each position turns each pair of coordinates.

    Pair i of c/2 turns by ``position · theta^(-2i/c)``; angles are float32 whatever the model's dtype is.
    """
    exponent = torch.arange(0, c, 2, device=position_ids.device).float() / c  # [c/2]
    angle = position_ids[:, None, :, None].float() / theta**exponent  # [b, 1, t, c/2]
    angle = torch.cat([angle, angle], dim=-1)  # coordinate i is paired with i + c/2
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns queries or keys ``[b, heads, t, c]`` by their positions, so that q·k depends on the distance alone."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class LlamaAttention(nn.Module):
    """Every position gathers from earlier ones; fewer key and value heads than query heads."""

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__()
        d, c = config.hidden_size, config.head_dim
        queries, keys = config.num_attention_heads * c, config.num_key_value_heads * c
        self.layer, self.c = layer, c
        self.q_proj = nn.Linear(d, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, d, bias=config.output_bias)

    def forward(self, x: Tensor, now: Pass, turn: tuple[Tensor, Tensor]) -> Tensor:
        """``[b, t, d]`` to ``[b, t, d]``; ``turn`` is what ``rotations`` gave."""
        q = rotate(heads(self.q_proj(x), self.c), *turn)  # [b, H, t, c]
        k = rotate(heads(self.k_proj(x), self.c), *turn)  # [b, K, t, c]
        v = heads(self.v_proj(x), self.c)
        if now.cache is not None:
            k, v = now.cache.extend(self.layer, k, v)  # [b, K, s+t, c]
        return self.o_proj(attend(q, k, v, now.mask))


class LlamaMLP(nn.Module):
    """Widen twice, let one gate the other, narrow: at each position by itself."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        d, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(d, wide, bias=config.mlp_bias)
        self.up_proj = nn.Linear(d, wide, bias=config.mlp_bias)
        self.down_proj = nn.Linear(wide, d, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[b, t, d]`` to ``[b, t, d]``."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    """Reads the stream twice and adds to it twice."""

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = LlamaAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, h: Tensor, now: Pass, turn: tuple[Tensor, Tensor]) -> Tensor:
        """The stream ``[b, t, d]`` after this block."""
        h = h + self.self_attn(self.input_layernorm(h), now, turn)
        return h + self.mlp(self.post_attention_layernorm(h))


class LlamaTrunk(nn.Module):
    """Llama up to and with its final norm."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.c, self.theta = config.head_dim, config.rope_theta
        self.embed_tokens = rows(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: PlainCache | None = None,
    ) -> Hidden:
        """Ids ``[b, t]`` (the t that follow what the cache holds) to the final stream ``[b, t, d]``."""
        now = begin(input_ids, attention_mask, position_ids, past_key_values)
        h = self.embed_tokens(input_ids)  # [b, t, d]: the stream at layer 0
        turn = rotations(now.positions, self.c, self.theta, h.dtype)
        for block in self.layers:
            h = block(h, now, turn)
        return Hidden(self.norm(h))


# ---------------------------------------------------------------- the whole model


class PlainLM(nn.Module):
    """A trunk and its unembedding, with random weights until some are loaded.

    Parameters are named as in Hugging Face's checkpoints, but for GPT-2's trunk, ``transformer`` there, ``model`` here.
    """

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.model = GPT2Trunk(config) if config.model_type == "gpt2" else LlamaTrunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, ``weight [V, d]``."""
        return self.model.wte if isinstance(self.model, GPT2Trunk) else self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The unembedding, ``weight [V, d]``."""
        return self.lm_head

    def tie(self) -> None:
        """Makes the unembedding the very tensor of the embedding, where the model is so; again after loading."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.get_input_embeddings().weight

    def new_cache(self) -> PlainCache:
        """An empty cache, to be passed as ``past_key_values``."""
        return PlainCache()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: PlainCache | None = None,
    ) -> Scores:
        """Ids ``[b, t]`` to logits ``[b, t, V]``: at each position, a score for every possible next token."""
        hidden = self.model(input_ids, attention_mask, position_ids, past_key_values)
        return Scores(self.lm_head(hidden.last_hidden_state))
