"""What a config selects and identifies; all that a user gets wrong is named, with what to do."""

import re
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module

from pipeline.composition import all_keys, compose, register_schemas
from pipeline.config import (
    PipelineConfig,
    run_folder,
    run_id,
    selection,
    stage_configs,
)
from pipeline.errors import FaultsError
from stages.contracts import UserError
from stages.lm.precision import Precision
from stages.step3_policy.ppo.config import PpoConfig


def test_ppo_init_may_be_the_sft_asset() -> None:
    assert "ppo_init" in stage_configs(compose())
    assert "ppo_init" not in stage_configs(compose(["ppo_init=same_as_sft"]))


def test_the_choice_of_the_epoch_is_an_asset_of_its_own() -> None:
    """sft is the same either way: it is trained once."""
    usual, chosen = compose([]), compose(["sft.select=reward_model"])
    assert "sft_selected" not in stage_configs(usual)
    assert "sft_selected" in stage_configs(chosen)
    assert run_id(usual) != run_id(chosen)


def test_the_precision_reaches_all_that_is_trained_or_samples() -> None:
    """Mutation: an option that does not refer to the group."""
    config = compose(["precision=bf16", "align=dpo"])
    stages = ("sft", "ppo_init", "sft_selected", "completions", "reward_model", "align")
    assert {getattr(config, stage).precision for stage in stages} == {Precision.bf16}
    ppo = compose(["precision=bf16"]).align
    assert isinstance(ppo, PpoConfig)
    assert ppo.precision is Precision.bf16


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises((UserError, FaultsError), match="fp16 is for GPUs"):
        compose(["precision=fp16"])
    assert compose(["precision=fp16", "placement.gpus=1"]).sft.precision is Precision.fp16


def test_selection_of_the_graph() -> None:
    chosen = selection(compose(["to_stage=sft", "force=[base]", "given.text=somewhere"]))
    assert (chosen.to_stage, chosen.force) == ("sft", ("base",))
    assert chosen.given == {"text": "somewhere"}


SAME_RUN = [
    "store=elsewhere",
    "executor=local",
    "tracking=table",
    "cluster.num_cpus=7",
    "align.checkpoint_every=3",
    "force=[sft]",
    "runs_dir=there",
]
OTHER_RUN = [
    "seed=1",
    "align.kl_coef=0.5",
    "align=dpo",
    "to_stage=sft",
    "given.base=x",
    "scale=paper",
]


def test_what_cannot_change_the_result_keeps_the_run_id() -> None:
    assert run_id(compose(SAME_RUN)) == run_id(compose())


def test_what_changes_the_result_changes_the_run_id() -> None:
    ids = [run_id(compose()), *(run_id(compose([override])) for override in OTHER_RUN)]
    assert len(set(ids)) == len(ids)


def test_run_id_and_folder() -> None:
    config = compose(["+experiment=tiny"])
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", run_id(config))
    assert run_folder(config) == Path("runs") / run_id(config)
    assert run_folder(compose(["run_dir=mine"])) == Path("mine")


# overrides, what the error says, what to do
FAULTS = [
    ("+align.klcoef=1", "unknown config key", "did you mean align.kl_coef?"),
    ("+foo=1", "unknown config key", "one of "),
    ("+sead=1", "unknown config key", "did you mean seed?"),
    ("+scale.ppo.iteration=1", "unknown config key", "did you mean scale.ppo.iterations?"),
    (
        "+comparisons.labeler.nois=1",
        "unknown config key",
        "did you mean comparisons.labeler.noise?",
    ),
    ("align.policy_lr=fast", "wrong value for the config key align.policy_lr", "give a number"),
    ("completions.k_max=4.5", "wrong value for the config key completions.k_max", "a whole number"),
    ("base.path=[1]", "wrong value for the config key base.path", "a text or null"),
    ("executor.kind=slurm", "wrong value for the config key executor.kind", "one of ray, local"),
    ("align.kl_placement=REWARD", "wrong value for the config key align.kl_placement", "one of"),
    (
        "align.kind=grpo",
        "unknown align.kind",
        "one of best_of_n, dpo, kto, ppo, rejection_sampling",
    ),
    ("align.policy_lr=-1", "align.policy_lr must be positive", "set policy_lr above 0"),
    ("sft.lr=-1e-5", "sft.lr must be positive", "set lr above 0"),
    ("completions.k_min=1", "completions.k_min must be at least 2", "a comparison needs"),
    ("align.advantage=rloo", "align.samples_per_prompt must be 2 or more", "align/advantage=rloo"),
    ("align.stop.kl_above=-1", "align.stop.kl_above must be positive", "null"),
    ("align.minibatch_size=33", "align.minibatch_size must divide", "minibatch_size=32"),
    ("comparisons.labeler.noise=-1", "comparisons.labeler.noise must not be negative", "0 switch"),
    ("data.prompts=mine", "data.prompts is a group of settings", "data/prompts=mine"),
    ("evaluation=null", "evaluation is a group of settings", "evaluation.KEY=VALUE"),
    ("seed=${nothing}", "the config key seed refers to a key that is not there", "existing key"),
]


@pytest.mark.parametrize(("override", "what", "do"), FAULTS)
def test_faults_are_named_with_what_to_do(override: str, what: str, do: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_as_the_command_line_does(override)
    assert what in caught.value.what
    assert do in caught.value.do


def compose_as_the_command_line_does(override: str) -> PipelineConfig:
    """`evaluation=null` never reaches us from the command line (Hydra drops the group)."""
    if override != "evaluation=null":
        return compose([override])
    from pipeline.composition import typed

    register_schemas()
    with initialize_config_module(config_module="conf", version_base="1.3"):
        composed = hydra_compose("config")
    composed.evaluation = None
    return typed(composed)


def test_a_missing_base_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        compose(["base=folder", f"base.path={tmp_path / 'nothing'}"])
    assert caught.value.what == "base.path is no model folder"
    assert caught.value.got == str(tmp_path / "nothing")


def test_all_faults_come_in_one_report() -> None:
    wrong = ["+align.klcoef=1", "sft.lr=-1", "completions.k_min=1", "reward_model.lr=abc"]
    with pytest.raises(FaultsError) as caught:
        compose(wrong)
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    for key in ("align.klcoef", "sft.lr", "completions.k_min", "reward_model.lr"):
        assert key in text


def test_all_keys_holds_variants_and_the_scale() -> None:
    known = all_keys()
    for key in ("align.kl_coef", "align.beta", "align.n", "scale.ppo.iterations", "data.text.seed"):
        assert key in known


def test_sources_of_a_mixture_are_groups_by_names_of_ones_own(tmp_path: Path) -> None:
    """A key that one leaves out has its default; a wrong one is told with the nearest."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    key = "data.demonstrations"
    first = ["data/demonstrations=generic", f"{key}.path={tmp_path}/rows.jsonl", f"{key}.weight=1"]
    second = f"adapter: alpaca, path: {tmp_path}/rows.jsonl, weight: 2"
    config = compose([*first, f"{key}.others={{more: {{{second}}}}}"])
    assert config.data.demonstrations.weights() == {"generic": 1.0, "more": 2.0}
    assert config.data.demonstrations.others["more"].on_bad_row == "error"
    with pytest.raises(UserError, match=r"others\.more\.weigh=3\n.*others\.more\.weight\?"):
        compose([*first, f"{key}.others={{more: {{{second}, weigh: 3}}}}"])
    with pytest.raises(UserError, match="is a group of settings"):
        compose([*first, f"{key}.others={{more: 3}}"])
