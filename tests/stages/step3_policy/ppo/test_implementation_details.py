"""The details of PPO that decide whether it works, a test each.

They are those of Ziegler et al. (2019) as 'The N Implementation Details of RLHF with PPO' and Huang
et al. (2024) list them. Each docstring names the mutation that turns its test red.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from reward.normalization import normalise
from stages.lm.batching import SequenceBatch, collate
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.optimisation import OptimizerConfig, make_optimizer
from stages.lm.rollout import Sampling, sampling_keys
from stages.step3_policy.ppo.config import KlPlacement, MissingEos
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.loop import PpoLoop, make_experience
from stages.step3_policy.ppo.masked import masked_mean, masked_variance
from stages.step3_policy.ppo.metrics import experience_figures
from stages.step3_policy.ppo.rollouts import respond
from tests.stages.step3_policy.ppo import tabular
from tests.stages.step3_policy.ppo.small_ppo import small_config

MakeLoop = Callable[..., PpoLoop]


def experience_of(loop: PpoLoop) -> Experience:
    prompts, rollouts = loop.sample(0)
    return make_experience(loop.roles, prompts, rollouts, loop.config, loop.config.kl_coef)


def gradients(loop: PpoLoop, experience: Experience) -> list[Tensor]:
    """What one minibatch with these rollouts asks of the policy's weights."""
    loop.roles.policy.policy_gradient(experience, loop.config.kl_coef)
    return [p.grad.clone() for p in loop.roles.policy.model.parameters()]


