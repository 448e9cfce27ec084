"""The curves a report shows, stage by stage; docs/metrics.md defines every metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.reporting.panels import Panel
from pipeline.workflow import MEMBER, ROUND

ITERATION = "PPO iteration"

PPO = (
    Panel(
        "Proxy reward",
        "reward-model score",
        {"rollout/score_mean": "sampled for training", "validation/proxy": "held-out prompts"},
        "What the policy is trained on. It should rise and flatten out.",
        ITERATION,
    ),
    Panel(
        "Gold reward",
        "gold, 0 to 1",
        {"rollout/gold_mean": "sampled for training", "validation/gold": "held-out prompts"},
        "The known true quality, never trained on. It should rise with the proxy; where it falls "
        "while the proxy rises, the policy exploits the reward model.",
        ITERATION,
    ),
    Panel(
        "KL to the reference",
        "nats per response",
        {"rollout/kl": "sampled for training", "validation/kl": "held-out prompts"},
        "How far the policy has moved from its start.",
        ITERATION,
    ),
    Panel(
        "Entropy",
        "nats per token",
        {"rollout/entropy": "policy"},
        "Falls as the policy commits itself; near zero it no longer explores.",
        ITERATION,
    ),
    Panel(
        "Response length",
        "tokens",
        {"rollout/response_tokens": "mean"},
        "A steady climb to the limit is a sign that length pays, not quality.",
        ITERATION,
    ),
    Panel(
        "Finished responses",
        "share ending in EOS",
        {"rollout/eos_rate": "policy"},
        "Should stay near one; a response without an end is cut and scored low.",
        ITERATION,
        (0.0, 1.03),
    ),
    Panel(
        "Policy loss",
        "clipped surrogate",
        {"loss/policy": "policy"},
        "Small and noisy around zero: its level says nothing, a drift does.",
        ITERATION,
    ),
    Panel(
        "Value loss",
        "squared error",
        {"loss/value": "critic"},
        "Falls first while the critic learns what to expect.",
        ITERATION,
    ),
    Panel(
        "Pretraining loss",
        "nats per token",
        {"loss/ptx": "on pretraining text"},
        "Held down by the pretraining gradients; without them it climbs: the alignment tax.",
        ITERATION,
    ),
    Panel(
        "Clipped tokens",
        "share",
        {"policy/clip_fraction": "policy"},
        "Tokens whose ratio left the clip range: near zero steps are small, above 0.3 too large.",
        ITERATION,
        (0.0, None),
    ),
    Panel(
        "Disagreement of the reward models",
        "reward-model score",
        {"reward/disagreement": "standard deviation over the ensemble"},
        "A climb says that the policy has left what the ensemble's members agree on.",
        ITERATION,
    ),
    Panel(
        "Explained variance",
        "share of the returns' variance",
        {"critic/explained_variance": "critic"},
        "One is a perfect critic, zero no better than a constant.",
        ITERATION,
    ),
    Panel(
        "Gradient norms",
        "L2 norm",
        {"grad_norm/policy": "PPO", "grad_norm/ptx": "pretraining, with its coefficient"},
        "Neither should drown the other for long.",
        ITERATION,
    ),
)

DPO = (
    Panel(
        "Preference loss",
        "nats per pair",
        {"loss/train": "training", "loss/validation": "held-out comparisons"},
        "DPO's starts at log 2 = 0.693, where the policy is still its reference.",
        "optimizer step",
    ),
    Panel(
        "Accuracy",
        "share of pairs",
        {"dpo/accuracy": "training", "dpo/accuracy_validation": "held-out comparisons"},
        "Pairs whose preferred response gained more log-probability than the other.",
        "optimizer step",
    ),
    Panel(
        "Log-ratios",
        "nats per response",
        {"dpo/chosen_logratio": "preferred", "dpo/rejected_logratio": "rejected"},
        "Both may fall; what is trained is the distance between them.",
        "optimizer step",
    ),
    Panel(
        "Log-probabilities",
        "nats per token",
        {"dpo/chosen_logprob": "preferred", "dpo/rejected_logprob": "rejected"},
        "Of losses without a reference, SimPO and ORPO.",
        "optimizer step",
    ),
    Panel(
        "KTO's reference point",
        "nats per response",
        {"kto/reference_point": "training"},
        "How far responses to other prompts have moved: what gains and losses are measured from.",
        "optimizer step",
    ),
)

BEST_OF_N = (
    Panel(
        "Proxy reward",
        "reward-model score",
        {"best_of_n/proxy": "best of n"},
        "Of the response that the reward model picks; it cannot fall.",
        "n",
        logarithmic=True,
    ),
    Panel(
        "Gold reward",
        "gold, 0 to 1",
        {"best_of_n/gold": "best of n"},
        "Falls for a large n where the reward model's favourites are its mistakes.",
        "n",
        logarithmic=True,
    ),
)

REWARD_MODEL = (
    Panel(
        "Ranking loss",
        "nats per pair",
        {"loss/train": "training", "loss/validation": "held-out comparisons"},
        "Guessing gives log 2 = 0.693.",
        "optimizer step",
    ),
    Panel(
        "Accuracy",
        "share of pairs",
        {"accuracy/train": "training", "accuracy/validation": "held-out comparisons"},
        "Labelers contradict one another, so it cannot reach one.",
        "optimizer step",
    ),
)


def panels_of_member(asset: str) -> list[Panel]:
    """Those of one reward model of an ensemble."""
    number = asset.removeprefix(MEMBER)
    return [replace(panel, title=f"{panel.title}, member {number}") for panel in REWARD_MODEL]


def panels_of_round(asset: str) -> list[Panel]:
    """Those of an earlier round of online DPO; the last is the policy itself."""
    number = asset.removeprefix(ROUND)
    return [replace(panel, title=f"{panel.title}, round {number}") for panel in DPO]


def _language_model(title: str, caption: str) -> Panel:
    series = {
        "loss/train": "training",
        "loss/validation": "held-out",
        "loss/validation_text": "held-out pretraining text",
    }
    return Panel(title, "nats per token", series, caption, "optimizer step")


BASE = _language_model("Pretraining (base)", "Cross-entropy of the pretraining text.")
SFT = _language_model(
    "Supervised fine-tuning (sft)",
    "Cross-entropy of the demonstrated responses; the epoch of the lowest held-out loss is kept.",
)
SFT_SELECTED = Panel(
    "Choice of the epoch (sft_selected)",
    "reward-model score",
    {"sft_selected/reward": "mean over validation prompts"},
    "The reward model's favourite is what DPO, best-of-n and evaluation take as SFT.",
    "epoch",
)
PPO_INIT = _language_model(
    "Start of the policy (ppo_init)",
    "As sft, with pretraining text mixed in: PPO starts here and measures its KL from here.",
)

# In the order of the page: heading, and the panels of each asset.
SECTIONS: tuple[tuple[str, Mapping[str, Sequence[Panel]]], ...] = (
    ("Policy", {"policy": (*PPO, *DPO, *BEST_OF_N)}),
    ("Reward model", {"reward_model": REWARD_MODEL}),
    (
        "Language models",
        {"base": [BASE], "sft": [SFT], "sft_selected": [SFT_SELECTED], "ppo_init": [PPO_INIT]},
    ),
)
