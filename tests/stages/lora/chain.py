"""A chain of LoRA stages over the small world: base, SFT, reward model; and its inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.contracts import Context, Report
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import read_table, write_table
from stages.step1_sft.config import SftConfig
from stages.step2_reward.config import RewardModelConfig
from stages.step3_policy.ppo.config import PpoConfig
from tests.stages.step3_policy.ppo.small_ppo import small_config

LORA = PeftConfig(kind=PeftKind.lora, rank=4, alpha=8.0)
ShouldStop = Callable[[], bool]


def never() -> bool:
    return False


def context_at(folder: Path, should_stop: ShouldStop = never) -> Context:
    context = Context.at(folder)
    context.should_stop = should_stop
    return context


def sft_config(**changes: Any) -> SftConfig:
    """20 demonstrations in batches of 4: epochs end after steps 5 and 10."""
    values = {
        "lr": 2e-2,
        "epochs": 2,
        "batch_size": 4,
        "microbatch_size": 2,
        "residual_dropout": 0.1,
        "checkpoint_every": 4,
        "log_every": 1,
        "peft": LORA,
    }
    return SftConfig(**(values | changes))


def run_sft(world: Path, folder: Path, should_stop: ShouldStop = never, **changes: Any) -> Report:
    from stages.step1_sft import sft

    config = sft_config(**changes)
    prepare_process(config.threads, config.seed)
    return sft.run(
        config,
        base=world / "base",
        demonstrations=world / "demonstrations",
        out=folder / "out",
        context=context_at(folder, should_stop),
    )


def run_reward_model(
    world: Path, sft: Path, folder: Path, should_stop: ShouldStop = never, **changes: Any
) -> Report:
    from stages.step2_reward import reward_model

    values = {
        "lr": 1e-2,
        "batch_size": 8,
        "epochs": 6.0,
        "max_length": 64,
        "checkpoint_every": 4,
        "peft": PeftKind.lora,
    }
    return reward_model.run(
        RewardModelConfig(**(values | changes)),
        sft=sft,
        comparisons=world / "comparisons",
        demonstrations=world / "demonstrations",
        out=folder / "out",
        context=context_at(folder, should_stop),
        base=world / "base",
    )


def write_comparisons(world: Path) -> None:
    """Completions that count to 1 up to 4, in a shuffled order; the longer count is better."""
    demonstrations = read_table(world / "demonstrations" / "train.parquet", Demonstration)
    words = ["one", "two", "three", "four"]

    def comparison(number: int) -> Comparison:
        size = 2 + number % 3
        order = [(number + k) % size for k in range(size)]
        return Comparison(
            prompt=demonstrations[number % 20].prompt,
            completions=[" ".join(words[: k + 1]) for k in order],
            source=["sft"] * size,
            finished=[True] * size,
            ranks=[size - k for k in order],
        )

    for split, numbers in {"train": range(40), "validation": range(40, 55)}.items():
        rows = [comparison(number) for number in numbers]
        write_table(world / "comparisons" / f"{split}.parquet", rows)


def ppo_inputs(world: Path, sft: Path, reward_model: Path) -> dict[str, Path]:
    """The upstream assets of PPO by keyword."""
    read = {name: world / name for name in ("prompts", "text", "base")}
    return {"ppo_init": sft, "reward_model": reward_model, **read}


def ppo_config(**changes: Any) -> PpoConfig:
    """As the small PPO, for the prompts of the small world."""
    values = {"max_prompt_tokens": 40, "peft": PeftKind.lora, "ptx_ratio": 1.0}
    return small_config(**(values | changes))
