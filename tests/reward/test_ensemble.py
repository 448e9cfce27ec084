"""How members' scores become one, against numbers worked out by hand, and what a folder keeps."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.config import Combine
from reward.ensemble import (
    Ensemble,
    Rule,
    disagreement,
    first_member,
    load_scorer,
    save_ensemble,
    single_models,
)
from reward.model import RewardModel, load_reward_model, new_reward_model, save_reward_model
from stages.lm.batching import collate
from stages.lm.loading import model_hash

BATCH = collate([[1, 7, 8], [1, 9], [1, 10, 11, 12]], [[8, 9, 2], [13], [14, 8, 2]], 0)
# Three members, two responses: means 2 and 1, population deviations sqrt(8/3) and 0.
SCORES = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
RULES = [Rule(combine=combine) for combine in Combine]


@pytest.fixture
def folders(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> list[Path]:
    """Three members with other heads and biases."""
    made = []
    for seed in range(3):
        model = new_reward_model(tiny_model_folder / "model", seed=seed)
        model.network.config.reward_bias = 0.5 * seed
        made.append(tmp_path / f"trained_{seed}")
        save_reward_model(model, tiny_tokenizer, made[-1])
    return made


def test_the_rules_by_hand() -> None:
    """Mutations: a sample deviation (divided by M - 1); a variance; plus in place of minus."""
    rules = {
        Rule(combine=Combine.mean): [2.0, 1.0],
        Rule(combine=Combine.minimum): [0.0, 1.0],
        Rule(combine=Combine.uncertainty): [2.0 - math.sqrt(8 / 3), 1.0],
        Rule(combine=Combine.uncertainty, uncertainty_coef=0.5): [2.0 - math.sqrt(2 / 3), 1.0],
    }
    for rule, expected in rules.items():
        assert rule(SCORES).tolist() == pytest.approx(expected), rule
    assert disagreement(SCORES).tolist() == pytest.approx([math.sqrt(8 / 3), 0.0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("members", [1, 2, 4])
def test_members_that_agree_are_one(rule: Rule, members: int) -> None:
    one = torch.tensor([0.25, -3.0, 7.5])
    assert torch.equal(rule(one.expand(members, -1)), one)


def test_without_a_coefficient_uncertainty_is_the_mean() -> None:
    rule = Rule(combine=Combine.uncertainty, uncertainty_coef=0.0)
    assert torch.equal(rule(SCORES), Rule()(SCORES))


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_members_does_not_matter(rule: Rule) -> None:
    torch.testing.assert_close(rule(SCORES[[2, 0, 1]]), rule(SCORES))


@pytest.mark.parametrize("rule", RULES)
def test_a_folder_scores_as_its_members(rule: Rule, folders: list[Path], tmp_path: Path) -> None:
    """Each member's own zero counts. Mutation: raw scores are combined."""
    save_ensemble(folders, rule, 0.125, tmp_path / "model")
    ensemble = load_scorer(tmp_path / "model")
    assert isinstance(ensemble, Ensemble)
    alone = torch.stack([load_reward_model(folder).scores(BATCH) for folder in folders])
    torch.testing.assert_close(ensemble.member_scores(BATCH), alone)
    torch.testing.assert_close(ensemble.scores(BATCH), rule(alone) - 0.125)
    assert not any(module.training for module in ensemble.members)


def test_one_reward_model_is_loaded_as_it_is(folders: list[Path]) -> None:
    model = load_scorer(folders[1])
    assert isinstance(model, RewardModel)
    assert single_models(model) == [model]
    assert first_member(folders[1]) == folders[1]


def test_a_folder_links_its_members_in_order(folders: list[Path], tmp_path: Path) -> None:
    save_ensemble(folders, Rule(), 0.0, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "ensemble.json").read_text())
    assert settings["members"] == ["member_1", "member_2", "member_3"]
    for name, folder in zip(settings["members"], folders, strict=True):
        linked = tmp_path / "model" / name / "model.safetensors"
        assert linked.samefile(folder / "model.safetensors")
    assert first_member(tmp_path / "model") == tmp_path / "model" / "member_1"


def test_the_hash_of_an_ensemble_is_that_of_all_its_members(
    folders: list[Path], tmp_path: Path
) -> None:
    hashes = []
    for number, members in enumerate([folders, folders[:2], folders[::-1]]):
        save_ensemble(members, Rule(), 0.0, tmp_path / f"{number}")
        hashes.append(model_hash(tmp_path / f"{number}"))
    assert len(set(hashes)) == 3
