"""From our settings to what PEFT is given: its config of each method, and BitFit, which needs none.

Later stages read PEFT's config out of the adapter's folder instead (`adapters.py`).
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from stages.contracts import UserError
from stages.lm.peft.config import ALL_LINEAR, PeftConfig, PeftKind

if TYPE_CHECKING:
    import peft

# AdaLoRA's ranks start at so many times the rank that is left, as in PEFT's defaults (12 and 8). It
# looks on for a tenth of the steps, prunes after every step, and trains what is left for four.
START_RANK, LOOKS_ON, FINAL = 1.5, 0.1, 0.4


def library_config(config: PeftConfig, total_steps: int) -> "peft.PeftConfig | None":
    """What TRL's trainers are given as `peft_config`; None where there is no adapter in layers."""
    if config.kind is PeftKind.adalora:
        return _adalora(config, total_steps)
    if config.kind.is_low_rank:
        return _lora(config)
    return _ia3(config) if config.kind is PeftKind.ia3 else None


def _layers(config: PeftConfig) -> list[str] | str:
    layers = config.target_modules
    return ALL_LINEAR if layers == [ALL_LINEAR] else layers


def _lora(config: PeftConfig) -> "peft.LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_layers(config),
        use_dora=config.kind is PeftKind.dora,
        task_type="CAUSAL_LM",
    )


def _adalora(config: PeftConfig, total_steps: int) -> "peft.AdaLoraConfig":
    from peft import AdaLoraConfig

    return AdaLoraConfig(
        target_r=config.rank,
        init_r=round(START_RANK * config.rank),
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_layers(config),
        total_step=total_steps,
        tinit=int(LOOKS_ON * total_steps),
        tfinal=int(FINAL * total_steps),
        deltaT=1,
        task_type="CAUSAL_LM",
    )


def _ia3(config: PeftConfig) -> "peft.IA3Config":
    """Where layers are named, those of the feed-forward block are PEFT's for the family."""
    from peft import IA3Config

    layers = _layers(config)
    return IA3Config(target_modules=None if layers == ALL_LINEAR else layers, task_type="CAUSAL_LM")


def check_family(kind: PeftKind, network: Any) -> None:
    """Refuse what this network has no weights for, before anything is trained.

    Raises:
        UserError: bitfit and no bias, as in most current decoders; ia3 and a family that PEFT does
            not know.
    """
    if kind is PeftKind.bitfit and not any(map(is_bias, dict(network.named_parameters()))):
        raise UserError(
            "peft=bitfit finds no biases to train",
            got=f"{type(network).__name__} without a parameter named ...bias",
            do="take peft=lora, or a base with biases: gpt2, opt, gpt_neox, bloom, phi, qwen2",
        )
    if kind is PeftKind.ia3:
        _check_known_to_ia3(network.config.get_text_config().model_type)


def _check_known_to_ia3(family: str) -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN

    if family not in KNOWN:
        raise UserError(
            "peft=ia3: PEFT does not know the feed-forward block of this family",
            got=f"model_type={family}",
            do=f"take peft=lora, or a base of another family: {', '.join(sorted(KNOWN))}",
        )


def train_biases(network: nn.Module) -> None:
    """BitFit: freeze all but the biases (Ben Zaken et al. 2021)."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_bias(name))


def is_bias(name: str) -> bool:
    """Whether a parameter of that name is added to an activation."""
    return name.split(".")[-1] == "bias"
