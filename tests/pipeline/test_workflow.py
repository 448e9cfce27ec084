"""The graph: what it reads agrees with the stages, and every fault of its shape is named."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.selection import Selection, descendants, graph_faults, select
from pipeline.workflow import Stage, reads_as_text, workflow
from reward.config import ModelTerm, RewardConfig
from stages.contracts import StageConfig
from stages.lm.peft.config import PeftKind
from stages.step3_policy.best_of_n_config import BestOfNConfig
from stages.step3_policy.config import DpoConfig, KtoConfig, PairLoss, PolicyStart
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step4_evaluation.config import EvaluationConfig
from tests.pipeline.toys import ToyConfig, toy_graph

ASSETS = (
    "demonstrations prompts text base sft ppo_init completions comparisons reward_model evaluation"
)


def real(policy: StageConfig, without: str = "") -> dict[str, Stage]:
    configs = {asset: StageConfig() for asset in ASSETS.split() if asset != without}
    return workflow({**configs, "policy": policy})


JUDGED = PpoConfig(select=Select.proxy_judge)


@pytest.mark.parametrize("policy", [PpoConfig(), JUDGED, DpoConfig(), KtoConfig(), BestOfNConfig()])
def test_reads_are_the_keywords_of_the_stage(policy: StageConfig) -> None:
    for asset, stage in real(policy).items():
        if asset == "judge":
            continue  # given, never made
        module, _, name = stage.function.partition(":")
        package, _, leaf = module.rpartition(".")
        spec = find_spec(package)
        assert spec is not None
        path = Path(next(iter(spec.submodule_search_locations or []))) / f"{leaf}.py"
        functions = [node for node in ast.parse(path.read_text()).body if is_def(node, name)]
        arguments = functions[0].args
        defaults = dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
        keywords = {argument.arg for argument in defaults}
        required = {argument.arg for argument, default in defaults.items() if default is None}
        assert required <= {*stage.reads, "out", "context"} <= keywords, stage.function


def is_def(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def test_dpo_is_evaluated_against_the_reward_model_and_starts_from_sft() -> None:
    selected = select(real(DpoConfig()), Selection())
    assert "reward_model" in selected
    assert "ppo_init" not in selected
    assert selected["evaluation"].reads["ppo_init"] == "sft"


@pytest.mark.parametrize("policy", [PpoConfig(), DpoConfig(), BestOfNConfig()])
def test_an_epoch_selected_by_reward_takes_the_place_of_sft(policy: StageConfig) -> None:
    """But for the reward model and what it learns from: there would be a circle."""
    configs = {asset: StageConfig() for asset in (*ASSETS.split(), "sft_selected")}
    del configs["ppo_init"]
    graph = workflow({**configs, "policy": policy})
    assert graph_faults(graph, Selection()) == []
    assert graph["sft_selected"].reads == {
        name: name for name in ("sft", "reward_model", "prompts")
    }
    readers = {asset for asset, stage in graph.items() if "sft_selected" in stage.reads.values()}
    assert readers == {"policy", "evaluation"}
    assert graph["completions"].reads["sft"] == graph["reward_model"].reads["sft"] == "sft"


def test_orpo_may_start_from_base() -> None:
    graph = real(DpoConfig(loss=PairLoss.orpo, start=PolicyStart.base))
    assert graph["policy"].reads["sft"] == "base"
    assert graph["evaluation"].reads["ppo_init"] == "base"
    assert graph["evaluation"].reads["sft"] == "sft"
    assert real(DpoConfig(loss=PairLoss.orpo))["policy"].reads["sft"] == "sft"


def test_without_a_config_for_ppo_init_ppo_starts_from_sft() -> None:
    graph = real(PpoConfig(), without="ppo_init")
    assert graph["policy"].reads["ppo_init"] == "sft"
    assert graph_faults(graph, Selection()) == []


def test_parents_come_first_and_only_what_the_target_needs() -> None:
    selected = list(select(real(PpoConfig()), Selection(to_stage="reward_model")))
    assert selected[-1] == "reward_model"
    assert selected.index("base") < selected.index("sft") < selected.index("comparisons")
    assert not {"policy", "ppo_init", "evaluation"} & set(selected)


def test_without_a_reward_model_nothing_is_compared() -> None:
    """Neither the policy nor the evaluation reads one; who asks for it by name still gets it."""
    rules = RewardConfig(model=ModelTerm(weight=0.0), functions={"mine.brevity": 1.0})
    graph = real(PpoConfig(reward=rules))
    assert graph_faults(graph, Selection()) == []
    assert not {"completions", "comparisons", "reward_model"} & set(select(graph, Selection()))
    assert "reward_model" in select(graph, Selection(to_stage="reward_model"))
    (unused,) = graph_faults(graph, Selection(given={"reward_model": "somewhere"}))
    assert unused.got == "reward_model"


def test_who_may_read_a_reward_model_of_another_tokenizer() -> None:
    assert reads_as_text(PpoConfig())
    assert reads_as_text(EvaluationConfig())
    assert not reads_as_text(PpoConfig(peft=PeftKind.lora))
    assert not reads_as_text(BestOfNConfig())


def test_a_judge_is_given_never_made() -> None:
    graph = real(JUDGED)
    assert graph["policy"].reads["judge"] == "judge"
    (fault,) = graph_faults(graph, Selection())
    assert "given.judge=RUN" in fault.do
    assert graph_faults(graph, Selection(given={"judge": "somewhere"})) == []
    assert graph_faults(graph, Selection(to_stage="reward_model")) == []
    (unused,) = graph_faults(real(PpoConfig()), Selection(given={"judge": "somewhere"}))
    assert unused.got == "judge"


def test_a_given_asset_needs_nothing() -> None:
    selected = select(real(DpoConfig()), Selection(to_stage="sft", given={"base": "somewhere"}))
    assert set(selected) == {"base", "demonstrations", "sft"}


def test_descendants_follow_every_edge() -> None:
    selected = select(real(PpoConfig()), Selection())
    assert descendants(selected, "completions") == {
        *("completions", "comparisons", "reward_model", "policy", "evaluation")
    }


def test_all_faulty_names_are_reported_together() -> None:
    selection = Selection(
        to_stage="evaluatoin", from_stage="totl", force=("lift",), given={"rights": "x"}
    )
    faults = graph_faults(toy_graph(), selection)
    assert [fault.got for fault in faults] == ["evaluatoin", "totl", "lift", "rights"]
    hints = [fault.do for fault in faults]
    assert hints == [f"did you mean {n}?" for n in ("evaluation", "total", "left", "right")]


def test_names_that_the_run_does_not_need_are_refused() -> None:
    faults = graph_faults(toy_graph(), Selection(to_stage="left", given={"right": "x"}))
    assert "does not need" in faults[0].what


def test_given_and_forced_is_a_contradiction() -> None:
    faults = graph_faults(toy_graph(), Selection(force=("left",), given={"left": "x"}))
    assert "given and forced" in faults[0].what


def test_a_circle_is_named() -> None:
    graph = toy_graph()
    graph["left"] = Stage(
        function="tests.pipeline.toys:x", config=ToyConfig(), reads={"total": "total"}
    )
    (fault,) = graph_faults(graph, Selection())
    assert "circle" in fault.what
    assert "total -> left -> total" in fault.got or "left -> total -> left" in fault.got


def test_a_missing_input_is_named() -> None:
    graph = toy_graph()
    del graph["right"]
    (fault,) = graph_faults(graph, Selection())
    assert fault.what == "total reads right, which no stage makes"
