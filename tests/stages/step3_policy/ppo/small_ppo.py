"""A small world for PPO: eight prompts, eight documents, settings at which the tiny Llama moves."""

from pathlib import Path
from typing import Any

from stages.records.schemas import Prompt, Text
from stages.records.tables import write_table
from stages.step3_policy.ppo.config import PpoConfig

NOUNS = ("cat", "dog", "ball", "box")
COLOURS = ("red", "blue")


def small_config(**changes: Any) -> PpoConfig:
    """Eight prompts an iteration in two minibatches, a checkpoint after each iteration."""
    values = {
        "iterations": 3,
        "rollout_batch_size": 8,
        "minibatch_size": 4,
        "max_prompt_tokens": 16,
        "max_response_tokens": 8,
        "policy_lr": 3e-3,
        "critic_lr": 3e-3,
        "warmup_iterations": 0,
        "ptx_ratio": 2.0,
        "max_document_tokens": 32,
        "validation_every": 2,
        "validation_prompts": 4,
        "checkpoint_every": 1,
    }
    return PpoConfig(**(values | changes))


def write_inputs(start: Path, folder: Path) -> dict[str, Path]:
    """The stage's upstream assets by keyword; `start` holds the tiny policy in `model/`."""
    from reward.model import new_reward_model, save_reward_model
    from stages.lm.loading import load_tokenizer

    tokenizer = load_tokenizer(start / "model")
    for seed, name in enumerate(("reward_model", "judge"), start=1):
        model = new_reward_model(start / "model", seed=seed)
        model.network.config.reward_bias = 0.25
        save_reward_model(model, tokenizer, folder / name / "model")
    asked = [f"write about the {c} {n}" for n in NOUNS for c in COLOURS]
    prompts = [Prompt(prompt=[{"role": "user", "content": text}]) for text in asked]
    documents = [Text(text=f"the {n} is {c} .") for n in NOUNS for c in COLOURS]
    for split in ("train", "validation"):
        write_table(folder / "prompts" / f"{split}.parquet", prompts)
        write_table(folder / "text" / f"{split}.parquet", documents)
    others = {name: folder / name for name in ("reward_model", "prompts", "text")}
    return {"ppo_init": start, **others}


def judged(inputs: dict[str, Path]) -> dict[str, Path]:
    """The same with the judge: the other reward model that `write_inputs` wrote."""
    return inputs | {"judge": inputs["reward_model"].parent / "judge"}


def folders_of(inputs: dict[str, Path]) -> Any:
    """The models among the upstream assets."""
    from stages.step3_policy.ppo.loading import Folders

    judge, base = inputs.get("judge"), inputs.get("base")
    return Folders(
        start=inputs["ppo_init"] / "model",
        reward_model=inputs["reward_model"] / "model",
        judge=judge and judge / "model",
        base=base and base / "model",
    )