def nudge(loop: PpoLoop) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in loop.roles.policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def gpt2(tiny_tokenizer) -> torch.nn.Module:
    """Learned positions: unlike rotary ones they notice a shift by left padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_positions=64, n_embd=16, n_layer=2,
                        n_head=2, initializer_range=0.5)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def test_row_2_padding_may_be_the_eos_token(make_loop: MakeLoop) -> None:
    """Then EOS still carries loss and the score is read at it.

    Mutation: lengths counted as `input_ids != pad` in `collate`.
    """
    apart, shared = make_loop("apart"), make_loop("shared")
    shared.roles.policy.pad_token_id = shared.data.tokenizer.eos_token_id
    first, second = experience_of(apart), experience_of(shared)
    assert first.finished.any()
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(first.scores, second.scores)
    torch.testing.assert_close(gradients(apart, first), gradients(shared, second))
    ends = second.mask.sum(-1)[second.finished] - 1
    assert (second.batch.response_tokens[second.finished, ends] == 2).all()
    assert (second.old_logprobs[second.finished, ends] < 0).all()


def test_row_3_positions_come_from_the_mask(gpt2: torch.nn.Module) -> None:
    """Left-padded sampling and the right-padded training forward agree.

    Mutation: `position_ids` not passed in `HFEngine`.
    """
    prompts = [[6, 7], [6, 8, 9, 10, 11, 7]]
    engine = HFEngine(gpt2, eos_token_id=2, pad_token_id=0)
    keys = sampling_keys(0, 0, [0, 1], [0, 1])
    rollouts = engine.generate(prompts, Sampling(max_new_tokens=6), keys)
    with torch.no_grad():
        logprobs = response_logprobs(gpt2, collate(prompts, rollouts.tokens, 0))
    for row, sampled in enumerate(rollouts.logprobs):
        assert logprobs[row, : len(sampled)].tolist() == pytest.approx(sampled, abs=1e-4)


def test_row_4_sampling_is_plain_categorical() -> None:
    """20,000 draws within four standard errors of the table, rare actions among them.

    Mutation: `top_k=3` or `top_p=.9` in `respond`.
    """
    probabilities, count = np.array([0.4, 0.3, 0.25, 0.05]), 20_000
    engine = tabular.TableEngine(tabular.TablePolicy(probabilities.tolist()))
    prompts = [[tabular.PROMPT]] * count
    rollouts = respond(engine, prompts, small_config(), stream=0, indices=range(count))
    found = np.bincount([token for (token,) in rollouts.tokens], minlength=4) / count
    errors = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(found - probabilities) < 4 * errors).all()


def test_row_5_temperature_is_in_rollout_reference_and_update(make_loop: MakeLoop) -> None:
    """At .5 the engine's log-probs are the trainer's, the reference's too, and the ratio is 1.

    Mutations: the temperature left out of the engine, of `ReferenceRole`, of `_surrogate`.
    """
    loop = make_loop(temperature=0.5)
    prompts, rollouts = loop.sample(0)
    experience = make_experience(loop.roles, prompts, rollouts, loop.config, 0.02)
    for row, sampled in enumerate(rollouts.logprobs):
        ours = experience.old_logprobs[row, : len(sampled)].tolist()
        assert ours == pytest.approx(sampled, abs=1e-4)
    torch.testing.assert_close(experience.ref_logprobs, experience.old_logprobs)
    assert loop.roles.policy.policy_gradient(experience, 0.02)["policy/ratio_max"] == pytest.approx(
        1.0, abs=1e-5
    )


def test_row_6_dropout_is_off(make_loop: MakeLoop) -> None:
    """A model made with dropout has ratio 1 at its first update, and no module trains.

    Mutation: `self.model.train()` in `policy_gradient`.
    """
    loop = make_loop(minibatch_size=8)
    roles = loop.roles
    models = [roles.policy.model, roles.ref_policy.model]
    models += [roles.critic.model.backbone, roles.reward_model.model.network]
    for layer in roles.policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    figures = loop.iterate(0, 0.02)
    assert figures["policy/ratio_max"] == pytest.approx(1.0, abs=1e-6)
    assert not any(module.training for model in models for module in model.modules())


def test_row_7_score_at_eos_penalty_at_every_token(make_loop: MakeLoop) -> None:
    """Mutation: the score one slot after EOS, or at the padded end."""
    loop = make_loop(kl_coef=0.3, missing_eos=MissingEos.none)
    nudge(loop)
    experience = experience_of(loop)
    penalties = -0.3 * (experience.old_logprobs - experience.ref_logprobs)
    for row, length in enumerate(experience.mask.sum(-1).tolist()):
        found, expected = experience.rewards[row], penalties[row].clone()
        expected[length - 1] += experience.scores[row]
        torch.testing.assert_close(found[:length], expected[:length])
        assert (found[length:] == 0).all()


def test_row_8_score_is_read_at_the_last_real_token(make_loop: MakeLoop) -> None:
    """A response scores the same alone as beside longer ones. Mutation: `hidden[:, -1]`."""
    loop = make_loop()
    experience = experience_of(loop)
    lengths = experience.batch.lengths
    assert lengths.min() < lengths.max()
    alone = [loop.roles.reward_model.scores(experience.batch.select([row])) for row in range(8)]
    torch.testing.assert_close(torch.cat(alone), experience.scores)


def test_row_11_scores_and_values_are_shifted_to_demonstrations_at_zero(
    make_loop: MakeLoop,
) -> None:
    """PPO sees normalised scores, and the critic starts with the same zero.

    Mutations: `raw_scores` in `RewardRole`; the critic's head without the bias.
    """
    loop = make_loop()
    batch, model = experience_of(loop).batch, loop.roles.reward_model.model
    with torch.no_grad():
        raw = model.raw_scores(batch)
    torch.testing.assert_close(loop.roles.reward_model.scores(batch), raw - 0.25)
    cut = SequenceBatch(  # without its last token: the state in which that token was chosen
        input_ids=batch.input_ids[:1],
        prompt_lengths=batch.prompt_lengths[:1],
        lengths=batch.lengths[:1] - 1,
    )
    last_value = loop.roles.critic.values(batch.select([0]))[0, -1]
    torch.testing.assert_close(last_value, loop.roles.reward_model.scores(cut)[0])
    normalise(model, demonstration_scores=raw)
    assert loop.roles.reward_model.scores(batch).mean().item() == pytest.approx(0.0, abs=1e-5)


def test_row_12_a_response_without_eos_scores_minus_one(make_loop: MakeLoop) -> None:
    """Replaced, not lowered. Mutations: `finished` all true; the rule `subtract`."""
    loop = make_loop(kl_coef=0.0)
    experience = experience_of(loop)
    totals = experience.rewards.sum(-1)
    assert 0 < experience.finished.sum() < 8
    assert (totals[~experience.finished] == -1.0).all()
    torch.testing.assert_close(totals[experience.finished], experience.scores[experience.finished])


def test_row_14_nothing_follows_the_last_token(make_loop: MakeLoop) -> None:
    """There the advantage is reward less value, and the return is the reward: no bootstrap.

    Mutations: the value of padding as the next value; returns from whitened advantages.
    """
    loop = make_loop(whiten_advantages=False)
    experience = experience_of(loop)
    rows, last = torch.arange(8), experience.mask.sum(-1) - 1
    rewards, values = experience.rewards[rows, last], experience.values[rows, last]
    torch.testing.assert_close(experience.advantages[rows, last], rewards - values)
    torch.testing.assert_close(experience.returns[rows, last], rewards)
    torch.testing.assert_close(experience_of(make_loop("whitened")).returns, experience.returns)


def test_row_16_advantages_are_whitened_over_the_whole_batch(make_loop: MakeLoop) -> None:
    """Mean 0 and biased variance 1 over real tokens. Mutations: unbiased; padding counted."""
    experience = experience_of(make_loop())
    mask = experience.mask
    assert not mask.all()
    assert masked_mean(experience.advantages, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert masked_variance(experience.advantages, mask).item() == pytest.approx(1.0, abs=1e-4)


def test_row_17_the_critic_is_clipped_around_its_old_values(make_loop: MakeLoop) -> None:
    """Values already further from the old ones than the clip, past it towards the return, stay.

    Mutation: the clip left out of `CriticRole.update`, or around the returns.
    """
    loop = make_loop()
    experience = experience_of(loop)
    experience.returns = experience.values + 10.0
    experience.values = experience.values - 1.0
    assert loop.roles.critic.update(experience)["grad_norm/critic"] == 0.0
    free = make_loop("free", value_clip_range=None)
    assert free.roles.critic.update(experience)["grad_norm/critic"] > 0.0


def test_row_18_every_token_of_the_minibatch_weighs_the_same(make_loop: MakeLoop) -> None:
    """A long response counts by its tokens, however it is cut into micro-batches.

    Mutations: mean of sequence means; each micro-batch divided by its own tokens.
    """
    loop = make_loop(microbatch_tokens=20)
    experience = experience_of(loop)
    with torch.no_grad():
        advantages = experience.advantages
        advantages.copy_(torch.arange(8.0)[:, None].expand_as(advantages) ** 2)
    lengths = experience.mask.sum(-1).tolist()
    assert len(set(lengths)) > 1
    expected = -sum(n * row**2 for row, n in enumerate(lengths)) / sum(lengths)
    found = loop.roles.policy.policy_gradient(experience, 0.0)["loss/policy"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_row_22_adam_adds_epsilon_as_pytorch_does() -> None:
    """At the first step eps=1e-5 acts as 2.24e-6 in TensorFlow's form, which keeps it fixed.

    Mutation: eps * sqrt(1 - beta2) passed to the optimizer.
    """
    lr, slope, beta2 = 1e-3, 1e-5, 0.95
    layer = torch.nn.Linear(1, 1, bias=False).double()
    start = layer.weight.item()
    optimizer = make_optimizer(layer, OptimizerConfig(lr=lr, beta2=beta2, eps=1e-5))
    layer.weight.grad = torch.full((1, 1), slope, dtype=torch.float64)
    optimizer.step()
    moved = start - layer.weight.item()
    # TensorFlow moves by lr s / (s + eps_hat), where s is the slope times sqrt(1 - beta2).
    spread = (1 - beta2) ** 0.5 * slope
    assert lr * spread / moved - spread == pytest.approx(2.236e-6, rel=1e-3)


def test_row_26_noise_differs_by_seed_iteration_and_place() -> None:
    """The same prompt twice, the next iteration, another seed: other responses.

    Mutation: keys of the prompt's index alone; the iteration left out of `sample`.
    """
    engine = tabular.TableEngine(tabular.TablePolicy([0.25] * 4))

    def tokens(seed: int, stream: int) -> list[list[int]]:
        prompts = [[tabular.PROMPT]] * 64
        config = small_config(seed=seed)
        return respond(engine, prompts, config, stream=stream, indices=[7] * 64).tokens

    assert len({token for (token,) in tokens(0, 0)}) == 4
    assert tokens(0, 0) == tokens(0, 0)
    assert tokens(0, 0) != tokens(0, 1)
    assert tokens(0, 0) != tokens(1, 0)


def test_row_26_iterations_sample_anew(
    make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same prompts at the same places, other responses. Mutation: one stream for all."""
    loop = make_loop()
    monkeypatch.setattr(loop.data, "prompts_of", lambda iteration: (range(8), loop.data.train))
    (_, first), (_, second) = loop.sample(0), loop.sample(1)
    assert first.tokens != second.tokens


