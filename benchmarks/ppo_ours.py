"""Our side of the PPO benchmark: the loop of the policy stage, with random weights and no files."""

import copy
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ppo_workload import (
    EOS,
    FIRST_WORD,
    PAD,
    Channel,
    Workload,
    counted,
    matrix_rate,
    prepare,
    synchronise,
)
from torch import Tensor

from reward.model import Critic, RewardModel
from stages.contracts import Context
from stages.lm.attention import attention
from stages.lm.engines import hf as hf_module
from stages.lm.engines.hf import HFEngine
from stages.lm.precision import Precision, compute_in
from stages.lm.process import prepare_process
from stages.lm.rollout import Rollouts, Sampling, choose_tokens
from stages.step3_policy.ppo import loop as loop_module
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.metrics import Stopwatch
from stages.step3_policy.ppo.roles import CriticRole, PolicyRole, ReferenceRole, RewardRole, Roles


class ForcedEngine(HFEngine):
    """The engine, with responses that end at drawn lengths: random weights know no end."""

    def __init__(self, engine: HFEngine, workload: Workload) -> None:
        super().__init__(
            engine.model, eos_token_id=engine.eos_token_id, pad_token_id=engine.pad_token_id
        )
        self.workload = workload
        self.iteration, self.position = 0, 0
        hf_module.choose_tokens = self._choose

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        assert len(prompts) == self.workload.batch
        self.lengths = self.workload.lengths(self.iteration)
        self.iteration, self.position = self.iteration + 1, 0
        return super().generate(prompts, sampling, keys)

    def _choose(self, logprobs: Tensor, sampling: Sampling, noise: np.ndarray) -> Tensor:
        """As the engine chooses, but for EOS; `logprobs` has a row a response still written."""
        self.position += 1
        chosen = choose_tokens(logprobs, sampling, noise)
        alive = self.lengths[self.lengths >= self.position]
        ends = torch.from_numpy(alive == self.position).to(chosen.device)
        return torch.where(ends, EOS, chosen.masked_fill(chosen == EOS, FIRST_WORD))


class OurSide:
    """Answers the benchmark's requests with iterations of PpoLoop."""

    def __init__(self, workload: Workload) -> None:
        prepare_process(workload.threads, seed=0)
        loop_module.Stopwatch = stopwatch(workload)
        torch.set_default_device(workload.device)
        self.workload, self.iteration = workload, 0
        self.loop = make_loop(workload)

    def answer(self, request: str) -> dict[str, float]:
        if request == "rate":
            return {"flop_per_s": matrix_rate(self.workload)}
        if request == "count":
            return self.count()
        started = self.workload.now()
        figures = self.iterate()
        synchronise(self.workload.device)
        phases = {name: figures[f"time/{name}_s"] for name in ("rollout", "scoring", "policy")}
        phases["critic"] = figures["time/critic_s"]
        return {"s": self.workload.now() - started, **phases}

    def iterate(self) -> dict[str, float]:
        figures = self.loop.iterate(self.iteration, kl_coef=0.05)
        self.iteration += 1
        return figures

    def count(self) -> dict[str, float]:
        """FLOPs of the matrix products of each phase."""
        flops: dict[str, float] = {}

        loop_module.Stopwatch = stopwatch(self.workload, flops)
        self.iterate()
        loop_module.Stopwatch = stopwatch(self.workload)
        return flops


def stopwatch(workload: Workload, flops: dict[str, float] | None = None) -> type[Stopwatch]:
    """The loop's own, on the workload's clock; it counts products into `flops`, if given."""

    class Watch(Stopwatch):
        @contextmanager
        def phase(self, name: str) -> Any:
            started = workload.now()
            with nullcontext() if flops is None else counted(flops, name):
                yield
            self.seconds[name] = self.seconds.get(name, 0.0) + workload.now() - started

    return Watch


def make_loop(workload: Workload) -> PpoLoop:
    """Four random models of one size in the roles, and random prompts."""
    config = ppo_config(workload)
    count = workload.batch * 4
    prompts = PromptSet(messages=[[]] * count, tokens=workload.prompts(count))
    return PpoLoop(
        roles=make_roles(workload, config),
        data=PpoData(
            tokenizer=None, train=prompts, validation=prompts, documents=[], config=config
        ),
        config=config,
        context=Context.at(Path(tempfile.mkdtemp(prefix="ppo_benchmark_"))),
    )


def ppo_config(workload: Workload) -> PpoConfig:
    """The peer's algorithm: no pretraining gradients, all epochs on each batch."""
    return PpoConfig(
        threads=workload.threads,
        rollout_batch_size=workload.batch,
        minibatch_size=workload.batch // workload.minibatches,
        ppo_epochs=workload.epochs,
        microbatch_tokens=workload.microbatch * (workload.prompt + workload.response),
        sequences_per_batch=workload.batch,
        max_prompt_tokens=workload.prompt,
        max_response_tokens=workload.response,
        ptx_coef=0.0,
        precision=Precision.bf16 if workload.dtype == "bfloat16" else Precision.fp32,
        policy_lr=1e-6,
        critic_lr=1e-6,
    )


def make_roles(workload: Workload, config: PpoConfig) -> Roles:
    """As the policy stage makes them, from random weights."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    shape = workload.model_config(attn_implementation=attention(), num_labels=1, reward_bias=0.0)
    policy = LlamaForCausalLM(shape).eval().to(workload.device)
    judge = LlamaForSequenceClassification(shape).to(workload.device)
    head = torch.nn.Linear(workload.hidden, 1).to(workload.device)
    for decoder in (policy.model, judge.model):
        compute_in(decoder, config.precision)
    ends = workload.eos_after > 0
    engine = HFEngine(policy, eos_token_id=EOS if ends else -1, pad_token_id=PAD)
    return Roles(
        policy=PolicyRole(policy, config, PAD),
        ref_policy=ReferenceRole(copy.deepcopy(policy), config),
        critic=CriticRole(Critic(copy.deepcopy(judge.base_model), head), config),
        reward_model=RewardRole(RewardModel(judge), config),
        engine=ForcedEngine(engine, workload) if ends else engine,
    )


def main() -> None:
    """Answer until there is nothing left to do."""
    channel = Channel()
    side = OurSide(prepare())
    while (request := channel.next()) is not None:
        channel.reply(side.answer(request))


if __name__ == "__main__":
    main()
