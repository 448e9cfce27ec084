"""Virtual tokens in a decoder: PEFT's own forward is the reference, by every way into it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reward.model import RewardModel
from stages.contracts import UserError
from stages.lm.batching import collate
from stages.lm.branches import collate_branches
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.peft.virtual_tokens import (
    new_virtual_tokens,
    open_virtual_tokens,
    save_virtual_tokens,
    without_virtual_tokens,
)
from stages.lm.rollout import Sampling
from tests.stages.small_world import untrained_model

VOCABULARY, NUMBER = 40, 4
KINDS = [kind for kind in PeftKind if kind.adds_tokens]
PROMPTS, RESPONSES = [[1, 5, 9, 7], [1, 8]], [[10, 11, 2], [12, 13, 14, 15]]


def with_tokens(kind: PeftKind, network: Any = None) -> Any:
    """A network with virtual tokens that matter."""
    network = network or untrained_model(VOCABULARY, seed=0)
    torch.manual_seed(1)
    mlp = {"encoder_hidden_size": 8} if kind is PeftKind.prefix else {}
    new_virtual_tokens(network, PeftConfig(kind=kind, num_virtual_tokens=NUMBER, **mlp))
    with torch.no_grad():
        for parameter in network.base_model.virtual_tokens.parameters():
            parameter.mul_(3)
    return network.eval()


def by_peft(network: Any, folder: Path, row: list[int]) -> Tensor:
    """(T, V) logits of a sequence, by PEFT's wrapper around a plain copy of the base."""
    from peft import PeftModel

    save_virtual_tokens(network.base_model.virtual_tokens, folder)
    plain = PeftModel.from_pretrained(untrained_model(VOCABULARY, seed=0), folder).eval()
    tokens = torch.tensor([row])
    with torch.no_grad():
        logits: Tensor = plain(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return logits[0, -len(row) :]


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_peft(kind: PeftKind, tmp_path: Path) -> None:
    """Mutations: no virtual tokens; real tokens at their old positions; keys and values swapped."""
    network = with_tokens(kind)
    found = response_logprobs(network, collate(PROMPTS, RESPONSES, 0))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        logits = by_peft(network, tmp_path, prompt + response)[len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(response)), response]
        assert torch.allclose(found[row, : len(response)], expected, atol=1e-5)
    plain = response_logprobs(untrained_model(VOCABULARY, seed=0), collate(PROMPTS, RESPONSES, 0))
    assert not torch.allclose(found, plain, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_with_a_cache_and_left_padding_are_those_of_peft(
    kind: PeftKind, tmp_path: Path
) -> None:
    """Mutations: a mask without the virtual tokens; positions from the mask alone."""
    network = with_tokens(kind)
    engine = HFEngine(network, eos_token_id=2, pad_token_id=0)
    keys = np.arange(2, dtype=np.uint64)
    rollouts = engine.generate(PROMPTS, Sampling(max_new_tokens=5), keys)
    for prompt, tokens, logprobs in zip(PROMPTS, rollouts.tokens, rollouts.logprobs, strict=True):
        logits = by_peft(network, tmp_path, prompt + tokens)[len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
        assert torch.allclose(torch.tensor(logprobs), expected, atol=1e-5)


def test_a_prompt_shared_among_responses_scores_the_same() -> None:
    """Mutation: the cache of the prompt filled a second time."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    config = untrained_model(VOCABULARY, seed=0).config
    config.num_labels = 1
    model = RewardModel(with_tokens(PeftKind.prefix, LlamaForSequenceClassification(config)))
    separate = model(collate([PROMPTS[0]] * 2, RESPONSES, 0))
    shared = model(collate_branches([PROMPTS[0]], [RESPONSES], 0))
    assert torch.allclose(separate, shared, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened_they_are_the_same_and_alone_are_trained(
    kind: PeftKind, tmp_path: Path
) -> None:
    """The MLP is gone. Mutation: virtual tokens that are not trainable, or a base that is."""
    network, tokens = with_tokens(kind), torch.tensor([PROMPTS[0]])
    expected = network(input_ids=tokens).logits
    save_virtual_tokens(network.base_model.virtual_tokens, tmp_path)
    opened: Any = untrained_model(VOCABULARY, seed=0)
    open_virtual_tokens(opened, tmp_path, trainable=True)
    assert torch.allclose(opened(input_ids=tokens).logits, expected, atol=1e-6)
    (trained,) = [name for name, p in opened.named_parameters() if p.requires_grad]
    assert trained == "model.virtual_tokens.encoder.embedding.weight"


def test_without_them_the_base_is_left_and_then_they_are_back() -> None:
    network, plain = with_tokens(PeftKind.prompt), untrained_model(VOCABULARY, seed=0)
    tokens = torch.tensor([PROMPTS[0]])
    expected = network(input_ids=tokens).logits
    with without_virtual_tokens(network):
        assert torch.equal(network(input_ids=tokens).logits, plain(input_ids=tokens).logits)
        assert network.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(network(input_ids=tokens).logits, expected)


def test_activation_checkpointing_is_refused() -> None:
    network = with_tokens(PeftKind.p_tuning)
    network.gradient_checkpointing_enable()
    network(input_ids=torch.tensor([PROMPTS[0]]))  # without training nothing is checkpointed
    network.train()
    with pytest.raises(UserError, match="exclude each other"):
        network(input_ids=torch.tensor([PROMPTS[0]]))
