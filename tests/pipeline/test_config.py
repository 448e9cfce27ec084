"""Every option composes and types; all that a user gets wrong is named, with the nearest name."""

import re
from dataclasses import asdict, replace
from itertools import product
from operator import ne
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import OmegaConf

from pipeline.arithmetic import batch_arithmetic, departures
from pipeline.composition import CONF, all_keys, compose, register_schemas
from pipeline.config import (
    PipelineConfig,
    RejectionSamplingConfig,
    run_folder,
    run_id,
    selection,
    stage_configs,
)
from pipeline.errors import FaultsError
from stages.contracts import UserError
from stages.lm.precision import Precision
from stages.step3_policy.best_of_n_config import BestOfNConfig
from stages.step3_policy.config import DpoConfig, KtoConfig, PairLoss
from stages.step3_policy.ppo.config import PpoConfig


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Models by name, which differ from base=hub in path and length alone.
NAMED_MODELS = [
    name for name in options("base") if "- hub\n" in (CONF / "base" / f"{name}.yaml").read_text()
]


# What an experiment asks of its user.
OWN_FILES = {"smollm2_lora": ["data.demonstrations.path=d.jsonl", "data.comparisons.path=c.jsonl"]}
PAIRED = {
    "dpo": PairLoss.sigmoid,
    "cdpo": PairLoss.sigmoid,
    "robust": PairLoss.robust,
    "hinge": PairLoss.hinge,
    "ipo": PairLoss.ipo,
    "simpo": PairLoss.simpo,
    "orpo": PairLoss.orpo,
}
GROUPS = sorted({str(path.parent.relative_to(CONF)) for path in CONF.rglob("*/*.yaml")})


@pytest.fixture
def base_path(tmp_path: Path, base: str) -> list[str]:
    """What an option of `base` needs besides itself."""
    if base in ("gguf", "smollm2_135m"):
        (tmp_path / "model.gguf").write_bytes(b"GGUF")
        return [f"base.path={tmp_path / 'model.gguf'}", "base.package=null"]
    if base == "folder":
        (tmp_path / "config.json").write_text("{}")
        return [f"base.path={tmp_path}"]
    if base == "hub":
        return ["base.path=some/model"]
    return []


def combinations() -> list[ParameterSet]:
    """All; those that differ from the main job in more than one option are slow tests."""
    bases = sorted({*options("base")} - {*NAMED_MODELS})
    main = ("ppo_ptx", "ppo_ptx", "scratch")
    every = product(options("experiment"), options("align"), bases)
    return [
        pytest.param(*each, marks=pytest.mark.slow if sum(map(ne, each, main)) > 1 else ())
        for each in every
    ]


