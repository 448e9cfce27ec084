"""Every option composes and types, alone and with the others."""

import re
from dataclasses import asdict, replace
from itertools import product
from operator import ne
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from omegaconf import OmegaConf

from pipeline.arithmetic import batch_arithmetic, departures
from pipeline.composition import CONF, compose
from pipeline.config import (
    PipelineConfig,
    RejectionSamplingConfig,
)
from stages.contracts import UserError
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
