"""Model folders in and out: Hugging Face layout, safetensors, opened by `from_pretrained`."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contracts import UserError
from stages.lm.attention import attention_for
from stages.lm.chat import everything_written, template_facts
from stages.lm.peft.folders import ADAPTER, is_merged

NEW_PAD = "<|pad|>"

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(folder: Path) -> "PreTrainedModel":
    """The causal language model in `folder`, float32, in eval mode.

    Raises:
        UserError: no folder of a model, or one that lacks weights.
    """
    from transformers import AutoModelForCausalLM

    from stages.lm.peft.virtual_tokens import add_unmerged

    model, found = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **how_to_open(AutoModelForCausalLM, folder)
    )
    if found["missing_keys"]:
        raise UserError(
            f"the model in {folder} has no weights for parts of itself",
            got=f"{type(model).__name__} without {', '.join(sorted(found['missing_keys'])[:3])}",
            do="give the folder of a whole causal language model",
        )
    add_unmerged(model, folder)
    return model.eval()


def load_config(folder: Path) -> "PreTrainedConfig":
    """The model's settings, without its weights.

    Whatever the checkpoint says, no dropout: that is of SFT alone, by `stages.lm.dropout`; and no
    auxiliary loss of a mixture of experts, which PPO's and the reward model's losses do not have.
    """
    from transformers import AutoConfig

    check_model_folder(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    _settle(config)
    return config


def _settle(config: "PreTrainedConfig") -> None:
    """In parts of the config, too."""
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _settle(value)
        elif "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif name == "output_router_logits":
            setattr(config, name, False)


def how_to_open(auto: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """What one of Transformers' automatic classes is told to open the model in `folder`: float32,
    our settings and attention. changes: of the settings.

    Raises:
        UserError: there is no such class of this architecture.
    """
    import torch

    config = load_config(folder)
    config.update(changes)
    if type(config) not in auto._model_mapping:
        task = auto.__name__.removeprefix("AutoModelFor")
        raise UserError(
            f"Transformers has no {task} of this architecture",
            got=f"{config.model_type}, in {folder}",
            do="take another base (docs/models.md); without a classifier there is no reward model, "
            "but align=dpo, or a given one of another architecture: given.reward_model=RUN",
        )
    found = auto._model_mapping[type(config)]
    return {
        "config": config,
        "dtype": torch.float32,
        "local_files_only": True,
        "attn_implementation": attention_for(found[0] if isinstance(found, tuple) else found),
    }


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer saved beside the model."""
    from transformers import AutoTokenizer

    check_model_folder(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def check_model_folder(folder: Path) -> None:
    """A UserError unless `folder` looks like a Hugging Face model folder."""
    if not (folder / "config.json").is_file():
        found = (
            "no such folder" if not folder.is_dir() else f"a folder without config.json: {folder}"
        )
        raise UserError(
            f"no model at {folder}", got=found, do="give a folder that `save_pretrained` wrote"
        )


def save_model(model: Any, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write model and tokenizer to `folder`, synced to disk."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        _sync(path)


def model_hash(folder: Path) -> str:
    """sha256 over the sorted (name, dtype, shape, bytes) of every tensor in the folder.

    The members of an ensemble are part of it, their tensors named `member_N/...`; so is an adapter
    that is not merged into the weights beside it.
    """
    from safetensors import safe_open

    digest = hashlib.sha256()
    tensors: dict[str, Any] = {}
    paths = [*folder.glob("*.safetensors"), *folder.glob("member_*/*.safetensors")]
    paths += [] if is_merged(folder / ADAPTER) else (folder / ADAPTER).glob("*.safetensors")
    for path in sorted(paths):
        within = f"{path.parent.name}/" if path.parent != folder else ""
        with safe_open(path, framework="np") as file:
            tensors |= {within + name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def text_contract(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, Any]:
    """What the next stage relies on to read and write the same text."""
    return template_facts(tokenizer) | {
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "chat_template_sha256": _sha256(str(tokenizer.chat_template)),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_length": max_length,
    }


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 of what decides token ids: the vocabulary, the special tokens and the merges."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {key: backend[key] for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    return _sha256(json.dumps(rules, sort_keys=True))


def settle_pad(model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
    """A pad token for a tokenizer without one: a special token that no text holds, else a new one.

    Masks come from lengths, so EOS as pad does no harm and stays. But a reward model, opened by
    Transformers, finds the end of a text by its pad: without a spare token the vocabulary grows by
    one, its embedding drawn around the mean of the others so that it is never the likely one.
    """
    spare = spare_special_token(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": spare or NEW_PAD})
    elif tokenizer.pad_token_id == tokenizer.eos_token_id and spare is None:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    own = tokenizer.pad_token_id != tokenizer.eos_token_id
    # Transformers never trains the input embedding of the config's pad: EOS must not be that.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id if own else None


def settle_context(config: "PreTrainedConfig", otherwise: int) -> None:
    """Say in `max_position_embeddings` how many tokens a model can read, where it says it elsewhere
    (Bloom, MPT), or nowhere: with alibi there is no limit, and `otherwise` is what is asked for."""
    said = vars(config)
    if "max_position_embeddings" in {*said, *config.attribute_map}:
        return
    config.max_position_embeddings = said.get("seq_length") or said.get("max_seq_len") or otherwise


def spare_special_token(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """A special token that neither a text nor the chat template writes."""
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    written = f"{tokenizer.chat_template} {everything_written(tokenizer)}"
    spare = (t for t in tokenizer.all_special_tokens if t not in used and t not in written)
    return next(spare, None)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
