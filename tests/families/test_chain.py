"""Every family through all stages: base, SFT, reward model, two iterations of PPO-ptx, DPO."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from stages.lm.tokens import encode_prompt, encode_response
from tests.families.models import FAMILIES
from tests.families.tables import (
    LONG,
    run_dpo,
    run_ppo,
    run_reward_model,
    run_sft,
    write_tables,
)

BY_DEFAULT = ("gpt2", "gemma3", "bloom", "qwen3_moe")  # the others are slow together
CHAINS = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in FAMILIES
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHAINS)
def test_all_stages(name: str, base_of, tmp_path: Path) -> None:
    tables, base = write_tables(tmp_path / "tables"), base_of(name)
    sft = run_sft(base, tables, tmp_path)
    reward_model = run_reward_model(tmp_path / "sft", tables, tmp_path)
    ppo = run_ppo(tmp_path / "sft", tables, tmp_path)
    dpo = run_dpo(tmp_path / "sft", tables, tmp_path)
    for report in (sft, reward_model, ppo, dpo):
        assert all(math.isfinite(value) for value in report.metrics.values())
    assert ppo.metrics["validation.kl"] != 0

    weights = {
        stage: AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
        for stage, folder in {
            "base": base,
            **{s: tmp_path / s for s in ("sft", "ppo", "dpo")},
        }.items()
    }
    for before, after in (("base", "sft"), ("sft", "ppo"), ("sft", "dpo")):
        assert moved(weights[before], weights[after]), (before, after)
    check_reward_model(tmp_path / "reward_model")
    check_agreement(tmp_path / "ppo_context")


def moved(before: dict, after: dict) -> bool:
    """Every matrix learnt, and none but the embeddings of tokens not met stood still."""
    assert before.keys() == after.keys()
    return all(
        not torch.equal(before[name], after[name]) for name in before if before[name].dim() > 1
    )


def check_reward_model(folder: Path) -> None:
    """Transformers alone opens it, and gives the score and the bias, padded or not."""
    from reward.model import load_reward_model, load_reward_tokenizer
    from reward.scoring import score_responses

    ours, tokenizer = load_reward_model(folder / "model"), load_reward_tokenizer(folder / "model")
    asked = [[{"role": "user", "content": text}] for text in ("write", "write about the red cat")]
    prompts = [encode_prompt(tokenizer, messages) for messages in asked]
    response = encode_response(tokenizer, LONG, finished=True)
    found = score_responses(ours.scores, prompts, [response] * 2, tokenizer.pad_token_id)

    plain = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    own = AutoTokenizer.from_pretrained(folder / "model")
    rows = [[*prompt, *response] for prompt in prompts]
    batch = own.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        scores = plain(**batch).logits[:, 0] - plain.config.reward_bias
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=0)


def check_agreement(context: Path) -> None:
    """What was sampled has the log-probs that the trainer computes for it."""
    steps = [json.loads(line)["values"] for line in (context / "metrics.jsonl").open()]
    differences = [v for s in steps for k, v in s.items() if k == "rollout/logprob_diff_max"]
    assert differences
    assert max(differences) < 1e-4
