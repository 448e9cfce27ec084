"""Best-of-n: the SFT policy, n samples a prompt, the one kept that the reward model scores highest.

    sft, reward_model, prompts -> model/, reward_model/, best_of_n.json {"n": ...}

Nothing is trained. The stage measures how the proxy reward, and gold where it is known, go with n,
on validation prompts. Without ties best-of-n is log n - (n-1)/n nats from SFT (Stiennon et al.
2020).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reward.ensemble import load_scorer
from reward.scoring import score_responses
from stages.contracts import Context, GoldKind, InterruptedRunError, Report
from stages.lm.engines.hf import HFEngine
from stages.lm.folders import link_folder
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.prompts import FittingPrompts, fitting_prompts
from stages.lm.rollout import Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.lm.tokens import decode_response
from stages.records.schemas import Prompt
from stages.step3_policy.best_of_n_curve import best_of_n_kl, best_of_n_mean
from stages.step3_policy.config import BestOfNConfig


def run(
    config: BestOfNConfig,
    *,
    sft: Path,
    reward_model: Path,
    prompts: Path,
    out: Path,
    context: Context,
) -> Report:
    """Write the two models and n, and log the curve of reward along n (the journal's step is n)."""
    sampler = _Sampler(config, sft, reward_model)
    rows = fitting_prompts(
        prompts / "validation.parquet",
        sampler.tokenizer,
        config.max_prompt_tokens,
        config.curve_prompts,
    )
    curve = reward_curve(config, sampler.rewards(rows, context))
    for n, figures in curve.items():
        context.journal.log(n, figures)
    link_folder(sft / "model", out / "model")
    link_folder(reward_model / "model", out / "reward_model")
    (out / "best_of_n.json").write_text(json.dumps({"n": config.n}))
    metrics = {name.removeprefix("best_of_n/"): value for name, value in curve[config.n].items()}
    metrics["validation_prompts_too_long"] = float(rows.too_long)
    return Report(metrics=metrics, contract=sampler.contract)


@dataclass(kw_only=True)
class Rewards:
    """Rewards of P prompts with N samples each, (P, N). gold: None where it is not known."""

    proxy: np.ndarray
    gold: np.ndarray | None


def reward_curve(config: BestOfNConfig, rewards: Rewards) -> dict[int, dict[str, float]]:
    """For each n on the curve: KL, and the mean over prompts of proxy and gold at best-of-n."""
    curve = {}
    for n in curve_points(config):
        figures = {
            "best_of_n/kl": best_of_n_kl(n),
            "best_of_n/proxy": best_of_n_mean(rewards.proxy, rewards.proxy, n),
        }
        if rewards.gold is not None:
            figures["best_of_n/gold"] = best_of_n_mean(rewards.proxy, rewards.gold, n)
        curve[n] = figures
    return curve


def curve_points(config: BestOfNConfig) -> list[int]:
    """Powers of two up to the number of samples, that number, and the config's own n."""
    powers = {2**k for k in range(config.curve_samples.bit_length())}
    return sorted(powers | {config.curve_samples, config.n})


class _Sampler:
    """The SFT policy and the reward model, with all it takes to sample and to score."""

    def __init__(self, config: BestOfNConfig, sft: Path, reward_model: Path) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(sft / "model")
        model = load_causal_lm(sft / "model")
        self.contract = text_contract(self.tokenizer, model.config.max_position_embeddings)
        self.engine = HFEngine(
            model,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.reward_model = load_scorer(reward_model / "model")

    def rewards(self, rows: FittingPrompts, context: Context) -> Rewards:
        """Sample `curve_samples` responses to each prompt and judge them."""
        shape = (len(rows.records), self.config.curve_samples)
        owners = [row for row in range(shape[0]) for _ in range(shape[1])]
        prompts = [rows.tokens[owner] for owner in owners]
        rollouts = self._sample(prompts, owners, context)
        scores = score_responses(
            self.reward_model.scores, prompts, rollouts.tokens, self.engine.pad_token_id
        )
        gold = None
        if self.config.gold is GoldKind.world:
            gold = self._gold([rows.records[owner] for owner in owners], rollouts).reshape(shape)
        return Rewards(proxy=scores.double().cpu().numpy().reshape(shape), gold=gold)

    def _sample(
        self, prompts: Sequence[list[int]], owners: Sequence[int], context: Context
    ) -> Rollouts:
        def tell(done: int) -> None:
            context.journal.advance(done)
            if context.should_stop():
                raise InterruptedRunError("stopped while sampling: the next run samples again")

        context.journal.start(len(prompts), "responses")
        samples = [i % self.config.curve_samples for i in range(len(owners))]
        return sample_responses(
            self.engine,
            prompts,
            Sampling(
                max_new_tokens=self.config.max_response_tokens, temperature=self.config.temperature
            ),
            sampling_keys(self.config.seed, 0, owners, samples),
            sequences_per_batch=self.config.sequences_per_batch,
            tell=tell,
        )

    def _gold(self, rows: Sequence[Prompt], rollouts: Rollouts) -> np.ndarray:
        from stages.world.gold import gold_reward

        texts = [decode_response(self.tokenizer, tokens) for tokens in rollouts.tokens]
        judged = zip(rows, texts, rollouts.finished, strict=True)
        return np.array([gold_reward(row.prompt, text, done) for row, text, done in judged])
