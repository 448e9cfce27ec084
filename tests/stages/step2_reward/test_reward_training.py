"""The reward-model stage learns an order it can see, resumes bit by bit, and sets its zero."""

import json
from itertools import count
from pathlib import Path

import pytest
import torch

from reward.encoding import SEPARATE
from reward.model import (
    RewardModel,
    load_reward_model,
    load_reward_tokenizer,
    new_reward_model,
)
from reward.normalization import normalise
from reward.ranked_prompts import (
    RankedPrompt,
    group_prompts,
    read_ranked_prompts,
    score_ranked,
)
from reward.ranking import ragged_scores
from stages.contracts import Context, InterruptedRunError, Journal, UserError
from stages.lm.batching import collate
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Demonstration
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import (
    Denominator,
    Loss,
    RewardModelConfig,
    Start,
)
from stages.step2_reward.learning import LearnRankings, num_right
from stages.step2_reward.reward_model import run
from tests.oracles.ranking import ranking_loss
from tests.stages.step2_reward.ranked_world import FAST, comparison, train


@pytest.mark.parametrize("loss", Loss)
def test_it_learns_what_labelers_prefer(
    world: Path, comparisons: Path, tmp_path: Path, loss: Loss
) -> None:
    """Mutation: a flipped sign in the loss learns the opposite order, accuracy near 0."""
    report = train(world, comparisons, tmp_path / "out", loss=loss)
    assert report.metrics["validation_accuracy_labels"] > 0.9
    assert report.metrics["validation_accuracy_gold"] > 0.9
    assert report.metrics["train_prompts_all_tied"] == 1
    assert report.metrics["train_prompts_too_long"] == 0
    bins = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert set(bins[0]) == {"low", "high", "predicted", "observed", "count"}


def test_demonstrations_score_zero_on_average(
    world: Path, comparisons: Path, tmp_path: Path
) -> None:
    """Worked out here from the saved folder. Mutation: normalising on completions."""
    report = train(world, comparisons, tmp_path / "out", epochs=1.0)
    model = load_reward_model(tmp_path / "out" / "model")
    tokenizer = load_reward_tokenizer(tmp_path / "out" / "model")
    rows = read_table(world / "demonstrations" / "train.parquet", Demonstration)
    batch = collate(
        [encode_prompt(tokenizer, row.prompt) for row in rows],
        [encode_response(tokenizer, row.response, finished=True) for row in rows],
        tokenizer.pad_token_id,
    )
    assert model.scores(batch).mean().item() == pytest.approx(0, abs=1e-5)
    assert report.contract["reward_bias"] == model.reward_bias


def test_unit_variance(world: Path, comparisons: Path, tmp_path: Path) -> None:
    """The figure, and the scale of what Transformers alone reads from the folder."""
    report = train(world, comparisons, tmp_path / "out", epochs=1.0, unit_variance=True)
    assert report.metrics["completion_score_std"] == pytest.approx(1, abs=1e-4)
    examined = json.loads((tmp_path / "out" / "examination.json").read_text())
    by_name = {source["name"]: source for source in examined["scores"]}
    assert by_name["sft"]["std"] == pytest.approx(1, abs=1e-4)
    assert by_name["demonstrations"]["mean"] == pytest.approx(0, abs=1e-5)


def test_unit_variance_needs_scores_that_differ(world: Path) -> None:
    model = new_reward_model(world / "sft" / "model", seed=0)
    with pytest.raises(UserError, match="unit_variance"):
        normalise(model, torch.zeros(2), torch.ones(3))


def test_a_stopped_training_continues_bit_by_bit(
    world: Path, comparisons: Path, tmp_path: Path
) -> None:
    """Stopped after steps 3 and 9 of 30. Mutation: a data order that restarts at 0 on resume."""
    train(world, comparisons, tmp_path / "whole")
    checkpoints, journal = tmp_path / "checkpoints", Journal(tmp_path / "journal")
    out = tmp_path / "parts"
    for steps in (3, 6):
        ticks = count(1)
        stopping = Context(
            checkpoints=checkpoints,
            journal=journal,
            should_stop=lambda ticks=ticks, steps=steps: next(ticks) == steps,
        )
        with pytest.raises(InterruptedRunError):
            train(world, comparisons, out, stopping)
    train(world, comparisons, out, Context(checkpoints=checkpoints, journal=journal))
    assert model_hash(out / "model") == model_hash(tmp_path / "whole" / "model")
    assert load_reward_model(out / "model").reward_bias == (
        load_reward_model(tmp_path / "whole" / "model").reward_bias
    )


