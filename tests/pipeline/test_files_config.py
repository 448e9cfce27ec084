"""The config and the graph with data from files."""

import pytest

from pipeline.arithmetic import batch_arithmetic
from pipeline.composition import compose
from pipeline.config import selection, stage_configs
from pipeline.fingerprint import content_digest
from pipeline.selection import graph_faults
from pipeline.workflow import workflow
from stages.contracts import GoldKind, UserError
from stages.step0_base.config import TokenizerKind
from stages.step0_data.files_config import FilesConfig

DEMONSTRATIONS = ["data/demonstrations=generic", "data.demonstrations.path=d.jsonl"]
PROMPTS = ["data/prompts=generic", "data.prompts.path=p.jsonl"]
COMPARISONS = ["data/comparisons=generic", "data.comparisons.path=c.jsonl"]
TEXT = ["data/text=generic", "data.text.path=t.jsonl"]
ALL = [*DEMONSTRATIONS, *PROMPTS, *COMPARISONS, *TEXT, "scale=small"]


def graph_of(overrides):
    config = compose(overrides)
    return workflow(stage_configs(config)), selection(config)


@pytest.mark.parametrize("align", ["ppo_ptx", "best_of_n", "dpo", "rloo"])
def test_with_files_nothing_of_the_world_is_left(align):
    config = compose([*ALL, f"align={align}"])
    assert config.evaluation.gold is GoldKind.none
    assert align == "dpo" or config.align.gold is GoldKind.none
    assert config.base.tokenizer is TokenizerKind.bpe
    graph, chosen = graph_of([*ALL, f"align={align}"])
    assert "completions" not in graph
    assert graph["comparisons"].reads == {}
    assert graph_faults(graph, chosen) == []
    made = {asset: graph[asset].function for asset in ("demonstrations", "prompts", "text")}
    assert made == {asset: f"stages.step0_data.files:{asset}" for asset in made}
    assert "unique prompts" not in {row.name for row in batch_arithmetic(config).get("policy", [])}


def test_comparisons_alone_may_come_from_files():
    """The world's prompts are judged by gold as ever."""
    config = compose(COMPARISONS)
    assert config.evaluation.gold is GoldKind.world
    assert config.base.tokenizer is TokenizerKind.words
    graph, chosen = graph_of(COMPARISONS)
    assert graph_faults(graph, chosen) == []
    assert graph["prompts"].function == "stages.step0_data.prompts:run"


def test_labelers_without_gold_are_refused_before_work():
    (fault,) = graph_faults(*graph_of(PROMPTS))
    assert "ranks by gold" in fault.what
    assert "data/comparisons" in fault.do
    assert graph_faults(*graph_of([*PROMPTS, "to_stage=sft"])) != [fault]
    assert graph_faults(*graph_of([*PROMPTS, "given.comparisons=somewhere"])) == []


@pytest.mark.parametrize("key", ["evaluation.gold", "align.gold"])
def test_gold_of_other_prompts_is_refused_with_its_key(key):
    with pytest.raises(UserError, match=key):
        compose([*ALL, f"{key}=world"])


def test_columns_and_options_are_the_users_to_name():
    chosen = compose([*COMPARISONS, "data.comparisons.columns={chosen: good, rejected: bad}"])
    assert isinstance(chosen.data.comparisons, FilesConfig)
    assert chosen.data.comparisons.columns == {"chosen": "good", "rejected": "bad"}
    one = compose([*COMPARISONS, "+data.comparisons.columns.chosen=good"])
    assert isinstance(one.data.comparisons, FilesConfig)
    assert one.data.comparisons.columns == {"chosen": "good"}


def test_rules_are_options_with_the_defaults_of_their_table():
    config = compose([*ALL, "data.demonstrations.rules.max_prompts_per_user=5"])
    assert config.data.demonstrations.rules.max_prompts_per_user == 5
    assert config.data.prompts.rules.split.test == 0.1
    assert config.data.text.rules.split.test == 0
    with pytest.raises(UserError, match=r"data\.prompts.*no test split"):
        compose([*ALL, "data.prompts.rules.split.test=0"])
    with pytest.raises(UserError, match="names no data"):
        compose(["data/demonstrations=generic"])


def test_a_glob_is_its_files(tmp_path):
    for name, text in (("a.jsonl", "1"), ("b.jsonl", "2"), ("c.txt", "3")):
        (tmp_path / name).write_text(text)
    before = content_digest(tmp_path / "*.jsonl", "path")
    (tmp_path / "c.txt").write_text("4")
    assert content_digest(tmp_path / "*.jsonl", "path") == before
    (tmp_path / "b.jsonl").write_text("5")
    assert content_digest(tmp_path / "*.jsonl", "path") != before
    with pytest.raises(UserError, match="names nothing"):
        content_digest(tmp_path / "*.csv", "path")
