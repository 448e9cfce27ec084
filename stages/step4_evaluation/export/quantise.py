"""Weights in 8 or 4 bits, by bitsandbytes: Transformers opens the folder again, on a CPU too.

    int8   LLM.int8() (Dettmers et al. 2022): a row of weights shares a scale; activations are
           rounded to 8 bits as well while it computes, but for their outliers
    int4   NF4 (Dettmers et al. 2023, QLoRA): 16 levels at the quantiles of a normal distribution, a
           scale for 64 weights; activations are left alone

Linear layers are quantised, the output layer and embeddings are not. torchao 0.18 keeps a weight of
four bits in a byte on a CPU, so its folders are no smaller than with eight.
"""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.step4_evaluation.export.folder import Dtype, Source, open_model, save_export

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

PACKAGE = "bitsandbytes"


class Quantise(StrEnum):
    """How the weights of linear layers are kept."""

    int8 = "int8"
    int4 = "int4"
    gptq = "gptq"
    awq = "awq"


WORDS = {Quantise.int8: "8 bits (LLM.int8())", Quantise.int4: "4 bits (NF4)"}


def check_quantise(kind: Quantise) -> None:
    """Refuse what cannot be done here.

    Raises:
        UserError: GPTQ or AWQ; or bitsandbytes is not installed.
    """
    if kind not in WORDS:
        raise UserError(
            f"{kind.value} is not made in this environment",
            got="its library, gptqmodel 7.7, wants a newer torch than this project's and a GPU",
            do="--quantise int4; or export without, and quantise that folder with gptqmodel in an "
            "environment of its own (docs/export.md)",
        )
    if find_spec(PACKAGE) is None:
        raise UserError(
            f"--quantise {kind.value} needs the package {PACKAGE}",
            got="it is not installed",
            do="pip install 'rlhf-pipeline[quantise]'",
        )


def write_quantised(source: Source, out: Path, kind: Quantise, dtype: Dtype) -> None:
    """The model in 8 or 4 bits; dtype: of all that is not quantised, and of the computation."""
    model = open_model(
        source.model,
        dtype=dtype.value,
        quantization_config=quantisation(kind, dtype),
        device_map="cpu",
    )
    save_export(model, source, out)


def quantisation(kind: Quantise, dtype: Dtype) -> "BitsAndBytesConfig":
    """What Transformers is told, and keeps in config.json."""
    from transformers import BitsAndBytesConfig

    if kind is Quantise.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype.value
    )