def test_row_29_ratios_are_float32_and_start_at_one_in_bfloat16(make_loop: MakeLoop) -> None:
    """Old log-probs come from the training forward, in float32, whatever the weights' type.

    Mutations: the engine's log-probs as old ones; `.float()` left out before the log-softmax.
    """
    loop = make_loop(minibatch_size=8)
    for role in (loop.roles.policy, loop.roles.ref_policy):
        role.model.bfloat16()
    prompts, rollouts = loop.sample(0)
    experience = make_experience(loop.roles, prompts, rollouts, loop.config, 0.02)
    for tensor in experience.tensors().values():
        assert tensor.dtype in (torch.float32, torch.bool)
    assert (experience.old_logprobs.bfloat16().float() != experience.old_logprobs).any()
    figures = loop.roles.policy.policy_gradient(experience, 0.02)
    assert figures["policy/ratio_max"] == 1.0
    assert figures["policy/approx_kl"] == 0.0
    assert torch.equal(experience.old_logprobs, experience.ref_logprobs)


def test_row_30_padding_stays_out_of_every_statistic(make_loop: MakeLoop) -> None:
    """Rubbish where the mask is False changes no figure and no gradient.

    Mutations: `values.mean()` for the masked mean; `values * mask` (NaN gets through).
    """
    loop = make_loop()
    nudge(loop)
    clean, dirty = experience_of(loop), experience_of(loop)
    for name, tensor in dirty.tensors().items():
        if tensor.dim() == 2:
            setattr(dirty, name, tensor.masked_fill(~dirty.mask, torch.nan))
    assert experience_figures(dirty) == pytest.approx(experience_figures(clean))
    for experience in (clean, dirty):
        experience.figures = loop.roles.policy.policy_gradient(experience, 0.02)
        loop.roles.policy.backend.optimizer.zero_grad()
        experience.figures |= loop.roles.critic.update(experience)
        loop = make_loop("again")
        nudge(loop)
    assert dirty.figures == pytest.approx(clean.figures)


