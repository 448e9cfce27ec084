"""The ensemble stage: the zero of every rule, and its figures beside its members'."""

import json
from pathlib import Path

import pytest
import torch

from reward.config import Combine
from reward.ensemble import load_scorer
from reward.model import load_reward_tokenizer
from reward.ranked_prompts import read_ranked_prompts, score_ranked
from stages.contracts import Context
from stages.lm.batching import collate
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Demonstration
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.ensemble import run
from stages.step2_reward.ensemble_config import EnsembleConfig, MemberData, member_configs
from stages.step2_reward.reward_model import run as train
from tests.stages.step2_reward.ranked_world import FAST, comparison

TRAINED = RewardModelConfig(**{**FAST, "epochs": 1.0})


@pytest.fixture(scope="module")
def comparisons(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparisons")
    write_table(folder / "train.parquet", [comparison(world, n) for n in range(24)])
    write_table(folder / "validation.parquet", [comparison(world, n) for n in range(40, 55)])
    return folder


@pytest.fixture(scope="module")
def members(
    world: Path, comparisons: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Three that were trained, each on its third of the comparisons."""
    folders = {}
    ensemble = EnsembleConfig(members=3, data=MemberData.disjoint)
    for number, config in enumerate(member_configs(TRAINED, ensemble), start=1):
        out = tmp_path_factory.mktemp(f"member_{number}")
        train(
            config,
            sft=world / "sft",
            comparisons=comparisons,
            demonstrations=world / "demonstrations",
            out=out,
            context=Context.at(out / "work"),
        )
        folders[f"reward_member_{number}"] = out
    return folders


def combine(comparisons: Path, members: dict[str, Path], out: Path, **settings):
    out.mkdir()
    return run(
        EnsembleConfig(members=len(members), **settings),
        comparisons=comparisons,
        out=out,
        context=Context.at(out / "work"),
        **members,
    )


@pytest.mark.parametrize("rule", Combine)
def test_demonstrations_score_zero_on_average(
    world: Path, comparisons: Path, members: dict[str, Path], tmp_path: Path, rule: Combine
) -> None:
    """Worked out here from the saved folder. Mutation: no bias, red for all but the mean."""
    report = combine(comparisons, members, tmp_path / "out", combine=rule)
    tokenizer = load_reward_tokenizer(tmp_path / "out" / "model" / "member_1")
    rows = read_table(world / "demonstrations" / "train.parquet", Demonstration)
    batch = collate(
        [encode_prompt(tokenizer, row.prompt) for row in rows],
        [encode_response(tokenizer, row.response, finished=True) for row in rows],
        tokenizer.pad_token_id,
    )
    ensemble = load_scorer(tmp_path / "out" / "model")
    assert ensemble.scores(batch).mean().item() == pytest.approx(0, abs=1e-5)
    assert report.contract["reward_bias"] == ensemble.reward_bias
    assert report.contract["members"] == 3
    if rule is Combine.mean:
        assert ensemble.reward_bias == pytest.approx(0, abs=1e-5)
    else:
        assert ensemble.reward_bias < 0


def test_its_figures_stand_beside_its_members(
    comparisons: Path, members: dict[str, Path], tmp_path: Path
) -> None:
    """Mutation: accuracies of one member for all."""
    report = combine(comparisons, members, tmp_path / "out")
    tokenizer = load_reward_tokenizer(tmp_path / "out" / "model" / "member_1")
    prompts, _ = read_ranked_prompts(comparisons / "validation.parquet", tokenizer, 64)
    ensemble = load_scorer(tmp_path / "out" / "model")
    scores = score_ranked(ensemble.scores, prompts, tokenizer.pad_token_id)
    right, pairs, start = 0.0, 0, 0
    for prompt in prompts:
        own = scores[start : start + len(prompt.responses)].tolist()
        start += len(own)
        for better in range(len(own)):
            for worse in range(len(own)):
                if prompt.ranks[better] < prompt.ranks[worse]:
                    right, pairs = right + (own[better] > own[worse]), pairs + 1
    metrics = report.metrics
    assert metrics["validation_accuracy_labels"] == pytest.approx(right / pairs)
    assert metrics["validation_accuracy_gold"] == pytest.approx(right / pairs)  # no noise here
    assert metrics["members"] == 3
    assert metrics["member_accuracy_labels_min"] <= metrics["member_accuracy_labels_mean"]
    assert metrics["member_accuracy_labels_mean"] <= metrics["member_accuracy_labels_max"]
    assert metrics["completion_disagreement"] > 0
    assert metrics["completion_score_std"] == pytest.approx(torch.std(scores, correction=0).item())
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())


def test_more_than_nine_members_keep_their_order(
    comparisons: Path, members: dict[str, Path], tmp_path: Path
) -> None:
    """Mutation: sorted as texts, 10 before 2."""
    one, two, three = members.values()
    many = {f"reward_member_{n}": (one, two, three)[n % 3] for n in range(1, 12)}
    combine(comparisons, many, tmp_path / "out")
    for number in range(1, 12):
        linked = tmp_path / "out" / "model" / f"member_{number}" / "model.safetensors"
        source = many[f"reward_member_{number}"] / "model" / "model.safetensors"
        assert linked.samefile(source)
