"""Which pretrained models can be taken: what a config says at once, and what the model shows.

What all stages rely on is tried, not looked up in a list: responses sampled with a cache and
left-padded prompts, and log-probabilities of a right-padded batch without a mask, equal what the
model's own forward says of one sequence at a time.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contracts import UserError
from stages.lm.loading import check_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 1e-2  # of a log-probability, in nats; rounding makes about 1e-5
PROBE_LENGTHS = (9, 4)  # tokens of the prompts
PROBE_NEW_TOKENS = 3
NOT_LANGUAGE = ("Classification", "ForQuestionAnswering", "ForMaskedLM")


def check_folder(folder: Path) -> None:
    """Refuse, before its weights are read, a folder that holds no causal language model.

    Raises:
        UserError: the reason.
    """
    check_model_folder(folder)
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise UserError(
            f"the model in {folder} has no weights",
            got="neither *.safetensors nor *.bin",
            do="download it whole: in the hub's cache this is what an interrupted download leaves",
        )
    settings = json.loads((folder / "config.json").read_text())
    if reason := _refused(settings):
        kind = (settings.get("architectures") or [settings.get("model_type")])[0]
        raise UserError(
            f"the model in {folder} cannot be aligned here: {reason}",
            got=str(kind),
            do="take a decoder that writes text: an AutoModelForCausalLM of Transformers",
        )


def _refused(settings: Mapping[str, Any]) -> str | None:
    """Why a config is refused."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    model_type, made_as = settings.get("model_type"), settings.get("architectures") or []
    if settings.get("is_encoder_decoder"):
        return "an encoder-decoder, whose prompts and responses are apart"
    if any(mark in name for name in made_as for mark in NOT_LANGUAGE):
        return "a model with another head than a language model's"
    if settings.get("quantization_config"):
        return "its weights are quantised, and a base is trained in full precision"
    if model_type not in CONFIG_MAPPING:
        if settings.get("auto_map"):
            return "it comes with code of its own, which is not run"
        return "Transformers does not know its architecture"
    if "text_config" in settings or "vision_config" in settings:
        return "it reads more than text"
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "Transformers has no causal language model of this architecture"
    return None


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a tokenizer without the fast backend, of which hashes and caches are made."""
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer is of the slow kind",
            got=type(tokenizer).__name__,
            do="save it with a tokenizer.json (its `Fast` class makes one)",
        )


def check_model(model: "PreTrainedModel", pad_token_id: int) -> None:
    """Refuse a model of which our log-probabilities or our sampling would be others than its own.

    Raises:
        UserError: which of them, and by how much.
    """
    try:
        differences = probe(model, pad_token_id)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        said = str(error).strip().splitlines() or ["without a message"]
        reason = f"{type(error).__name__}: {said[0]}"
        raise _unsupported(model, reason) from error
    wrong = {what: size for what, size in differences.items() if not size <= TOLERANCE}
    if wrong:
        sizes = [f"{what} differ by {size:.1e} nats" for what, size in wrong.items()]
        raise _unsupported(model, ", ".join(sizes))


def _unsupported(model: "PreTrainedModel", reason: str) -> UserError:
    return UserError(
        "this architecture is not supported: what is computed here is not what it says itself",
        got=f"{type(model).__name__}: {reason}",
        do="take another base; docs/models.md lists what was tried",
    )


def probe(model: "PreTrainedModel", pad_token_id: int) -> dict[str, float]:
    """The largest differences to the model's own log-probs of one sequence at a time, in nats."""
    import numpy as np
    import torch

    from stages.lm.batching import collate
    from stages.lm.engines.hf import HFEngine
    from stages.lm.logprobs import response_logprobs
    from stages.lm.rollout import Sampling

    draw = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    prompts = [
        torch.randint(vocabulary, (length,), generator=draw).tolist() for length in PROBE_LENGTHS
    ]
    engine = HFEngine(model, eos_token_id=-1, pad_token_id=pad_token_id)
    sampled = engine.generate(
        prompts,
        Sampling(max_new_tokens=PROBE_NEW_TOKENS, greedy=True),
        np.zeros(len(prompts), np.uint64),
    )
    own = torch.stack(
        [own_logprobs(model, p, r) for p, r in zip(prompts, sampled.tokens, strict=True)]
    )
    with torch.no_grad():
        ours = response_logprobs(model, collate(prompts, sampled.tokens, pad_token_id))
    return {
        "log-probs while sampling": float((torch.tensor(sampled.logprobs) - own).abs().max()),
        "log-probs of a padded batch": float((ours - own).abs().max()),
    }


def own_logprobs(model: "PreTrainedModel", prompt: Sequence[int], response: Sequence[int]) -> Any:
    """(R,) log pi(y_t | x, y_<t) by the model's forward over this one sequence."""
    import torch

    tokens = torch.tensor([[*prompt, *response]], device=model.device)
    with torch.no_grad():
        logprobs = model(input_ids=tokens).logits[0].float().log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, tokens.shape[1] - 1)
    return logprobs[rows, tokens[0, rows + 1]].cpu()
