"""The group `workflow`: the graph of online DPO's rounds, what they share, what is refused."""

from pathlib import Path

import pytest

from pipeline.artifacts import Store
from pipeline.composition import compose
from pipeline.config import run_id, selection, stage_configs
from pipeline.errors import FaultsError
from pipeline.planning import Plan, make_plan
from pipeline.workflow import workflow
from stages.contracts import UserError
from stages.step2_reward.config import ComparisonsConfig, CompletionsConfig, RankingConfig
from stages.step3_policy.config import DpoConfig, KtoConfig

ONLINE = ("+experiment=tiny", "align=dpo", "workflow=online_dpo")
BY_MODEL = (*ONLINE, "workflow.ranked_by=reward_model")


def plan_of(folder: Path, *overrides: str) -> Plan:
    config = compose([*overrides, f"store={folder / 'store'}"])
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), folder / "runs")
    assert not faults
    return plan


def fingerprints(folder: Path, *overrides: str) -> dict[str, str]:
    stages = plan_of(folder, *overrides).stages
    return {asset: planned.fingerprint for asset, planned in stages.items()}


def reads(plan: Plan, asset: str) -> dict[str, str]:
    return dict(plan.stages[asset].stage.reads)


def test_every_round_answers_with_the_policy_so_far(tmp_path: Path) -> None:
    """Mutation: a round that samples from sft again, or learns from another round's labels."""
    plan = plan_of(tmp_path, *ONLINE)
    before = "sft"
    for number, policy in enumerate(("policy_1", "policy_2", "policy"), start=1):
        sampled, ranked = f"completions_{number}", f"comparisons_{number}"
        assert reads(plan, sampled) == {"sft": before, "prompts": "prompts"}
        assert reads(plan, ranked) == {"completions": sampled}
        own = reads(plan, policy)
        assert (own["sft"], own["comparisons"]) == (before, ranked)
        assert own.get("reference") == (None if number == 1 else "sft")
        before = policy
    assert reads(plan, "evaluation")["policy"] == "policy"
    assert reads(plan, "evaluation")["ppo_init"] == "sft"


def test_a_round_may_be_held_to_where_it_begins(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *ONLINE, "align.reference=previous")
    assert "reference" not in reads(plan, "policy")


def test_rounds_take_other_prompts_and_other_noise() -> None:
    configs = stage_configs(compose([*ONLINE, "workflow.train_prompts=20"]))
    sampled = [configs[f"completions_{number}"] for number in (1, 2, 3)]
    assert all(isinstance(config, CompletionsConfig) for config in sampled)
    assert [c.first_prompt for c in sampled if isinstance(c, CompletionsConfig)] == [0, 20, 40]
    assert [c.source for c in sampled if isinstance(c, CompletionsConfig)] == [
        "sft",
        "policy_1",
        "policy_2",
    ]
    seeds = {config.seed for config in [configs["completions"], *sampled]}
    assert len(seeds) == 4
    ranked = [configs[f"comparisons_{number}"] for number in (1, 2, 3)]
    assert all(isinstance(config, ComparisonsConfig) for config in ranked)
    assert len({config.seed for config in ranked}) == 3


def test_the_reward_model_may_rank(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *BY_MODEL)
    assert isinstance(plan.stages["comparisons_2"].stage.config, RankingConfig)
    assert reads(plan, "comparisons_2") == {
        "completions": "completions_2",
        "reward_model": "reward_model",
    }
    assert isinstance(plan.stages["comparisons"].stage.config, ComparisonsConfig)


def test_a_fourth_round_leaves_three_as_they_are(tmp_path: Path) -> None:
    three, four = (
        fingerprints(tmp_path, *ONLINE, f"workflow.rounds={rounds}") for rounds in (3, 4)
    )
    kept = [f"{kind}_{n}" for n in (1, 2) for kind in ("completions", "comparisons", "policy")]
    kept += ["completions_3", "comparisons_3"]
    assert all(three[asset] == four[asset] for asset in kept)
    assert "policy_3" not in three
    assert "policy_3" in four
    assert run_id(compose([*ONLINE, "workflow.rounds=4"])) != run_id(compose(ONLINE))


def test_one_round_and_the_default_workflow() -> None:
    one = stage_configs(compose([*ONLINE, "workflow.rounds=1"]))
    assert {"completions_1", "comparisons_1", "policy"} <= one.keys()
    assert "policy_1" not in one
    plain = stage_configs(compose(ONLINE[:2]))
    assert not [asset for asset in plain if asset.endswith("_1")]


def test_from_files_the_reward_model_ranks() -> None:
    """Nobody else can: labelers rank by gold, which knows the world's own prompts alone."""
    files = [
        f"data.{table}.path=rows.jsonl"
        for table in ("demonstrations", "prompts", "comparisons", "text")
    ]
    groups = [
        f"data/{table}=generic" for table in ("demonstrations", "prompts", "comparisons", "text")
    ]
    configs = stage_configs(compose([*groups, *files, *ONLINE]))
    assert isinstance(configs["comparisons_1"], RankingConfig)
    assert "completions" not in configs


REFUSED = [
    (("+experiment=ppo_ptx", "workflow=online_dpo"), "repeats DPO, a relative or KTO"),
    (("workflow=online_dpo", "align=best_of_n"), "repeats DPO, a relative or KTO"),
    (("workflow=online_dpo", "align=orpo", "align.start=base"), "from SFT on"),
    ((*ONLINE, "workflow.rounds=0"), "workflow.rounds must be positive"),
    (("align=dpo", "+workflow.rounds=2"), "unknown config key"),
    ((*ONLINE, "workflow.ranked_by=people"), "wrong value for the config key workflow.ranked_by"),
]


@pytest.mark.parametrize(("overrides", "what"), REFUSED)
def test_what_cannot_be_repeated(overrides: tuple[str, ...], what: str) -> None:
    with pytest.raises((FaultsError, UserError), match=what):
        compose(overrides)


def test_dpo_is_what_is_repeated_unless_told_otherwise() -> None:
    assert isinstance(compose(["workflow=online_dpo"]).align, DpoConfig)
    assert isinstance(compose(["workflow=online_dpo", "align=kto"]).align, KtoConfig)
    assert compose(["+experiment=online_dpo"]) == compose(
        ["workflow=online_dpo", "name=online_dpo"]
    )


# --- rejection sampling


def test_rejection_sampling_fine_tunes_sft_on_the_winners(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "+experiment=tiny", "align=rejection_sampling")
    assert reads(plan, "winners") == {
        "sft": "sft",
        "reward_model": "reward_model",
        "prompts": "prompts",
    }
    assert reads(plan, "policy") == {"base": "sft", "demonstrations": "winners"}
    assert plan.stages["policy"].stage.function == plan.stages["sft"].stage.function


def test_another_rate_samples_nothing_again(tmp_path: Path) -> None:
    tiny = ("+experiment=tiny", "align=rejection_sampling")
    before, after = fingerprints(tmp_path, *tiny), fingerprints(tmp_path, *tiny, "align.sft.lr=1")
    assert {a for a in before if before[a] != after[a]} == {"policy", "evaluation"}
    assert run_id(compose([*tiny, "align.sft.lr=1"])) != run_id(compose(tiny))


def test_the_winners_are_chosen_already() -> None:
    with pytest.raises(
        (FaultsError, UserError), match=r"align: sft.select is validation_loss|sft.select"
    ):
        compose(["align=rejection_sampling", "align.sft.select=reward_model"])