@pytest.mark.parametrize(("experiment", "align", "base"), combinations())
def test_every_experiment_composes_with_every_align_and_base(
    experiment: str, align: str, base: str, base_path: list[str]
) -> None:
    chosen = [f"+experiment={experiment}", f"align={align}", f"base={base}"]
    chosen += [*base_path, *OWN_FILES.get(experiment, [])]
    if experiment == "online_dpo" and align not in {*PAIRED, "kto"}:
        with pytest.raises(UserError, match="workflow=online_dpo repeats"):
            compose(chosen)
        return
    config = compose(chosen)
    others = {
        **dict.fromkeys(PAIRED, DpoConfig),
        "kto": KtoConfig,
        "best_of_n": BestOfNConfig,
        "rejection_sampling": RejectionSamplingConfig,
    }
    assert type(config.align) is others.get(align, PpoConfig)
    assert config.base.kind == {"smollm2_135m": "gguf"}.get(base, base)
    assert config.name == experiment


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_as_it_is_shipped(experiment: str, tmp_path: Path) -> None:
    """But for the package in which the base of smollm2_lora comes."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    gguf = [f"base.path={tmp_path / 'model.gguf'}", "base.package=null"]
    more = [*OWN_FILES[experiment], *gguf] if experiment in OWN_FILES else []
    config = compose([f"+experiment={experiment}", *more])
    assert config.name == experiment
    header = (CONF / "experiment" / f"{experiment}.yaml").read_text().split("defaults:")[0]
    if experiment in ("smollm2_lora", "instructgpt_1b", "tldr_pythia", "hh_llama_8b"):
        for said in ("hardware:", "time:", "command:"):
            assert said in header


@pytest.mark.parametrize("base", NAMED_MODELS)
def test_a_model_by_name_is_a_small_difference_from_hub(base: str) -> None:
    ours = compose([f"base={base}"]).base
    plain = compose(["base=hub", f"base.path={ours.hub}"]).base
    changed = {key for key, value in asdict(ours).items() if value != asdict(plain)[key]}
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", str(ours.hub))
    assert changed <= {"max_length"}


def test_relatives_differ_from_dpo_in_their_loss_beta_and_rate() -> None:
    dpo = compose(["align=dpo"]).align
    for name, loss in PAIRED.items():
        config = compose([f"align={name}"]).align
        assert isinstance(config, DpoConfig)
        assert config.loss is loss
        own = ("loss", "label_smoothing", "gamma", "beta", "lr")
        assert replace(config, **{key: getattr(dpo, key) for key in own}) == dpo


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in GROUPS if g not in ("experiment", "align", "base") for o in options(g)],
)
def test_every_other_option_composes(group: str, option: str) -> None:
    room = ["base.max_length=148"]  # for virtual tokens
    needed = {
        "peft=bitfit": ["base=hub", "base.path=openai-community/gpt2"],
        **{f"peft={method}": room for method in ("prefix", "p_tuning", "prompt")},
        "reward=function": ["reward.functions={my_rewards.brevity: 1.0}"],
        "precision=fp16": ["executor.gpus=1"],
        "reward=judge": ["reward.judge.model=some-model"],
    }
    chosen = f"{group}={option}"
    more = needed.get(chosen, [])
    if group.startswith("data/") and option not in ("world", "labelers"):
        more = [f"{group.replace('/', '.')}.path=some.jsonl"]
    assert isinstance(compose([chosen, *more]), PipelineConfig)


def test_the_ptx_coefficient_tells_ppo_from_ppo_ptx() -> None:
    plain, mixed = compose(["align=ppo"]).align, compose(["align=ppo_ptx"]).align
    assert isinstance(plain, PpoConfig)
    assert isinstance(mixed, PpoConfig)
    assert (plain.ptx_coef, plain.policy_lr) == (0.0, mixed.policy_lr)
    assert mixed.ptx_coef > 0


ESTIMATORS = ["gae", "grpo", "reinforce_pp", "rloo"]


def test_each_estimator_is_an_option_and_three_are_presets() -> None:
    """With `ppo_ptx` the choice of the estimator alone changes; a preset also has its own rates."""
    assert options("align/advantage") == ESTIMATORS
    for name in ESTIMATORS:
        chosen = compose([f"align/advantage={name}"]).align
        assert isinstance(chosen, PpoConfig)
        assert chosen.advantage == name
        assert chosen.ptx_coef > 0
        assert chosen.advantage.compares_samples == (chosen.samples_per_prompt > 1)
    for name in ESTIMATORS[1:]:
        preset = compose([f"align={name}"]).align
        assert isinstance(preset, PpoConfig)
        assert (preset.advantage, preset.ptx_coef) == (name, 0.0)


def test_scales_have_the_same_keys_and_every_key_is_read() -> None:
    files = {name: OmegaConf.load(CONF / "scale" / f"{name}.yaml") for name in options("scale")}
    keys = {name: sorted(leaves(OmegaConf.to_container(file))) for name, file in files.items()}
    assert all(found == keys["paper"] for found in keys.values())
    text = "".join(path.read_text() for path in CONF.rglob("*.yaml"))
    read = set(re.findall(r"\$\{scale\.([a-z_.]+)\}", text))
    assert read == set(keys["paper"])


def leaves(tree: object, path: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, node in tree.items() for leaf in leaves(node, f"{path}.{key}".strip("."))]


def test_the_papers_scale_departs_from_nothing_the_paper_says() -> None:
    """Mutation: any value of conf/scale/paper.yaml changed."""
    ours = {"align.gold", "align.generation_batch_size", "base.max_length"}
    changed = {
        key for key in departures(compose(["scale=paper"])) if not re.search("per_batch", key)
    }
    assert changed - {"align.sequences_per_batch"} <= ours


def test_paper_arithmetic() -> None:
    """Appendix C: 256k episodes are 500 iterations and 4,000 updates.

    The reward model's prompts come out of PPO's 31,144 here, so its steps are 31,144 / 64 = 487.
    """
    table = batch_arithmetic(compose(["scale=paper"]))
    numbers = {(stage, q.name): q.value for stage, rows in table.items() for q in rows}
    assert numbers["policy", "episodes"] == 256_000
    assert numbers["policy", "optimizer steps"] == 4_000
    assert numbers["policy", "minibatches an iteration"] == 8
    assert numbers["policy", "ptx documents"] == 8 * 256_000
    assert numbers["reward_model", "optimizer steps"] == 487
    assert numbers["sft", "optimizer steps"] == 16 * 398  # 12,725 / 32, the last batch not full


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
