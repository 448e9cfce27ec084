"""A reward model as the one who ranks."""

import pytest

from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
from stages.contracts import Context, InterruptedRunError
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison, Completions
from stages.records.tables import read_table, write_table
from stages.step2_reward import ranking
from stages.step2_reward.config import RankingConfig


def record(texts, name="cat"):
    return Completions(
        prompt=[{"role": "user", "content": f"write about the {name}"}],
        completions=texts,
        source=["policy_1"] * len(texts),
        finished=[True] * len(texts),
        user="someone",
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.1, 3.0, -2.0], [2, 1, 3]), ([1.0, 1.0, 2.0, 0.5], [2, 2, 1, 3]), ([4.0, 4.0], [1, 1])],
)
def test_the_higher_score_is_the_better_rank(scores, expected):
    assert ranking.ranks_of(scores) == expected


def test_scores_go_to_their_own_completions_and_the_same_one_is_asked_about_once():
    asked = []

    def longer_is_better(prompts, texts, finished):
        asked.extend(texts)
        return [
            len(text) + 100.0 * ("dog" in p[0]["content"])
            for p, text in zip(prompts, texts, strict=True)
        ]

    rows = [record(["the cat", "the", "the cat"]), record(["red", "blue ."], "dog")]
    first, second = ranking.rank(rows, longer_is_better)
    assert asked == ["the cat", "the", "red", "blue ."]
    assert (first.ranks, second.ranks) == ([1, 2, 1], [2, 1])
    assert first.completions == rows[0].completions
    assert (first.source, first.user, first.labeler) == (
        ["policy_1"] * 3,
        "someone",
        "reward_model",
    )


@pytest.fixture
def assets(tmp_path, tiny_model_folder):
    model = new_reward_model(tiny_model_folder / "model", seed=0)
    tokenizer = load_reward_tokenizer(tiny_model_folder / "model")
    save_reward_model(model, tokenizer, tmp_path / "reward_model" / "model")
    rows = [record(["the cat", "the dog is red", "blue"]), record(["red", "red"], "dog")]
    for split in ranking.SPLITS:
        write_table(tmp_path / "completions" / f"{split}.parquet", rows)
    return {
        "completions": tmp_path / "completions",
        "reward_model": tmp_path / "reward_model",
    }


def run_stage(folder, assets, should_stop=lambda: False):
    prepare_process(1, 0)
    context = Context.at(folder)
    context.should_stop = should_stop
    return ranking.run(RankingConfig(), **assets, out=folder / "out", context=context)


def test_ranks_both_splits(tmp_path, assets):
    report = run_stage(tmp_path / "run", assets)
    train, validation = (
        read_table(tmp_path / "run" / "out" / f"{split}.parquet", Comparison)
        for split in ranking.SPLITS
    )
    assert train == validation
    assert sorted(train[0].ranks) == [1, 2, 3]
    assert train[1].ranks == [1, 1]
    assert report.metrics["train_prompts"] == 2
    assert report.metrics["train_prompts_all_tied"] == 1


def test_asked_to_stop(tmp_path, assets):
    with pytest.raises(InterruptedRunError):
        run_stage(tmp_path / "run", assets, should_stop=lambda: True)
