"""A model in a GGUF file, the format of llama.cpp, as a Transformers model in float32."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUANTIZER_MARKS = ("hf_quantizer", "quantization_method", "is_quantized")


def load_gguf(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model, its weights de-quantised, and the tokenizer that the file holds.

    Raises:
        UserError: an architecture of which Transformers cannot read a GGUF file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": path.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"Transformers cannot read {path.name}",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            do="give a GGUF file of an architecture it knows, or the model's Hugging Face folder",
        ) from None
    _forget_quantizer(model)
    return model.eval(), tokenizer


def _forget_quantizer(model: "PreTrainedModel") -> None:
    """The weights are plain float32 now, but Transformers would refuse to save them as such."""
    for mark in QUANTIZER_MARKS:
        delattr(model, mark)
    del model.config.quantization_config
