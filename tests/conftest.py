"""Fixtures that several folders of tests share: a tiny model on disk, and the command line in this process."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import settings

# A machine that does other work beside the tests must not fail them: no test asserts a time, also not by a deadline.
settings.register_profile("midstream", deadline=None)
settings.load_profile("midstream")

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SENTENCES = [
    "The Eiffel Tower is located in the city of Paris",
    "The capital of France is Paris and that of England is London",
    "Four score and seven years ago our fathers brought forth a new nation",
    "Once upon a time there was a king who asked: why is the sky blue?",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer():
    """A byte-level BPE of about 400 tokens that knows a few words and two special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A local model folder as the hub lays it out: a random Llama of 30 blocks and width 32."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = tiny_tokenizer()
    vocabulary = tokenizer.get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 30,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": vocabulary,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    tensors = {"model.embed_tokens.weight": normal(vocabulary, 32), "model.norm.weight": 1 + normal(32)}
    for block in range(30):
        name = f"model.layers.{block}."
        tensors |= {
            name + "input_layernorm.weight": 1 + normal(32),
            name + "post_attention_layernorm.weight": 1 + normal(32),
            name + "self_attn.q_proj.weight": normal(32, 32),
            name + "self_attn.k_proj.weight": normal(16, 32),
            name + "self_attn.v_proj.weight": normal(16, 32),
            name + "self_attn.o_proj.weight": normal(32, 32),
            name + "mlp.gate_proj.weight": normal(48, 32),
            name + "mlp.up_proj.weight": normal(48, 32),
            name + "mlp.down_proj.weight": normal(32, 48),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE})
    )
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny model, loaded."""
    from midstream.model.load import load

    return load(tiny_folder)


@pytest.fixture(scope="session", autouse=True)
def lens_folder(tmp_path_factory):
    """An empty lens folder for the session, so that no test sees the lenses of whoever runs it."""
    place = tmp_path_factory.mktemp("lenses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDSTREAM_LENSES", str(place))
        yield place


@pytest.fixture
def midstream():
    """Call the command line in this process: ``midstream("read", "text").exit_code``."""
    from typer.testing import CliRunner

    from midstream.cli.main import app

    return lambda *words, **more: CliRunner().invoke(app, list(words), **more)


@pytest.fixture(scope="session")
def default_model():
    """The bundled model; tests that use it are few, since it takes seconds."""
    from midstream.model.load import load

    return load()
