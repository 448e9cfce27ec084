"""The loop on a tiny Llama: invariants of its updates, what it logs, what stops it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.contracts import GoldKind, UserError
from stages.lm.batching import SequenceBatch
from stages.lm.logprobs import document_loss, response_logprobs
from stages.lm.optimisation import NonFiniteError
from stages.lm.tokens import encode_text
from stages.step3_policy.ppo.config import EmaUnit, KlController, MissingEos, PpoConfig
from stages.step3_policy.ppo.experience import Experience, minibatch_rows
from stages.step3_policy.ppo.loop import PpoLoop, make_experience, next_kl_coef, policy_lr
from stages.step3_policy.ppo.losses import policy_losses
from stages.step3_policy.ppo.masked import masked_mean

LOGGED = {
    *("rollout/score_mean", "rollout/score_std", "rollout/kl", "rollout/kl_k3", "rollout/entropy"),
    *("rollout/response_tokens", "rollout/eos_rate", "reward/total_mean"),
    *("rollout/logprob_diff_mean", "rollout/logprob_diff_max"),
    *("loss/policy", "loss/value", "loss/ptx"),
    *("policy/clip_fraction", "policy/approx_kl", "policy/ratio_max"),
    *("critic/explained_variance", "grad_norm/policy", "grad_norm/ptx", "grad_norm/critic"),
    "grad_norm/step",
    *("lr/policy", "kl_coef"),
    *("time/rollout_s", "time/scoring_s", "time/policy_s", "time/critic_s", "time/iteration_s"),
}


def experience_of(loop: PpoLoop, iteration: int = 0) -> Experience:
    prompts, rollouts = loop.sample(iteration)
    return make_experience(loop.roles, prompts, rollouts, loop.config, loop.config.kl_coef)


def gradients(loop: PpoLoop) -> list[Tensor]:
    return [p.grad.clone() for p in loop.roles.policy.model.parameters()]


def weights(loop: PpoLoop) -> list[Tensor]:
    return [p.detach().clone() for p in loop.roles.policy.model.parameters()]


def test_first_update_changes_nothing_yet(make_loop: Callable[..., PpoLoop]) -> None:
    """Ratio 1, no clipping, loss -mean(A) = 0, no KL to the reference while policy = reference.

    Mutations: dropout on; old log-probs of the engine at another temperature; uncentred whitening.
    """
    loop = make_loop(minibatch_size=8)
    figures = loop.iterate(0, 0.02)
    assert figures["policy/ratio_max"] == pytest.approx(1.0, abs=1e-6)
    assert figures["policy/approx_kl"] == pytest.approx(0.0, abs=1e-10)
    assert figures["policy/clip_fraction"] == 0.0
    assert figures["loss/policy"] == pytest.approx(0.0, abs=1e-6)
    assert figures["rollout/kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["rollout/kl_k3"] == pytest.approx(0.0, abs=1e-6)


def test_second_epoch_sees_the_policy_moved(make_loop: Callable[..., PpoLoop]) -> None:
    """Old log-probs are those before the first update. Mutation: recomputed for each minibatch."""
    figures = make_loop(minibatch_size=8, ppo_epochs=2).iterate(0, 0.02)
    assert figures["policy/approx_kl"] > 0.0
    assert figures["policy/ratio_max"] > 1.0


def test_both_gradients_meet_in_one_step(make_loop: Callable[..., PpoLoop]) -> None:
    """The sum equals the gradient of L_pi + ptx_coef L_ptx, and each norm is its own part's.

    Mutations: the held gradient not added back; `ptx_coef` left out; its norm of the sum.
    """
    loop = make_loop(ptx_coef=3.0)
    policy, experience, documents = (
        loop.roles.policy,
        experience_of(loop),
        loop.data.documents_of(0),
    )
    figures = policy.policy_gradient(experience, 0.02)
    figures |= policy.ptx_gradient(documents)
    found = gradients(loop)

    policy.backend.optimizer.zero_grad()
    logprobs = response_logprobs(policy.model, experience.batch)
    losses, _, _ = policy_losses(logprobs, experience.old_logprobs, experience.advantages, 0.2)
    masked_mean(losses, experience.mask).backward()
    of_policy = gradients(loop)
    policy.backend.optimizer.zero_grad()
    summed, num_tokens = document_loss(policy.model, documents, policy.pad_token_id)
    (3.0 * summed / num_tokens).backward()
    of_text = gradients(loop)

    torch.testing.assert_close(found, [a + b for a, b in zip(of_policy, of_text, strict=True)])
    assert figures["grad_norm/policy"] == pytest.approx(norm(of_policy), rel=1e-4)
    assert figures["grad_norm/ptx"] == pytest.approx(norm(of_text), rel=1e-4)
    assert figures["loss/ptx"] == pytest.approx(summed.item() / num_tokens, rel=1e-5)


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors))


def test_micro_batches_change_nothing(make_loop: Callable[..., PpoLoop]) -> None:
    """Mutation: each micro-batch's loss over its own tokens instead of the minibatch's."""
    whole, cut = make_loop("whole"), make_loop("cut", microbatch_tokens=24)
    for loop in (whole, cut):
        loop.iterate(0, 0.02)
    torch.testing.assert_close(weights(whole), weights(cut), rtol=1e-4, atol=1e-5)


def test_plain_ppo_is_ppo_without_text(make_loop: Callable[..., PpoLoop]) -> None:
    """Mutation: text gradients in spite of ptx_coef=0."""
    loop = make_loop(ptx_coef=0.0)
    assert loop.data.documents == []
    assert "loss/ptx" not in loop.iterate(0, 0.02)


def test_every_figure_is_logged_under_its_name(make_loop: Callable[..., PpoLoop]) -> None:
    loop = make_loop(iterations=2)
    loop.train()
    lines = (loop.context.checkpoints.parent / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    validated = {f"validation/{name}" for name in ("proxy", "kl", "response_tokens", "eos_rate")}
    found = {record["step"]: set(record["values"]) for record in records}
    assert found == {0: validated, 1: LOGGED, 2: LOGGED | validated}
    assert len(records) == 3


def test_gold_is_logged_and_never_trained_on(
    make_loop: Callable[..., PpoLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: gold instead of the reward model's scores in `make_experience`."""
    monkeypatch.setattr("stages.world.gold.gold_reward", lambda prompt, text, finished: finished)
    plain, watched = (
        make_loop("plain", iterations=2),
        make_loop("gold", iterations=2, gold=GoldKind.world),
    )
    for loop in (plain, watched):
        loop.train()
    torch.testing.assert_close(weights(plain), weights(watched), rtol=0, atol=0)
    lines = (watched.context.checkpoints.parent / "metrics.jsonl").read_text().splitlines()
    start, first, *_ = (json.loads(line)["values"] for line in lines)
    assert first["rollout/gold_mean"] == first["rollout/eos_rate"]
    assert 0.0 <= start["validation/gold"] <= 1.0


