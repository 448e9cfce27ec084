"""Where the score is read, what padding may not change, and that Transformers alone agrees."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.model import (
    RewardModel,
    critic_from,
    initialise_head,
    load_reward_model,
    load_reward_tokenizer,
    new_reward_model,
    save_reward_model,
)
from reward.normalization import normalise
from reward.scoring import score_responses
from stages.contracts import UserError
from stages.lm.batching import SequenceBatch, collate
from stages.lm.loading import load_tokenizer, save_model

PROMPTS = [[1, 7, 8], [1, 9], [1, 10, 11, 12]]
RESPONSES = [[8, 9, 2], [13], [14, 8, 8, 9, 2]]


@pytest.fixture
def reward_model(tiny_model_folder: Path) -> RewardModel:
    return new_reward_model(tiny_model_folder / "model", seed=0)


@pytest.fixture
def reward_folder(reward_model: RewardModel, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    reward_model.network.config.reward_bias = 0.75
    save_reward_model(reward_model, tiny_tokenizer, tmp_path / "reward_model")
    return tmp_path / "reward_model"


def widened(batch: SequenceBatch, columns: int, token: int) -> SequenceBatch:
    extra = torch.full((len(batch.lengths), columns), token)
    return SequenceBatch(
        input_ids=torch.cat([batch.input_ids, extra], dim=1),
        prompt_lengths=batch.prompt_lengths,
        lengths=batch.lengths,
    )


def test_the_score_is_the_head_at_the_last_real_token(reward_model: RewardModel) -> None:
    """One sequence at a time, no padding. Mutation: `lengths - 2`, or the last column."""
    scores = reward_model.raw_scores(collate(PROMPTS, RESPONSES, 0))
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        tokens = torch.tensor([prompt + response])
        hidden = reward_model.network.base_model(input_ids=tokens).last_hidden_state
        expected = hidden[0, -1] @ reward_model.network.score.weight[0]
        assert score.item() == pytest.approx(expected.item(), abs=1e-5)


def test_pad_may_equal_eos(reward_model: RewardModel) -> None:
    """Mutation: reading at the last token that is not pad scores before the EOS."""
    eos = 2
    with_pad = reward_model.scores(collate(PROMPTS, RESPONSES, 0))
    with_eos = reward_model.scores(collate(PROMPTS, RESPONSES, eos))
    torch.testing.assert_close(with_eos, with_pad)


@pytest.mark.parametrize("token", [0, 2, 9])
def test_padding_changes_no_score(reward_model: RewardModel, token: int) -> None:
    """Mutation: dropping the attention mask is harmless (causal); reading at -1 is not."""
    batch = collate(PROMPTS, RESPONSES, 0)
    padded = reward_model.scores(widened(batch, 7, token))
    torch.testing.assert_close(padded, reward_model.scores(batch))


def test_transformers_alone_gives_the_scores_up_to_the_bias(reward_folder: Path) -> None:
    """With padding, from the tokenizer in the folder. Mutation: `+ self.reward_bias` in scores."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    theirs = AutoModelForSequenceClassification.from_pretrained(reward_folder)
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    batch = collate(PROMPTS, RESPONSES, tokenizer.pad_token_id)
    with torch.no_grad():
        logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        ours = load_reward_model(reward_folder).scores(batch)
    assert theirs.config.reward_bias == 0.75
    assert theirs.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    torch.testing.assert_close(logits[:, 0] - 0.75, ours)


def test_saving_and_loading_keeps_the_scores(
    reward_model: RewardModel, reward_folder: Path
) -> None:
    batch = collate(PROMPTS, RESPONSES, 0)
    torch.testing.assert_close(
        load_reward_model(reward_folder).scores(batch), reward_model.scores(batch), rtol=0, atol=0
    )


def test_the_head_is_drawn_as_published() -> None:
    """Standard deviation 1/sqrt(H + 1). Mutation: 1/(H + 1), the misprint, is 32 times smaller."""
    head = torch.nn.Linear(1023, 8)
    initialise_head(head, seed=0)
    assert head.weight.std().item() == pytest.approx(1 / 32, rel=0.05)
    assert abs(head.weight.mean().item()) < 0.002
    assert head.bias.abs().max().item() == 0


def test_the_seed_decides_the_head(tiny_model_folder: Path) -> None:
    heads = [
        new_reward_model(tiny_model_folder / "model", seed).network.score.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_values_start_as_the_normalised_score_of_every_prefix(reward_folder: Path) -> None:
    """V before token t is the score of the prompt and t tokens. Mutation: `+ reward_bias`, or
    the state after the token."""
    model, critic = load_reward_model(reward_folder), critic_from(load_reward_model(reward_folder))
    values = critic.values(collate(PROMPTS, RESPONSES, 0))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        for t in range(len(response)):
            sequence = prompt + response[:t]
            prefix = collate([sequence[:1]], [sequence[1:]], 0)
            assert values[row, t].item() == pytest.approx(model.scores(prefix).item(), abs=1e-5)
        assert values[row, len(response) :].abs().sum().item() == 0


def test_the_critic_is_a_copy(reward_folder: Path) -> None:
    critic = critic_from(load_reward_model(reward_folder))
    assert all(parameter.requires_grad for parameter in critic.parameters())
    assert critic.head.bias.item() == pytest.approx(-0.75)


def test_a_model_without_a_bias_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="reward_bias"):
        load_reward_model(tiny_model_folder / "model")


def test_a_pad_token_that_is_eos_is_replaced(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Mutation: keeping pad = EOS makes Transformers read the score before the EOS."""
    save_model(tiny_model, tiny_tokenizer, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    chosen = load_reward_tokenizer(tmp_path).pad_token
    assert chosen not in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
    assert chosen not in tokenizer.chat_template


def test_demonstrations_score_zero_on_average(reward_model: RewardModel) -> None:
    """Mutation: adding the bias instead of subtracting it."""
    raw = score_responses(reward_model.raw_scores, PROMPTS, RESPONSES, 0)
    normalise(reward_model, raw)
    scores = score_responses(reward_model.scores, PROMPTS, RESPONSES, 0)
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(scores - scores[0], raw - raw[0])  # only a shift


def test_unit_variance_scales_the_completions(reward_model: RewardModel) -> None:
    """Mutation: the unbiased standard deviation is sqrt(3/2) too large here."""
    raw = score_responses(reward_model.raw_scores, PROMPTS, RESPONSES, 0)
    normalise(reward_model, raw[:2], completion_scores=raw)
    scores = score_responses(reward_model.scores, PROMPTS, RESPONSES, 0).tolist()
    mean = sum(scores) / 3
    assert math.sqrt(sum((score - mean) ** 2 for score in scores) / 3) == pytest.approx(1, abs=1e-4)
    assert (scores[0] + scores[1]) / 2 == pytest.approx(0, abs=1e-5)


def test_scores_come_back_in_order(reward_model: RewardModel, monkeypatch: Any) -> None:
    """Small groups by length, scattered back. Mutation: scores in the order of the groups."""
    monkeypatch.setattr("reward.scoring.TOKENS_PER_FORWARD", 8)
    scattered = score_responses(reward_model.scores, PROMPTS, RESPONSES, 0)
    torch.testing.assert_close(scattered, reward_model.scores(collate(PROMPTS, RESPONSES, 0)))
