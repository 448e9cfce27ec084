"""Best-of-n: the SFT policy, n samples a prompt, the one kept that the reward model scores highest.

    sft, reward_model, prompts -> model/, reward_model/, best_of_n.json {"n": ...}

Nothing is trained. The stage measures how the proxy reward, and gold where it is known, go with n,
on validation prompts. Without ties best-of-n is log n - (n-1)/n nats from SFT (Stiennon et al.
2020).
"""

import json
from pathlib import Path

from stages.contracts import Context, Report
from stages.lm.folders import link_folder
from stages.lm.prompts import fitting_prompts
from stages.step3_policy.best_of_n_config import BestOfNConfig
from stages.step3_policy.best_of_n_curve import best_of_n_kl, best_of_n_mean
from stages.step3_policy.best_samples import Sampler, Samples


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
    sampler = Sampler(config, sft, reward_model)
    rows = fitting_prompts(
        prompts / "validation.parquet",
        sampler.tokenizer,
        config.max_prompt_tokens,
        config.curve_prompts,
    )
    curve = reward_curve(config, sampler.samples(rows, config.curve_samples, context))
    for n, figures in curve.items():
        context.journal.log(n, figures)
    link_folder(sft / "model", out / "model")
    link_folder(reward_model / "model", out / "reward_model")
    (out / "best_of_n.json").write_text(json.dumps({"n": config.n}))
    metrics = {name.removeprefix("best_of_n/"): value for name, value in curve[config.n].items()}
    metrics["validation_prompts_too_long"] = float(rows.too_long)
    return Report(metrics=metrics, contract=sampler.contract)


def reward_curve(config: BestOfNConfig, samples: Samples) -> dict[int, dict[str, float]]:
    """For each n on the curve: KL, and the mean over prompts of proxy and gold at best-of-n."""
    curve = {}
    for n in curve_points(config):
        figures = {
            "best_of_n/kl": best_of_n_kl(n),
            "best_of_n/proxy": best_of_n_mean(samples.proxy, samples.proxy, n),
        }
        if samples.gold is not None:
            figures["best_of_n/gold"] = best_of_n_mean(samples.proxy, samples.gold, n)
        curve[n] = figures
    return curve


def curve_points(config: BestOfNConfig) -> list[int]:
    """Powers of two up to the number of samples, that number, and the config's own n."""
    powers = {2**k for k in range(config.curve_samples.bit_length())}
    return sorted(powers | {config.curve_samples, config.n})