def test_non_finite_values_stop_the_step_and_keep_the_batch(
    make_loop: Callable[..., PpoLoop],
) -> None:
    """Mutation: the check before `backward` taken out: then it is the gradient that is named."""
    loop = make_loop()
    with torch.no_grad():
        loop.roles.critic.model.head.weight.fill_(math.nan)
    before = weights(loop)
    with pytest.raises(UserError, match="iteration 1: the policy loss is nan") as caught:
        loop.iterate(0, 0.02)
    assert "policy_lr" in caught.value.do
    (kept,) = loop.context.checkpoints.glob("broken_batch*.pt")
    saved = torch.load(kept, weights_only=True)
    assert saved["values"].isnan().any()
    assert saved["input_ids"].shape[0] == loop.config.minibatch_size
    torch.testing.assert_close(weights(loop), before, rtol=0, atol=0)


@pytest.mark.parametrize("role", ["policy", "ref_policy", "engine"])
def test_a_log_ratio_that_is_not_finite_stops_before_any_update(
    make_loop: Callable[..., PpoLoop], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that one of them holds impossible. Mutations: a check left out; padding checked."""
    loop = make_loop()
    prompts, rollouts = loop.sample(0)
    lengths = torch.tensor([len(tokens) for tokens in rollouts.tokens])
    places = (torch.arange(8), lengths - 1)
    if role == "engine":
        rollouts.logprobs[3][-1] = -math.inf
    else:
        part = getattr(loop.roles, role)
        name = {"policy": "logprobs_and_entropies", "ref_policy": "logprobs"}[role]
        original = getattr(part, name)

        def broken(batch: SequenceBatch) -> Any:
            found = original(batch)
            (found if role == "ref_policy" else found[0])[places] = -math.inf
            return found

        monkeypatch.setattr(part, name, broken)
    monkeypatch.setattr(loop, "sample", lambda iteration: (prompts, rollouts))
    before = weights(loop)
    with pytest.raises(UserError, match="iteration 1: the log-ratio of policy to"):
        loop.iterate(0, 0.02)
    assert len(list(loop.context.checkpoints.glob("broken_batch*.pt"))) == 1
    torch.testing.assert_close(weights(loop), before, rtol=0, atol=0)


def test_a_policy_that_loses_a_token_in_an_update_stops(make_loop: Callable[..., PpoLoop]) -> None:
    """Old log-probs are fine, the new one is -inf: the loss is finite. Mutation: no check of it."""
    loop = make_loop()
    experience = experience_of(loop)
    experience.old_logprobs = experience.old_logprobs.clone()
    experience.old_logprobs[0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="log-ratio of the policy is not finite at 1 of"):
        loop.roles.policy.policy_gradient(experience, 0.02)


def test_a_gradient_that_is_not_finite_stops_too(make_loop: Callable[..., PpoLoop]) -> None:
    """The loss is finite here. Mutation: the check of the norm in `clip_and_step` taken out."""
    loop = make_loop()
    parameter = next(loop.roles.policy.model.parameters())
    parameter.register_hook(lambda gradient: gradient * math.inf)
    before = weights(loop)
    with pytest.raises(UserError, match="gradient norm"):
        loop.iterate(0, 0.02)
    torch.testing.assert_close(weights(loop), before, rtol=0, atol=0)


@pytest.mark.parametrize(("unit", "updates"), [(EmaUnit.minibatch, 2), (EmaUnit.iteration, 1)])
def test_unit_of_the_average(
    make_loop: Callable[..., PpoLoop], unit: EmaUnit, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two minibatches an iteration."""
    loop, moves = make_loop(ema_unit=unit), []
    monkeypatch.setattr(loop.roles.policy.average, "update", moves.append)
    loop.iterate(0, 0.02)
    assert len(moves) == updates


def test_warm_up_then_constant() -> None:
    """App. C.4: from a tenth of the peak over ten iterations. Mutation: `warmup_start` unused."""
    config = PpoConfig(policy_lr=1.0)
    assert policy_lr(config, 0) == pytest.approx(0.1)
    assert policy_lr(config, 5) == pytest.approx(0.55)
    assert policy_lr(config, 10) == policy_lr(config, 499) == 1.0


def test_kl_coefficient_fixed_or_adaptive() -> None:
    fixed = PpoConfig(kl_coef=0.15)
    assert next_kl_coef(fixed, 0.15, 12.0) == 0.15
    adaptive = replace(fixed, kl_controller=KlController.adaptive)
    assert next_kl_coef(adaptive, 0.15, 12.0) == pytest.approx(0.151536)


def test_minibatches_are_a_random_split_of_every_epoch() -> None:
    """Mutation: the same order in each epoch; a generator that remembers earlier calls."""
    config = PpoConfig(rollout_batch_size=8, minibatch_size=4, ppo_epochs=2)
    pairs = list(minibatch_rows(config, iteration=3))
    assert [update for update, _ in pairs] == [12, 13, 14, 15]
    epochs = [pairs[0][1] + pairs[1][1], pairs[2][1] + pairs[3][1]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 2
    assert epochs[0] != epochs[1]
    assert list(minibatch_rows(config, iteration=3)) == pairs
    assert next(minibatch_rows(config, iteration=4))[1] != pairs[0][1]


def test_same_seed_same_weights(make_loop: Callable[..., PpoLoop]) -> None:
    """Mutation: any draw from a generator that is not keyed."""
    loops = [make_loop("a"), make_loop("b"), make_loop("c", seed=1)]
    for loop in loops:
        loop.train()
    first, again, other = (weights(loop) for loop in loops)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


def test_training_finds_what_is_rewarded(make_loop: Callable[..., PpoLoop]) -> None:
    """One point for each "cat" in a response. Mutations: the sign of advantages, or of the loss."""
    loop = make_loop(
        rollout_batch_size=32,
        minibatch_size=16,
        ptx_coef=0.0,
        policy_lr=1e-2,
        missing_eos=MissingEos.none,
    )
    (cat,) = encode_text(loop.data.tokenizer, "cat")
    loop.roles.reward_model.scores_and_disagreements = lambda batch: (cats_in(batch, cat), None)
    scores = [loop.iterate(iteration, 0.0)["rollout/score_mean"] for iteration in range(15)]
    assert scores[-1] > scores[0] + 1.0


def cats_in(batch: SequenceBatch, cat: int) -> Tensor:
    return ((batch.response_tokens == cat) & batch.response_mask).sum(-1).float()
