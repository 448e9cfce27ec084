"""Families beyond the table: the trial decides, when a base is taken."""

import pytest

from reward.model import new_reward_model
from stages.contracts import UserError
from stages.lm.supported import check_model, probe
from tests.families.models import GPT2, GROUPED, ROPE, Family, gpt2_tokens, new_model

OTHERS = {
    "granite": ROPE | {"logits_scaling": 4.0, "residual_multiplier": 0.3},
    "cohere": ROPE | {"logit_scale": 0.1},
    "gemma2": GROUPED | {"final_logit_softcapping": 3.0, "sliding_window": 6},
    "gptj": GPT2 | {"rotary_dim": 4},
}
REFUSED = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "qwen3_5_text": GROUPED,
}


def model_of(model_type: str, settings: dict):
    family = Family(model_type=model_type, tokenizer=gpt2_tokens, settings=settings)
    return new_model(family, gpt2_tokens())


@pytest.mark.parametrize("model_type", OTHERS)
def test_others_pass(model_type: str) -> None:
    """Fails for Granite, Cohere and Gemma 2 if `language_head` gives the head alone."""
    model = model_of(model_type, OTHERS[model_type])
    assert max(probe(model, 0).values()) < 1e-5
    check_model(model, 0)


@pytest.mark.parametrize("model_type", REFUSED)
def test_recurrent_ones_are_refused(model_type: str) -> None:
    with pytest.raises(UserError, match="not supported"):
        check_model(model_of(model_type, REFUSED[model_type]), 0)


def test_no_reward_model_of_a_family_without_classifier(tmp_path) -> None:
    model_of("granite", OTHERS["granite"]).save_pretrained(tmp_path)
    gpt2_tokens().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no SequenceClassification"):
        new_reward_model(tmp_path, seed=0)
