"""The transformers engine: any causal language model of that library, from the hub or a folder, safetensors only."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from midstream.errors import ModelError

_LOCAL_REASONS = {
    "SafetensorError": "its safetensors are damaged or cut short; fetch them again",
    "JSONDecodeError": "one of its JSON files is damaged; fetch it again",
}
_HUB_REASONS = {
    "GatedRepoError": "the hub gives it only to accounts that were granted access; log in with `hf auth login`",
    "RepositoryNotFoundError": "there is no such model on the hub",
    "OfflineModeIsEnabled": "it is not on this machine and offline mode is on (HF_HUB_OFFLINE)",
    "LocalEntryNotFoundError": "it is not on this machine and the hub cannot be reached",
    "ConnectError": "it is not on this machine and the hub cannot be reached",
    "ConnectionError": "it is not on this machine and the hub cannot be reached",
}


def load_transformers(name_or_path: str, *, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Any]:
    """Load a model and its tokenizer: from a folder without any network, else from the hub.

    Only safetensors are read and no code that comes with a model is run.

    Returns:
        The causal language model in eval mode on ``device``, and its transformers tokenizer.

    Raises:
        ModelError: in one sentence why it cannot be loaded.
    """
    local = Path(name_or_path).is_dir()
    with _quiet():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        given: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
        try:
            config = AutoConfig.from_pretrained(name_or_path, **given)
            _refuse_kind(name_or_path, config)
            # either may name code on the hub; the library's own choice never does. Set for the configs inside it too
            for choice in ("_attn_implementation", "_experts_implementation"):
                setattr(config, choice, None)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name_or_path, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **given
            )
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **given)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"cannot load {name_or_path!r}: {_reason(error)}.") from error
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"cannot load {name_or_path!r}: {len(missing)} tensors that the model needs are not in its files, "
            f"such as {missing[0]}."
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # the library makes an empty one where it finds no files
        raise ModelError(f"cannot load {name_or_path!r}: it has no tokenizer files.")
    return module.eval().to(device), tokenizer


def _refuse_kind(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name!r} ({config.model_type}) is an encoder-decoder; midstream reads decoder-only models.")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"{name!r} ({config.model_type}) is no causal language model; expected one such as gpt2.")


def _reason(error: BaseException) -> str:
    """Why loading failed, in words: from the kind of error at its root where that says it, else its beginning."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    known = _LOCAL_REASONS | _HUB_REASONS
    for link in reversed(chain):
        for kind in type(link).__mro__:
            if kind.__name__ in known:
                return known[kind.__name__]
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "it brings code of its own, which midstream does not run"
    if "safetensors" in text and "use_safetensors" in text:
        return "it has no safetensors, only a pickle, which can run any code when it is opened"
    if "ignore_mismatched_sizes" in text:
        return "the shapes of its tensors are not those of its config.json"
    # the first line alone is often an empty heading
    return shorten(text, 300).rstrip(". ") or type(error).__name__


@contextmanager
def _quiet() -> Generator[None]:
    """The library's warnings and progress bars are off inside, and as they were afterwards.

    Its request to a bot that converts pickles on the hub is off too: only files that the model's owner put there count.
    """
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import huggingface_hub.utils as hub
        from transformers.utils import logging

        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        hub_bars = not hub.are_progress_bars_disabled()
        logging.set_verbosity(50)  # critical errors only
        logging.disable_progress_bar()
        hub.disable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
            if hub_bars:
                hub.enable_progress_bars()
            if conversion is None:
                del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
            else:
                os.environ["DISABLE_SAFETENSORS_CONVERSION"] = conversion
