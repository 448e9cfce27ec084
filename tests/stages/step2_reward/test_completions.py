"""K responses a prompt: how many, from whom, and that batching is a matter of speed alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stages.contracts import Context, InterruptedRunError, Journal, UserError
from stages.records.schemas import Completions, Prompt
from stages.records.tables import read_table
from stages.step2_reward.completions import draw_sizes, run
from stages.step2_reward.config import CompletionsConfig


def config(**changes) -> CompletionsConfig:
    return CompletionsConfig(**{"max_response_tokens": 6, **changes})


def sample(world: Path, out: Path, **changes) -> dict[str, list[Completions]]:
    run(
        config(**changes),
        sft=world / "sft",
        prompts=world / "prompts",
        out=out,
        context=Context.at(out / "work"),
    )
    return {
        split: read_table(out / f"{split}.parquet", Completions)
        for split in ("train", "validation")
    }


def test_every_prompt_gets_k_responses(world: Path, tmp_path: Path) -> None:
    """Mutation: responses handed to the neighbour's prompt change the order of prompts."""
    sampled = sample(world, tmp_path, train_prompts=10)
    prompts = read_table(world / "prompts" / "train.parquet", Prompt)[:10]
    assert [record.prompt for record in sampled["train"]] == [p.prompt for p in prompts]
    assert [record.user for record in sampled["train"]] == [p.user for p in prompts]
    sizes = draw_sizes(config(), "train", 10).tolist()
    assert [len(record.completions) for record in sampled["train"]] == sizes


def test_a_round_takes_the_prompts_after_those_of_the_one_before(
    world: Path, tmp_path: Path
) -> None:
    """From the ninth of twelve on, and round to the first."""
    prompts = read_table(world / "prompts" / "train.parquet", Prompt)
    wanted = {"train_prompts": 6, "first_prompt": 9, "source": "policy_1"}
    sampled = sample(world, tmp_path, **wanted)["train"]
    expected = [prompts[row].prompt for row in (9, 10, 11, 0, 1, 2)]
    assert [record.prompt for record in sampled] == expected
    assert {source for record in sampled for source in record.source} == {"policy_1"}


def test_the_figures_of_a_run(world: Path, tmp_path: Path) -> None:
    report = run(
        config(),
        sft=world / "sft",
        prompts=world / "prompts",
        out=tmp_path,
        context=Context.at(tmp_path / "work"),
    )
    records = read_table(tmp_path / "train.parquet", Completions)
    finished = [ended for record in records for ended in record.finished]
    assert report.metrics["train_prompts"] == 12
    assert report.metrics["train_completions"] == len(finished)
    assert report.metrics["train_eos_rate"] == pytest.approx(np.mean(finished))
    assert report.contract["eos_token_id"] == 2


def test_k_is_uniform_between_its_bounds() -> None:
    """Mutation: `integers(k_min, k_max)` never draws k_max."""
    counts = Counter(draw_sizes(config(), "train", 6000).tolist())
    assert set(counts) == {4, 5, 6, 7, 8, 9}
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_splits_and_seeds_have_noise_of_their_own() -> None:
    drawn = [
        draw_sizes(config(seed=seed), split, 50).tolist()
        for seed, split in ((0, "train"), (0, "validation"), (1, "train"), (0, "train"))
    ]
    assert drawn[0] == drawn[3]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]


def test_batching_changes_nothing(world: Path, tmp_path: Path) -> None:
    """Mutation: noise keyed by the place in the batch."""
    one = sample(world, tmp_path / "one", sequences_per_batch=3)
    other = sample(world, tmp_path / "other", sequences_per_batch=500)
    assert one == other


def test_a_stopped_stage_leaves_no_table(world: Path, tmp_path: Path) -> None:
    context = Context(
        checkpoints=tmp_path, journal=Journal(tmp_path / "j"), should_stop=lambda: True
    )
    with pytest.raises(InterruptedRunError):
        run(
            config(),
            sft=world / "sft",
            prompts=world / "prompts",
            out=tmp_path,
            context=context,
        )
    assert not (tmp_path / "train.parquet").exists()


@pytest.mark.parametrize(
    "wrong", [{"k_min": 1}, {"k_min": 5, "k_max": 4}, {"temperature": 0.0}, {"train_prompts": 0}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        config(**wrong)
