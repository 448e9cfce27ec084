"""Settings of PPO's rollouts: which engine, and what keeps it honest. No torch here."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stages.contracts import UserError, check_positive, check_truncation, no_effect

VLLM_TARGET = "make vllm"


class EngineKind(StrEnum):
    """The trainer's own module through Transformers, or vLLM in a process of its own."""

    hf = "hf"
    vllm = "vllm"


class EngineDtype(StrEnum):
    """What vLLM computes in; the trainer's own engine computes in what the policy does."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Correction(StrEnum):
    """What is done about tokens sampled by something else than the trainer's policy."""

    none = "none"
    truncate = "truncate"
    mask = "mask"


@dataclass(kw_only=True)
class RolloutConfig:
    """How PPO gets its responses. Evaluation, completions and best-of-n always use `hf`."""

    kind: EngineKind = EngineKind.hf

    # Training wants plain sampling: `sampling_cautions` says why.
    top_k: int = 0
    top_p: float = 1.0

    # 1: responses are sampled while the update before theirs runs, with the weights before it.
    async_steps: int = 0

    # Engine against trainer; formulas and sources in ppo/mismatch.py
    max_logprob_diff: float = 0.05  # nats a token, mean; the run stops above
    probe_sequences: int = 8  # sampled anew to compare, where async_steps=1
    correction: Correction = Correction.none
    truncate_above: float = 2.0
    mask_below: float = 0.5
    mask_above: float = 5.0

    # vLLM's process
    python: str = no_effect(".venv-vllm/bin/python")  # of the environment it is in
    dtype: EngineDtype = EngineDtype.bfloat16
    threads: int = 1  # on a CPU
    cache_gib: float = no_effect(1.0)  # for keys and values
    start_s: float = no_effect(600.0)  # deadlines
    load_s: float = no_effect(600.0)
    generate_s: float = no_effect(1800.0)
    restarts: int = no_effect(2)  # of an engine that died, a call

    def __post_init__(self) -> None:
        check_positive(self, *POSITIVE)
        if self.restarts < 0:
            raise UserError("restarts must not be negative", got=str(self.restarts), do="0: none")
        check_truncation(self.top_k, self.top_p)
        if self.async_steps not in (0, 1):
            raise UserError(
                "async_steps must be 0 or 1",
                got=str(self.async_steps),
                do="0: sample, then update; 1: sample the next responses during the update",
            )
        if self.async_steps and self.correction is Correction.none:
            raise UserError(
                "async_steps=1 needs a correction: responses are one update older than the policy",
                got=f"correction={self.correction.value}",
                do="set rollout.correction=truncate, or mask",
            )
        if not self.mask_below < 1 < self.mask_above:
            raise UserError(
                "mask_below must be less than 1 and mask_above more: equal log-probs have weight 1",
                got=f"{self.mask_below} and {self.mask_above}",
                do="the published values are 0.5 and 5",
            )


POSITIVE = (
    "max_logprob_diff",
    "probe_sequences",
    "truncate_above",
    "mask_below",
    "threads",
    "cache_gib",
    "start_s",
    "load_s",
    "generate_s",
)


def sampling_cautions(config: RolloutConfig) -> list[str]:
    """Why truncated sampling is a bad idea in training; nothing for plain sampling."""
    if config.top_k == 0 and config.top_p == 1.0:
        return []
    return [
        f"rollout.top_k={config.top_k}, rollout.top_p={config.top_p}: responses are not the "
        "policy's own. The ratio and the KL use the log-probs of the whole distribution, which is "
        "not the one that was sampled, so both are biased, and the KL may even turn negative. Use "
        "top_k=0 and top_p=1 unless you mean it."
    ]


def check_engine(config: RolloutConfig) -> None:
    """A UserError unless the engine's environment is there."""
    if config.kind is EngineKind.vllm and not Path(config.python).is_file():
        raise UserError(
            "rollout=vllm needs an environment of its own, which is not there",
            got=f"rollout.python={config.python}",
            do=f"build it with `{VLLM_TARGET}`, or point rollout.python at one that has vLLM",
        )
