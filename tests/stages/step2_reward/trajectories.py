"""The reward model trained here, on ranks, and by a slow reference that shares none of the code."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward.model import load_reward_model
from stages.contracts import Context, WorkerGroup
from stages.lm.placement import TrainingPlacement
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import read_table, write_table
from stages.step2_reward import reward_model
from stages.step2_reward.config import RewardModelConfig
from tests.stages.lm.backends.trainee import KINDS
from tests.stages.worker_processes import ProcessGroup

WORDS = ["one", "two", "three", "four", "five"]
LR, BATCH, STEPS, NUM_TRAIN = 1e-3, 4, 10, 20
ONE_FORWARD, PIECES = 8192, 60  # tokens; a set of the small world has 25 to 150


def write_comparisons(world: Path, folder: Path) -> Path:
    """K from 2 to 5, ties among them, texts of 1 to 9 words."""
    prompts = read_table(world / "demonstrations" / "train.parquet", Demonstration)
    draw = Random(0)

    def comparison(number: int) -> Comparison:
        size = draw.randint(2, 5)
        texts = {" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(9)}
        ranks = [1, 2, *[draw.randint(1, size) for _ in range(size - 2)]]
        return Comparison(
            prompt=prompts[number % 20].prompt,
            completions=sorted(texts)[:size],
            source=["sft"] * size,
            finished=[True] * size,
            ranks=ranks,
        )

    for split, number in {"train": NUM_TRAIN, "validation": 7}.items():
        write_table(folder / f"{split}.parquet", [comparison(n) for n in range(number)])
    return folder


def config_of(processes: int, kind: str, **changes: Any) -> RewardModelConfig:
    backend, deepspeed = KINDS[kind]
    placement = TrainingPlacement(processes=processes, backend=backend, deepspeed=deepspeed)
    values = {
        "lr": LR,
        "batch_size": BATCH,
        "epochs": STEPS * BATCH / NUM_TRAIN,
        "max_length": 64,
        "microbatch_tokens": ONE_FORWARD,
        "log_every": 1,
        "checkpoint_every": 3,
        "validate_every": 4,
        "placement": placement,
    }
    return RewardModelConfig(**(values | changes))


@dataclass
class Trajectory:
    """The last weights, and the curves by name and step."""

    weights: dict[str, Tensor]
    curves: dict[str, dict[int, float]]


class Processes:
    """Worker groups of plain processes, made once for all tests that want as many."""

    def __init__(self) -> None:
        self._made: dict[int, ProcessGroup] = {}

    def of(self, config: RewardModelConfig) -> dict[str, WorkerGroup]:
        shapes = config.worker_groups()
        for shape in shapes:
            if shape.processes not in self._made:
                self._made[shape.processes] = ProcessGroup(shape.processes, shape.name)
        return {shape.name: self._made[shape.processes] for shape in shapes}

    def close(self) -> None:
        for group in self._made.values():
            group.close()


def train(
    config: RewardModelConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    processes: Processes | None = None,
    context: Context | None = None,
) -> Trajectory:
    """Run the stage."""
    context = context or Context.at(folder)
    if processes:
        context.workers = processes.of(config)
    reward_model.run(config, **inputs, out=folder / "out", context=context)
    return Trajectory(
        weights=dict(load_reward_model(folder / "out" / "model").named_parameters()),
        curves=curves(folder),
    )


def curves(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record["values"].items():
            if not name.startswith("time/"):
                found.setdefault(name, {})[record["step"]] = value
    return found


def distance(found: Trajectory, expected: Trajectory) -> float:
    """The largest difference of a last weight."""
    return max(
        float((found.weights[name] - weight).detach().abs().max())
        for name, weight in expected.weights.items()
    )


def reference(inputs: Mapping[str, Path]) -> Trajectory:
    """Eq. 1 as it is printed: every response alone, every pair alone, torch's AdamW."""
    from reward.model import load_reward_tokenizer, new_reward_model

    tokenizer = load_reward_tokenizer(inputs["sft"] / "model")
    network = new_reward_model(inputs["sft"] / "model", seed=0).network
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}],
        lr=LR, betas=(0.9, 0.95), eps=1e-5,
    )  # fmt: skip
    rows = read_table(inputs["comparisons"] / "train.parquet", Comparison)
    made: dict[str, dict[int, float]] = {"loss/train": {}, "grad_norm": {}, "lr": {}}
    for step in range(STEPS):
        lr = LR * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        total = torch.zeros(())
        for position in range(step * BATCH, (step + 1) * BATCH):
            epoch, place = divmod(position, len(rows))
            row = rows[np.random.default_rng([0, epoch]).permutation(len(rows))[place]]
            total = total + set_loss(network, tokenizer, row) / BATCH
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        for name, value in zip(made, (total, norm, lr), strict=True):
            made[name][step + 1] = float(torch.as_tensor(value).detach())
    weights = {f"network.{name}": p.detach() for name, p in network.named_parameters()}
    return Trajectory(weights=weights, curves=made)


def set_loss(network: Any, tokenizer: Any, row: Comparison) -> Tensor:
    """-1 / pairs * sum of log sigmoid(r_w - r_l)."""
    prompt = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True)
    prompt = prompt if isinstance(prompt, list) else prompt["input_ids"]
    scores = []
    for text in row.completions:
        response = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[*prompt, *response, tokenizer.eos_token_id]])
        hidden = network.base_model(tokens).last_hidden_state[0, -1]
        scores.append(network.score(hidden)[0])
    pairs = [
        torch.nn.functional.logsigmoid(scores[w] - scores[l])
        for w in range(len(scores))
        for l in range(len(scores))  # noqa: E741  # as in the paper
        if row.ranks[w] < row.ranks[l]
    ]
    return -torch.stack(pairs).mean()
