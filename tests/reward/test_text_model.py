"""A reward model of another tokenizer: its scores are those of the text, read by Transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
from reward.text_model import TextRewardModel, reads_tokens_of
from reward.text_rewards import RewardError
from stages.lm.loading import load_tokenizer, save_model
from tests.conftest import WORDS

PROMPTS = [[{"role": "user", "content": text}] for text in ("write about the cat", "count red box")]
RESPONSES = ["the cat is red .", "one two"]


def write_reward_model(folder: Path, words: str) -> Path:
    """Random weights over a vocabulary of its own; saved as the stage saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from stages.lm.vocabulary import word_tokenizer

    tokenizer = word_tokenizer([words])
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    save_model(LlamaForCausalLM(config), tokenizer, folder / "lm")
    model = new_reward_model(folder / "lm", seed=1)
    model.network.config.reward_bias = 0.25
    save_reward_model(model, load_reward_tokenizer(folder / "lm"), folder / "model")
    return folder / "model"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """The words in another order: every token id means another word."""
    return write_reward_model(tmp_path / "foreign", " ".join([*reversed(WORDS.split()), "mouse"]))


def scores_by_transformers(folder: Path, ended: list[bool]) -> list[float]:
    """Text in, score out, with nothing of this project: template, tokenizer, classifier, bias."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for messages, response, finished in zip(PROMPTS, RESPONSES, ended, strict=True):
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = f"{asked} {response}" + (f" {tokenizer.eos_token}" if finished else "")
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**tokens).logits.item() - model.config.reward_bias)
    return scores


@pytest.mark.parametrize("ended", [[True, True], [True, False]])
def test_scores_are_those_of_the_text(foreign: Path, ended: list[bool]) -> None:
    """Mutations: the policy's tokens; no EOS; the bias left in."""
    found = TextRewardModel(foreign)(PROMPTS, RESPONSES, ended)
    assert found == pytest.approx(scores_by_transformers(foreign, ended), abs=1e-5)


def test_it_is_told_by_tokenizer_and_template(
    foreign: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    policy = load_tokenizer(tiny_model_folder / "model")
    assert not reads_tokens_of(foreign, policy)
    assert reads_tokens_of(write_reward_model(tmp_path / "same", WORDS), policy)
    policy.chat_template = str(policy.chat_template).replace("<user>", "<assistant>")
    assert not reads_tokens_of(tmp_path / "same" / "model", policy)


def test_a_text_that_does_not_fit_its_context_is_no_score(foreign: Path) -> None:
    with pytest.raises(RewardError, match=r"row 1: 4[0-9] of its tokens, its context has 40"):
        TextRewardModel(foreign)(PROMPTS, ["one", "two " * 36], [True, True])