def objective(world: Path, comparisons: Path, **changes) -> LearnRankings:
    tokenizer = load_reward_tokenizer(world / "sft" / "model")
    prompts, _ = read_ranked_prompts(comparisons / "train.parquet", tokenizer, 64)
    return LearnRankings(
        config=RewardModelConfig(**{**FAST, **changes}),
        train=[prompt for prompt in prompts if prompt.num_pairs],
        pad_token_id=int(tokenizer.pad_token_id),
    )


def new_model(world: Path) -> RewardModel:
    return new_reward_model(world / "sft" / "model", seed=0)


def step_gradient(made: LearnRankings, model: RewardModel) -> tuple[float, torch.Tensor, int]:
    """Loss of step 0, its gradient at the head, and the number of micro-batches."""
    total, pieces = 0.0, made.pieces(0)
    for piece in pieces:
        loss, _ = made.loss(model, piece)
        loss.backward()
        total += loss.item()
    return total, model.network.score.weight.grad, len(pieces)


def test_micro_batches_change_nothing(world: Path, comparisons: Path) -> None:
    """Mutation: each micro-batch's own mean, instead of its share of the step's mean."""
    whole, gradient, parts = step_gradient(objective(world, comparisons), new_model(world))
    split, split_gradient, split_parts = step_gradient(
        objective(world, comparisons, microbatch_tokens=70), new_model(world)
    )
    assert (parts, split_parts > 3) == (1, True)
    assert split == pytest.approx(whole, abs=1e-6)
    torch.testing.assert_close(split_gradient, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("denominator", list(Denominator))
def test_a_step_is_the_mean_over_its_prompts(
    world: Path, tmp_path: Path, denominator: Denominator
) -> None:
    """One step over all prompts against the slow reference on the model's own scores."""
    rows = [comparison(world, n, ranks=[1, 1, 2]) for n in range(1, 20, 3)]
    rows += [comparison(world, n) for n in range(0, 21, 3)]
    write_table(tmp_path / "train.parquet", rows)
    made = objective(world, tmp_path, batch_size=len(rows), denominator=denominator)
    model = new_model(world)
    loss, _, _ = step_gradient(made, model)
    flat = iter(score_ranked(model.raw_scores, made.train, made.pad_token_id).tolist())
    expected = [
        ranking_loss(
            [next(flat) for _ in prompt.responses],
            prompt.ranks,
            count_ties=denominator is Denominator.all,
        )[0]
        for prompt in made.train
    ]
    assert loss == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_dropout_stays_off(world: Path) -> None:
    """After validation too. Mutation: a wrapper left in train mode turns its network to train."""
    model = new_model(world)
    model.train(model.training)
    assert not any(module.training for module in model.modules())


def test_num_right_counts_a_tie_as_half(world: Path) -> None:
    assert num_right(ragged_scores(torch.tensor([2.0, 1.0, 1.0]), [[1, 2, 3]])) == 2.5


def prompt_of(width: int, size: int) -> RankedPrompt:
    return RankedPrompt(
        prompt=[1], responses=[[5] * (width - 1)] * size, ranks=[*range(size)], gold=None
    )


def test_groups_hold_whole_prompts_within_the_budget() -> None:
    """Mutation: counting prompts instead of their sequences overruns the budget."""
    prompts = [prompt_of(width, size) for width, size in ((4, 3), (2, 2), (9, 4), (4, 2), (3, 5))]
    groups = group_prompts(prompts, 20, SEPARATE.tokens)
    assert sorted(index for group in groups for index in group) == [0, 1, 2, 3, 4]
    for group in groups:
        sequences = sum(len(prompts[index].responses) for index in group)
        tokens = sequences * max(prompts[index].width for index in group)
        assert tokens <= 20 or len(group) == 1
    assert groups[-1] == [2]


def test_it_starts_from_the_base_where_that_is_asked_for(
    world: Path, comparisons: Path, tmp_path: Path
) -> None:
    """At a rate of almost nothing the decoder stays as it was. Mutation: SFT's decoder."""
    report = run(
        RewardModelConfig(**{**FAST, "start": Start.base, "lr": 1e-12, "epochs": 0.2}),
        base=world / "base",
        comparisons=comparisons,
        demonstrations=world / "demonstrations",
        out=tmp_path / "out",
        context=Context.at(tmp_path / "work"),
    )
    batch = collate([[3, 4, 5, 6]], [[7, 8, 2]], 0)
    ours = load_reward_model(tmp_path / "out" / "model").network.base_model
    of_base, of_sft = (
        load_causal_lm(world / name / "model").base_model(batch.input_ids).last_hidden_state
        for name in ("base", "sft")
    )
    found = ours(batch.input_ids).last_hidden_state
    assert torch.allclose(found, of_base, atol=1e-5)
    assert not torch.allclose(found, of_sft, atol=1e-2)
    assert report.contract["max_length"] == 64
