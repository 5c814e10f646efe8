"""The only table of exceptions: what the search through a model cannot see for itself, with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What is special about one ``model_type``; the default is nothing.

    Attributes:
        refused: why midstream does not read this family; empty if it does.
        unsummed: why a block's parts do not add up to the block; empty where they must, and are checked.
        cache: whether chunks over the library's standard cache give the same stream as the whole text.
        left_padding: whether padding on the left leaves the stream of the real tokens as it is.
        notes: what a reader of the numbers should know.
    """

    refused: str = ""
    unsummed: str = ""
    cache: bool = True
    left_padding: bool = True
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Everything said about the family, for people."""
        uncached = (
            "" if self.cache else "the library's standard cache does not hold its state: it is read in whole windows"
        )
        right_only = "" if self.left_padding else "texts are padded on the right only"
        return tuple(text for text in (self.refused, self.unsummed, *self.notes, uncached, right_only) if text)


SOFT_CAP_FIELDS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names under which configs give c of ``z = c tanh(z / c)``, the soft cap on the logits."""

HYPER = "it carries several streams that every block mixes (hyper-connections)"
POST_NORM = "each sum is normalised before it goes on (post-norm), so the parts do not add up to the block"
MIXER = "a block adds one thing, its mixer's output: there is no attention part and MLP part"
WEIGHTED = "the stream itself is weighted before something is added to it, so the parts do not add up to the block"
SCALED = "each block ends by multiplying the whole stream by a constant of its own"
HYBRID = "attn_out is what the block's mixer adds; in some blocks that is not attention but a recurrence or convolution"
CODEBOOKS = "it writes several streams of audio codes at once, not text"
TEXT_ONLY = "read as a language model alone: blocks that attend to an image or sound do not run"
DECODER_ALONE = "the decoder of an encoder-decoder, read alone: its attention to the encoder does not run"
TRANSFORM = "the final norm is the head's transform: a dense layer, an activation and a norm"

FAMILIES: dict[str, Family] = {
    # refused
    "deepseek_v4": Family(refused=HYPER),
    "hy_v4": Family(refused=HYPER),
    "qwen4_exp": Family(refused=HYPER),
    "qwen4_exp_text": Family(refused=HYPER),
    "gemma3n": Family(refused="it carries several streams that every block predicts and corrects (AltUp)"),
    "gemma3n_text": Family(refused="it carries several streams that every block predicts and corrects (AltUp)"),
    "blt": Family(refused="it has streams of bytes and of patches, in three models inside one another"),
    "prophetnet": Family(refused="it carries several streams, one for each token predicted ahead"),
    "reformer": Family(refused="its blocks are reversible and carry two streams"),
    "hrm_text": Family(refused="it runs the same blocks several times, in two modules that exchange their states"),
    "inkling2_text": Family(refused="its last step attends over the streams of earlier blocks, not to the last alone"),
    "cpmant": Family(refused="it puts prompt positions of its own before the text, which the logits leave out"),
    "xlm": Family(refused="its blocks are not modules: attention, norms and MLPs lie in separate lists"),
    "xlnet": Family(refused="it predicts tokens in permuted order and sees later tokens"),
    "roc_bert": Family(refused="it embeds a token's shape and pronunciation beside the token"),
    "zaya": Family(refused="it weights and shifts the embedding dimension by dimension, outside any module"),
    "rwkv": Family(refused="the library halves its stream and its weights every six blocks"),
    "gemma4_assistant": Family(refused="it drafts for another model and runs only on that model's states"),
    "gemma4_unified_assistant": Family(refused="it drafts for another model and runs only on that model's states"),
    "musicgen": Family(refused=CODEBOOKS),
    "musicgen_melody": Family(refused=CODEBOOKS),
    # the parts of a block do not add up
    **dict.fromkeys(
        ("bart", "blenderbot-small", "marian", "mvp", "plbart", "trocr"),
        Family(unsummed=POST_NORM, left_padding=False, notes=(DECODER_ALONE,)),
    ),
    **dict.fromkeys(("bert-generation", "git", "openai-gpt"), Family(unsummed=POST_NORM)),
    **dict.fromkeys(("bert", "big_bird", "electra", "ernie"), Family(unsummed=POST_NORM, notes=(TRANSFORM,))),
    "roformer": Family(unsummed=POST_NORM, left_padding=False, notes=(TRANSFORM,)),
    "minimax": Family(unsummed=POST_NORM, cache=False),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "nemotron_h", "zamba", "zamba2"), Family(unsummed=MIXER)),
    **dict.fromkeys(("beam", "doge"), Family(unsummed=WEIGHTED)),
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"), Family(unsummed=SCALED)),
    "gpt_neox_japanese": Family(unsummed="the last block adds the bias of its attention outside the attention module"),
    "longcat_flash": Family(unsummed="a block holds two attentions, two MLPs and a mixture of experts"),
    # the parts add up, and there is something to know
    **dict.fromkeys(
        (
            *("bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "kimi_linear", "lfm2", "lfm2_moe", "lfm3"),
            *("olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
        ),
        Family(notes=(HYBRID,)),
    ),
    **dict.fromkeys(
        ("mllama_text_model", "fuyu", "emu3_text_model", "got_ocr2", "gemma3", "phi4_multimodal"),
        Family(notes=(TEXT_ONLY,)),
    ),
    **dict.fromkeys(
        ("bigbird_pegasus", "blenderbot", "mbart", "pegasus"), Family(left_padding=False, notes=(DECODER_ALONE,))
    ),
    "whisper": Family(notes=(DECODER_ALONE,)),
    "recurrent_gemma": Family(cache=False, left_padding=False, notes=(HYBRID,)),
    "jamba": Family(cache=False, notes=(HYBRID,)),
    "xlstm": Family(cache=False, left_padding=False, notes=(HYBRID,)),
}
"""``model_type`` -> what is special about it."""


def family(model_type: str) -> Family:
    """The entry of a ``model_type``; one without anything special where there is none."""
    return FAMILIES.get(model_type, Family())
