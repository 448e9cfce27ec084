"""A prompt encoded once for all its responses gives the scores and gradients of a copy for each."""

from random import Random

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward.config import Encoding
from reward.encoding import SEPARATE, SHARED, choose
from reward.model import RewardModel
from reward.ranked_prompts import RankedPrompt
from stages.contracts import UserError
from stages.lm.attention import attention

PAD = 0
SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "phi": {"num_key_value_heads": 4},
    "olmo2": {},
    "glm4": {"head_dim": 8},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "qwen3_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "head_dim": 8,
    },
}  # fmt: skip
WINDOWED = {
    "mistral": {"sliding_window": 5},
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def reward_model(family: str, **changes) -> RewardModel:
    """Random weights, large enough that scores tell contexts apart."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **changes}, num_labels=1)
    config.reward_bias = 0.0
    kind = {"bloom": "eager", "falcon": "sdpa"}.get(family) or attention()
    network = AutoModelForSequenceClassification.from_config(config, attn_implementation=kind)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.2)
    return RewardModel(network)


def comparisons(seed: int = 0) -> list[RankedPrompt]:
    """Prompts and responses of all lengths, K from 2 to 5."""
    rng = Random(seed)

    def tokens(most: int) -> list[int]:
        return [rng.randrange(3, 40) for _ in range(rng.randint(1, most))]

    return [
        RankedPrompt(prompt=tokens(15), responses=[tokens(9) for _ in range(k)], ranks=[*range(k)])
        for k in (3, 2, 5)
    ]


def scores_and_gradient(model: RewardModel, encoding) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Scores, and the gradient of a sum that weighs them differently."""
    model.zero_grad()
    scores = encoding.scores(model, comparisons(), PAD)
    (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return scores.detach(), gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_and_separate_agree_where_the_probe_says_so(family: str) -> None:
    """Mutation: positions from 0 for responses, or no mask on padding of shorter prompts."""
    model = reward_model(family, **FAMILIES[family])
    chosen = choose(Encoding.auto, model, PAD, max_length=64)
    assert chosen.encoding is Encoding.shared, chosen.why
    shared, separate = (scores_and_gradient(model, each) for each in (SHARED, SEPARATE))
    assert shared[0].std() > 1e-2
    torch.testing.assert_close(shared[0], separate[0], atol=1e-5, rtol=0)
    assert len(shared[1]) == len(separate[1])
    for ours, theirs in zip(shared[1], separate[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_is_found_out(family: str) -> None:
    """Its cache forgets the start of a prompt: scores would be off by more than 1."""
    model = reward_model(family, **WINDOWED[family])
    chosen = choose(Encoding.auto, model, PAD, max_length=64)
    assert chosen.encoding is Encoding.separate
    scores = chosen.scores(model, comparisons(), PAD)
    expected = SEPARATE.scores(model, comparisons(), PAD)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


class Forgetful(RewardModel):
    """A model whose cache loses the prompt."""

    def branch_scores(self, branches):
        branches.owners.zero_()
        return super().branch_scores(branches)


class Refusing(RewardModel):
    """A model that has no cache."""

    def branch_scores(self, branches):
        raise ValueError("no cache here\nmore")


@pytest.mark.parametrize(
    ("kind", "why"), [(Forgetful, "scores differ by"), (Refusing, "ValueError: no cache here")]
)
def test_what_is_not_exact_falls_back_and_says_why(kind: type[RewardModel], why: str) -> None:
    model = kind(reward_model("llama").network)
    chosen = choose(Encoding.auto, model, PAD, max_length=64)
    assert chosen.encoding is Encoding.separate
    assert chosen.why.startswith(why)
    with pytest.raises(UserError, match="cannot share a prompt"):
        choose(Encoding.shared, model, PAD, max_length=64)


def test_the_budget_counts_what_a_forward_computes() -> None:
    """Three prompts of widths to count by hand."""
    one = RankedPrompt(prompt=[5] * 6, responses=[[5] * 2, [5] * 3], ranks=[1, 2])
    other = RankedPrompt(prompt=[5] * 4, responses=[[5], [5], [5] * 2], ranks=[1, 2, 3])
    assert SEPARATE.tokens([one, other]) == 5 * 9
    assert SHARED.tokens([one, other]) == 2 * 6 + 5 * 3
