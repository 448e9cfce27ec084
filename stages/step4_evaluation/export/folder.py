"""A trained model as a folder that other tools open: `from_pretrained` needs nothing of ours.

merged     the whole model, in one dtype
adapter    PEFT's folder, for a base that it names
"""

import json
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lm.loading import load_config, load_tokenizer, save_model
from stages.lm.peft.adapters import adapter_of
from stages.lm.peft.folders import BASE_FILE
from stages.lm.peft.quantised import compute_in_own_dtype
from stages.lm.rollout import Sampling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
OF_LOADING = ("is_local", "local_files_only")  # what opening it here left in the tokenizer


class Dtype(StrEnum):
    """What the weights are kept in; training keeps them in float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class Source:
    """What is exported. sampling: how the model was sampled in training; None: a reward model."""

    model: Path
    sampling: Sampling | None

    @property
    def scores(self) -> bool:
        """Whether it gives a score, not text."""
        return self.sampling is None


def write_merged(source: Source, out: Path, dtype: Dtype) -> None:
    """The whole model, its tokenizer and how to sample from it."""
    save_export(open_model(source.model, dtype=dtype), source, out)


def open_model(folder: Path, **options: Any) -> "PreTrainedModel":
    """The model as Transformers opens it, by the architecture that its config names."""
    import transformers

    (architecture,) = load_config(folder).architectures
    network = getattr(transformers, architecture)
    model: PreTrainedModel = network.from_pretrained(folder, local_files_only=True, **options)
    compute_in_own_dtype(model)
    return model.eval()


def save_export(model: Any, source: Source, out: Path) -> None:
    """Write a model, quantised or not, with the tokenizer of its source."""
    tokenizer = _tokenizer(source.model)
    if source.sampling is not None:
        model.generation_config = generation_config(tokenizer, source.sampling)
    save_model(model, tokenizer, out)


def write_adapter(source: Source, out: Path, base: str) -> None:
    """The adapter alone; `PeftModel.from_pretrained` puts it on `base`, a hub's name or a folder.

    Raises:
        UserError: all of the model's weights were trained.
    """
    adapter = adapter_of(source.model)
    out.mkdir(parents=True, exist_ok=True)
    for path in adapter.iterdir():
        if path.name not in (BASE_FILE, ADAPTER_CONFIG):
            shutil.copyfile(path, out / path.name)
    config = json.loads((adapter / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": base}
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = _tokenizer(source.model)
    tokenizer.save_pretrained(out)
    if source.sampling is not None:
        generation_config(tokenizer, source.sampling).save_pretrained(out)


def open_adapter(out: Path, *, scores: bool) -> Any:
    """An exported adapter on the base it names, as PEFT opens it.

    Raises:
        OSError: the base is neither on this machine nor in the hub's cache.
    """
    import torch
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer, GenerationConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if scores:
        pad = AutoTokenizer.from_pretrained(out).pad_token_id
        options |= {"num_labels": 1, "pad_token_id": pad}
        return AutoPeftModelForSequenceClassification.from_pretrained(out, **options).eval()
    model = AutoPeftModelForCausalLM.from_pretrained(out, **options).eval()
    model.generation_config = GenerationConfig.from_pretrained(out)
    return model


def generation_config(
    tokenizer: "PreTrainedTokenizerBase", sampling: Sampling
) -> "GenerationConfig":
    """Sampling as in training: its end, its temperature, no truncation that it did not have.

    A model from others may have several ends or a top_k of its own; this one was trained with one
    end, and without what is not said here.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
    )


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    tokenizer = load_tokenizer(folder)
    for key in OF_LOADING:
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer
