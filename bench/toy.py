"""A toy model to fit lenses of: Llama with 2 blocks, width 64 and 1,000 tokens, trained on a text in minutes.

On it the published number of steps of the tuned-lens recipe can be run to its end. Made once a text and kept: a folder
with config.json, model.safetensors, tokenizer.json and tokenizer_config.json, as midstream and transformers load it,
and toy.json, which says how it was trained. Training is AdamW at a rate that falls linearly, seeded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from midstream.corpus.source import open_corpus

VOCABULARY, WIDTH, BLOCKS, HEADS, CONTEXT = 1000, 64, 2, 4, 256
BATCH, STEPS, RATE, SEED = 16, 800, 4e-3, 0


def make(corpus: Path, work: Path) -> Path:
    """The folder of the toy trained on ``corpus``; trained now unless ``work`` has it."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = work / f"toy-{hashlib.sha256(corpus.read_bytes()).hexdigest()[:12]}"
    if (folder / "toy.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = [document.text for document in open_corpus(corpus)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    ids = np.concatenate([np.array(one.ids) for one in tokenizer.encode_batch(texts)])
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    begun = time.perf_counter()
    loss = train(model, torch.from_numpy(ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)))
    model.save_pretrained(folder)
    about = {"loss": loss, "seconds": time.perf_counter() - begun, "tokens": STEPS * BATCH * CONTEXT, "seed": SEED}
    (folder / "toy.json").write_text(json.dumps(about))
    return folder


def train(model: torch.nn.Module, samples: torch.Tensor) -> float:
    """Trains on ``samples`` ``[n, t]``; the mean loss of the last 50 steps, nats a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 40) * (1 - step / STEPS))
    draw = torch.Generator().manual_seed(SEED)
    losses: list[float] = []
    for _ in range(STEPS):
        picked = samples[torch.randint(len(samples), (BATCH,), generator=draw)]
        loss = model(input_ids=picked, labels=picked).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
        losses.append(loss.item())
    return float(np.mean(losses[-50:]))


def main() -> None:
    """Prints where the toy is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="text to train on, a .txt or .jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for the toy's own folder")
    given = parser.parse_args()
    folder = make(given.corpus, given.work)
    print(folder, (folder / "toy.json").read_text())


if __name__ == "__main__":
    main()
