"""Rejection sampling's data: which sample wins, what a demonstration may be, what is told."""

import numpy as np
import pytest

from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
from stages.contracts import Context, GoldKind, InterruptedRunError, UserError
from stages.lm.process import prepare_process
from stages.lm.prompts import FittingPrompts
from stages.records.schemas import Demonstration, Prompt
from stages.records.tables import read_table, write_table
from stages.step3_policy import winners as stage
from stages.step3_policy.best_of_n_config import WinnersConfig
from stages.step3_policy.best_samples import Samples


def samples(**changes):
    values = {
        "texts": [["a", "b", "c"], ["", "d", " "], ["e", "f", "g"]],
        "finished": np.array([[True, True, False], [True, False, True], [True, True, True]]),
        "proxy": np.array([[1.0, 2.0, 9.0], [5.0, 6.0, 7.0], [3.0, 3.0, 1.0]]),
        "gold": np.array([[0.1, 0.2, 0.9], [0.0, 0.0, 0.0], [0.4, 0.5, 0.6]]),
    }
    return Samples(**values | changes)


def test_the_highest_score_that_can_be_a_demonstration_wins():
    """The highest of the first was cut; of the second all are empty or cut; the third ties."""
    assert stage.winners(samples()).tolist() == [1, -1, 0]


def test_prompts_keep_their_winner():
    prompts = [
        Prompt(prompt=[{"role": "user", "content": name}], user=f"u{name}") for name in "xyz"
    ]
    rows = FittingPrompts(records=prompts, tokens=[[1]] * 3, too_long=0)
    made = stage.demonstrations(rows, samples(), np.array([1, -1, 0]))
    assert [(row.prompt[0]["content"], row.response, row.user) for row in made] == [
        ("x", "b", "ux"),
        ("z", "e", "uz"),
    ]


def test_figures_are_of_the_prompts_with_a_winner():
    found = stage.figures(samples(), np.array([1, -1, 0]))
    assert (found["prompts"], found["without_winner"]) == (2.0, 1.0)
    assert found["proxy_winners"] == pytest.approx((2.0 + 3.0) / 2)
    assert found["proxy_mean"] == pytest.approx((12.0 + 7.0) / 6)
    assert found["gold_winners"] == pytest.approx((0.2 + 0.4) / 2)
    assert "gold_mean" not in stage.figures(samples(gold=None), np.array([1, -1, 0]))


@pytest.fixture
def assets(tmp_path, tiny_model_folder):
    reward_model = new_reward_model(tiny_model_folder / "model", seed=0)
    tokenizer = load_reward_tokenizer(tiny_model_folder / "model")
    save_reward_model(reward_model, tokenizer, tmp_path / "reward_model" / "model")
    for split, count in {"train": 6, "validation": 2}.items():
        records = [
            Prompt(prompt=[{"role": "user", "content": f"list the {noun}"}])
            for noun in ("cat", "dog", "ball", "box", "red", "blue")[:count]
        ]
        write_table(tmp_path / "prompts" / f"{split}.parquet", records)
    return {
        "sft": tiny_model_folder,
        "reward_model": tmp_path / "reward_model",
        "prompts": tmp_path / "prompts",
    }


def run_stage(folder, assets, should_stop=lambda: False, **changes):
    values = {"n": 8, "max_response_tokens": 60, "gold": GoldKind.none, "temperature": 0.7}
    config = WinnersConfig(**values | changes)
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    return stage.run(config, **assets, out=folder / "out", context=context)


def test_writes_demonstrations_of_both_splits(tmp_path, assets):
    report = run_stage(tmp_path / "run", assets)
    rows = read_table(tmp_path / "run" / "out" / "train.parquet", Demonstration)
    assert len(rows) == report.metrics["train_prompts"] > 0
    assert report.metrics["train_proxy_winners"] > report.metrics["train_proxy_mean"]
    again = run_stage(tmp_path / "again", assets, sequences_per_batch=3)
    assert again.metrics == pytest.approx(report.metrics, abs=1e-5)
    assert read_table(tmp_path / "again" / "out" / "train.parquet", Demonstration) == rows


def test_no_usable_response_is_told(tmp_path, assets):
    with pytest.raises(UserError, match="no response to"):
        run_stage(tmp_path / "run", assets, max_response_tokens=1)


def test_asked_to_stop(tmp_path, assets):
    with pytest.raises(InterruptedRunError):
        run_stage(tmp_path / "run", assets, should_stop=lambda: True)
