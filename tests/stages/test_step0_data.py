from pathlib import Path

import pytest

from stages.contracts import Context, UserError
from stages.records.schemas import Demonstration, Prompt, Text
from stages.records.tables import read_table
from stages.step0_data import demonstrations, prompts, text
from stages.step0_data.config import DemonstrationsConfig, PromptsConfig, TextConfig


def _run(stage, config, out: Path):
    return stage.run(config, out=out, context=Context.at(out / "context"))


def test_each_stage_writes_its_tables_with_the_sizes_asked_for(tmp_path):
    cases = [
        (text, TextConfig(num_train=30, num_validation=7), Text, {"train": 30, "validation": 7}),
        (prompts, PromptsConfig(num_train=20, num_validation=8, num_test=9), Prompt,
         {"train": 20, "validation": 8, "test": 9}),
        (demonstrations, DemonstrationsConfig(num_train=25, num_validation=6), Demonstration,
         {"train": 25, "validation": 6}),
    ]  # fmt: skip
    for stage, config, kind, sizes in cases:
        out = tmp_path / stage.__name__
        report = _run(stage, config, out)
        assert {s: len(read_table(out / f"{s}.parquet", kind)) for s in sizes} == sizes
        assert all(isinstance(value, float) for value in report.metrics.values())


def test_the_seed_decides_everything(tmp_path):
    config = PromptsConfig(num_train=50, num_validation=5, num_test=5)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config.seed = seed
        _run(prompts, config, tmp_path / name)
    a, b, c = (read_table(tmp_path / name / "train.parquet", Prompt) for name in "abc")
    assert a == b
    assert a != c


def test_splits_differ_and_share_no_user(tmp_path):
    _run(prompts, PromptsConfig(num_train=200, num_validation=100, num_test=100), tmp_path)
    users = [
        {row.user for row in read_table(tmp_path / f"{split}.parquet", Prompt)}
        for split in ("train", "validation", "test")
    ]
    assert users[0].isdisjoint(users[1] | users[2])
    assert users[1].isdisjoint(users[2])


def test_care_is_the_share_of_perfect_demonstrations(tmp_path):
    for care in (0.0, 1.0):
        config = DemonstrationsConfig(num_train=600, num_validation=10, care=care)
        metrics = _run(demonstrations, config, tmp_path / str(care)).metrics
        # Writers stand up to 0.2 off the mean, and a share ends at 0 and 1.
        assert abs(metrics["train_perfect_share"] - care) < 0.12


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextConfig(num_train=0),
        lambda: TextConfig(instruction_share=1.5),
        lambda: PromptsConfig(num_test=-1),
        lambda: DemonstrationsConfig(care=-0.1),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(UserError):
        make()
