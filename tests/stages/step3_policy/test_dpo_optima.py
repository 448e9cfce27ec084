"""Where DPO (Rafailov et al. 2023, eq. 4) and IPO (Azar et al. 2024) end on four actions whose
rewards are known, through the stage's own trainer."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.lm.process import prepare_process
from stages.step3_policy.config import DpoConfig, PairLoss
from stages.step3_policy.dpo_trainer import make_trainer, pair_rows
from stages.step3_policy.preference_data import EncodedComparison, completion_logprobs

ACTIONS, PROMPT = [4, 5, 6, 7], 3


def four_action_policy(probabilities):
    """A Llama without blocks: one prompt token, four single-token completions, free logits."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    policy = LlamaForCausalLM(config)
    with torch.no_grad():
        policy.model.embed_tokens.weight.copy_(torch.eye(8))
        hidden = policy.model(torch.tensor([[PROMPT]])).last_hidden_state[0, 0, PROMPT]
        policy.lm_head.weight.fill_(-40.0 / hidden)
        policy.lm_head.weight[ACTIONS, PROMPT] = torch.tensor(probabilities).log() / hidden
    policy.model.requires_grad_(False)
    return policy


def population_comparisons(rewards, labels_per_pair):
    """Every ordered pair as often as Bradley-Terry labelers prefer it."""
    pairs = []
    for i, first in enumerate(rewards):
        for j, second in enumerate(rewards):
            if i != j:
                share = 1 / (1 + math.exp(second - first))
                pairs += [(i, j)] * round(labels_per_pair * share)
    return EncodedComparison(
        prompt=[PROMPT], completions=[[action] for action in ACTIONS], pairs=pairs
    )


def action_probabilities(policy):
    logits = policy(torch.tensor([[PROMPT]])).logits[0, -1, ACTIONS]
    return logits.double().softmax(-1).detach()


IPO = {"loss": PairLoss.ipo}
OPTIMA = [
    ({"beta": 1.0}, [0.085073, 0.173439, 0.314304, 0.427184]),
    ({"beta": 2.0}, [0.212039, 0.262195, 0.288191, 0.237574]),
    ({"beta": 1.0} | IPO, [0.3297, 0.2934, 0.2366, 0.1403]),
    ({"beta": 0.5} | IPO, [0.2624, 0.2770, 0.2703, 0.1902]),
    ({"beta": 0.5, "per_token": True} | IPO, [0.2624, 0.2770, 0.2703, 0.1902]),  # of one token
]


def trained_on(policy, comparison, config, tokenizer, folder, steps=200):
    """The actions' probabilities after full-batch steps on the stage's own loss."""
    prepare_process(1, 0)
    rows = pair_rows([comparison], completion_logprobs(policy, [comparison], 0))
    trainer = make_trainer(policy, tokenizer, rows, config, folder)
    batch = trainer.data_collator(list(rows))
    optimizer = torch.optim.Adam([policy.lm_head.weight], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        trainer.compute_loss(policy, dict(batch)).backward()
        optimizer.step()
    return action_probabilities(policy)


@pytest.mark.parametrize(("changes", "optimum"), OPTIMA)
def test_the_population_optimum(tiny_tokenizer, tmp_path, changes, optimum):
    """ref [.4, .3, .2, .1], r [0, 1, 2, 3], Bradley-Terry labels on all pairs.

    DPO's is proportional to ref exp(r / beta); IPO's is not. Total variation under 0.02. Fails for
    a swapped pair, a wrong beta, or a reference left out.
    """
    policy = four_action_policy([0.4, 0.3, 0.2, 0.1])
    comparison = population_comparisons([0.0, 1.0, 2.0, 3.0], labels_per_pair=200)
    found = trained_on(policy, comparison, DpoConfig(**changes), tiny_tokenizer, tmp_path)
    assert float((found - torch.tensor(optimum)).abs().sum() / 2) < 0.02


@pytest.mark.parametrize(("beta", "optimum"), [(1.0, 0.622459), (0.1, 0.993307)])
def test_ipo_holds_on_to_the_reference_where_labels_never_differ(
    tiny_tokenizer, tmp_path, beta, optimum
):
    """Two actions, uniform reference, one always preferred: sigmoid(.5 / beta), and DPO goes on
    to certainty for every beta."""
    comparison = EncodedComparison(prompt=[PROMPT], completions=[[4], [5]], pairs=[(0, 1)])
    found = [
        trained_on(
            four_action_policy([0.25] * 4),
            comparison,
            DpoConfig(beta=beta, **changes),
            tiny_tokenizer,
            tmp_path,
            steps=400,
        )
        for changes in (IPO, {})
    ]
    ipo, dpo_ = (probabilities[0] / probabilities[:2].sum() for probabilities in found)
    assert float(ipo) == pytest.approx(optimum, abs=1e-3)
    assert float(dpo_) > 0.998
