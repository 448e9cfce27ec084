"""Demonstrations, comparisons, prompts and text of a few words, and the stages' small settings."""

from pathlib import Path
from typing import Any

from stages.contracts import Context, Report
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison, Demonstration, Prompt, Text
from stages.records.tables import write_table

THINGS = ("cat", "dog", "ball", "box")
COLOURS = ("red", "blue")
SHORT, LONG = "the cat .", "the cat sat on the red box ."


def write_tables(folder: Path) -> Path:
    asked = [
        [{"role": "user", "content": f"write about the {c} {t}"}] for c in COLOURS for t in THINGS
    ]
    demonstrations = [
        Demonstration(prompt=p, response=SHORT if n % 2 else LONG) for n, p in enumerate(asked)
    ]
    comparisons = [
        Comparison(
            prompt=p,
            completions=[SHORT, LONG, "a dog ."],
            source=["a", "b", "c"],
            finished=[True, False, True],
            ranks=[1, 2, 3],
        )
        for p in asked
    ]
    rows = {
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "prompts": [Prompt(prompt=p) for p in asked],
        "text": [Text(text=f"{SHORT} {LONG} {n} {n} {n}") for n in range(16)],
    }
    for name, records in rows.items():
        for split in ("train", "validation"):
            write_table(folder / name / f"{split}.parquet", records)
    return folder


def run_sft(base: Path, tables: Path, folder: Path, **changes: Any) -> Report:
    from stages.step1_sft.config import SftConfig
    from stages.step1_sft.sft import run

    values = {"lr": 1e-3, "epochs": 1, "batch_size": 4, "microbatch_size": 4, "max_length": 96}
    config = SftConfig(**(values | {"residual_dropout": 0.1} | changes))
    prepare_process(1, 0)
    return run(
        config,
        base=base,
        demonstrations=tables / "demonstrations",
        out=folder / "sft",
        context=Context.at(folder / "sft_context"),
    )


def run_reward_model(sft: Path, tables: Path, folder: Path) -> Report:
    from stages.step2_reward.config import RewardModelConfig
    from stages.step2_reward.reward_model import run

    prepare_process(1, 0)
    return run(
        RewardModelConfig(lr=1e-3, batch_size=4, max_length=96),
        sft=sft,
        comparisons=tables / "comparisons",
        demonstrations=tables / "demonstrations",
        out=folder / "reward_model",
        context=Context.at(folder / "reward_model_context"),
    )


def run_ppo(sft: Path, tables: Path, folder: Path) -> Report:
    from stages.step3_policy.ppo.config import PpoConfig
    from stages.step3_policy.ppo.stage import run

    config = PpoConfig(
        iterations=2,
        rollout_batch_size=8,
        minibatch_size=4,
        max_prompt_tokens=64,
        max_response_tokens=8,
        policy_lr=1e-3,
        critic_lr=1e-3,
        warmup_iterations=0,
        ptx_ratio=1.0,
        max_document_tokens=32,
        validation_every=2,
        validation_prompts=4,
    )
    prepare_process(1, 0)
    return run(
        config,
        ppo_init=sft,
        reward_model=folder / "reward_model",
        prompts=tables / "prompts",
        text=tables / "text",
        out=folder / "ppo",
        context=Context.at(folder / "ppo_context"),
    )


def run_dpo(sft: Path, tables: Path, folder: Path) -> Report:
    from stages.step3_policy.config import DpoConfig
    from stages.step3_policy.dpo import run

    prepare_process(1, 0)
    return run(
        DpoConfig(lr=1e-3, batch_size=4, microbatch_size=4, warmup_steps=0, max_length=96),
        sft=sft,
        comparisons=tables / "comparisons",
        out=folder / "dpo",
        context=Context.at(folder / "dpo_context"),
    )