def test_row_32_k1_stands_in_the_reward_and_k2_in_the_loss(make_loop: MakeLoop) -> None:
    """Never both, and the loss keeps pace with whitened advantages.

    Mutations: k2 or k3 in `kl_penalty`; the penalty kept with placement=loss; the scale left out.
    """
    loop = make_loop(kl_coef=0.5, missing_eos=MissingEos.none, minibatch_size=8)
    nudge(loop)
    in_reward = experience_of(loop)
    log_ratio = in_reward.old_logprobs - in_reward.ref_logprobs
    total = in_reward.scores - 0.5 * log_ratio.sum(-1)
    torch.testing.assert_close(in_reward.rewards.sum(-1), total)

    other = make_loop("loss", kl_coef=0.5, kl_placement=KlPlacement.loss,
                      missing_eos=MissingEos.none, minibatch_size=8)  # fmt: skip
    nudge(other)
    as_loss = experience_of(other)
    torch.testing.assert_close(as_loss.rewards.sum(-1), as_loss.scores)
    losses = [other.roles.policy.policy_gradient(as_loss, c)["loss/policy"] for c in (0.0, 0.5)]
    raw = (as_loss.returns - as_loss.values)[as_loss.mask]  # advantages before whitening
    k2 = 0.5 * log_ratio.sum(-1) ** 2 / raw.std(correction=0)
    expected = 0.5 * k2.sum().item() / as_loss.mask.sum().item()
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)
