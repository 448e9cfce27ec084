"""`evaluate-reward`: a file goes in, the figures come out, and what cannot be judged is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.commands.evaluate_reward import main
from pipeline.data_overrides import comparison_source
from pipeline.executors.protocol import Status
from pipeline.manifest import write_manifest
from pipeline.summary import RunRecord, StageRecord, write_run
from reward.ensemble import Rule, save_ensemble
from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
from stages.contracts import UserError
from stages.lm.tokens import encode_prompt, encode_response
from tests.pipeline.example_run import artifact_manifest

BENCH = [  # in the form of allenai/reward-bench, all of its columns
    {
        "prompt": prompt,
        "chosen": chosen,
        "chosen_model": "good",
        "rejected": rejected,
        "rejected_model": "bad",
        "subset": subset,
        "id": number,
    }
    for number, (prompt, chosen, rejected, subset) in enumerate(
        [
            ("write about the cat", "the cat is red .", "the dog .", "alpacaeval-easy"),
            ("count one", "one", "one two three", "alpacaeval-easy"),
            ("list ball , box", "ball , box", "box box box", "mt-bench-easy"),
            ("write", "the ball is blue .", "red red", "donotanswer"),
        ]
    )
]
RANKED = [
    {"prompt": "write", "completions": ["the cat .", "dog", "one two"], "ranks": [1, 2, 2]},
    {"prompt": "count", "completions": ["one", "two three"], "ranks": [2, 1]},
    {"prompt": "list", "completions": ["ball", "box", "cat", "dog"], "scores": [1, 4, 2, 3]},
]


@pytest.fixture
def model(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A model folder, whose head is random and large."""
    reward_model = new_reward_model(tiny_model_folder / "model", seed=4)
    with torch.no_grad():
        reward_model.network.score.weight.mul_(10)
    save_reward_model(reward_model, tiny_tokenizer, tmp_path / "judge")
    return tmp_path / "judge"


def file_of(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(model: Path, data: Path, out: Path, form: str = "generic", *more: str) -> Any:
    overrides = [f"data/comparisons={form}", f"data.comparisons.path={data}", *more]
    assert main([str(model), *overrides, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def score(folder: Path, prompt: str, response: str) -> float:
    """Transformers alone, one sequence at a time."""
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_reward_tokenizer(folder)
    tokens = encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
    tokens = tokens + encode_response(tokenizer, response, finished=True)
    with torch.no_grad():
        return float(network(input_ids=torch.tensor([tokens])).logits[0, 0])


def test_a_file_of_reward_bench(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against scores of Transformers alone. Mutation: chosen and rejected swapped."""
    data = file_of(BENCH, tmp_path / "bench.jsonl")
    found = evaluate(model, data, tmp_path / "out.json", "reward_bench")
    right = [
        score(model, row["prompt"], row["chosen"]) > score(model, row["prompt"], row["rejected"])
        for row in BENCH
    ]
    assert found["overall"]["accuracy"] == pytest.approx(sum(right) / 4)
    by_subset = {share["name"]: (share["accuracy"], share["pairs"]) for share in found["by_subset"]}
    assert by_subset == {
        "alpacaeval-easy": (pytest.approx(sum(right[:2]) / 2), 2),
        "mt-bench-easy": (right[2], 1),
        "donotanswer": (right[3], 1),
    }
    sections = {part["name"]: part for part in found["reward_bench"]["sections"]}
    assert set(sections) == {"chat", "safety"}
    assert sections["chat"]["score"] == pytest.approx(sum(right[:3]) / 3)
    assert found["reward_bench"]["score"] is None
    assert {source["name"] for source in found["scores"]} == {"good", "bad"}
    assert (found["data"]["rows"], found["data"]["used"]) == (4, 4)
    assert found["length"]["longer_wins"] == 0.625  # longer, shorter, equal, longer
    shown = capsys.readouterr().out
    assert "alpacaeval-easy" in shown
    assert "expected calibration error" in shown


def test_k_ways(model: Path, tmp_path: Path) -> None:
    """Ranks or scores, K from 2 to 4: two, one and six pairs."""
    found = evaluate(model, file_of(RANKED, tmp_path / "k.jsonl"), tmp_path / "out.json")
    pairs = {share["name"]: share["pairs"] for share in found["by_k"]}
    assert pairs == {"2": 1, "3": 2, "4": 6}
    assert {s["name"]: s["pairs"] for s in found["by_ranks_apart"]} == {"1": 6, "2": 2, "3": 1}
    assert found["label_ceiling"] is None
    assert "reward_bench" not in found


def test_columns_of_any_name(model: Path, tmp_path: Path) -> None:
    rows = [
        {"q": "write", "a": "the cat .", "b": "dog", "part": "mine", "by": "x"},
        {"q": "count", "a": "one", "b": "two", "part": "yours", "by": "y"},
    ]
    names = {"prompt": "q", "chosen": "a", "rejected": "b", "subset": "part", "labeler_group": "by"}
    columns = [f"data.comparisons.columns.{field}={name}" for field, name in names.items()]
    data = file_of(rows, tmp_path / "mine.jsonl")
    found = evaluate(model, data, tmp_path / "out.json", "generic", *columns)
    assert [share["name"] for share in found["by_subset"]] == ["mine", "yours"]
    assert [share["name"] for share in found["by_group"]] == ["x", "y"]


def test_a_classifier_of_other_hands(model: Path, tmp_path: Path) -> None:
    """Without our key in its config: the same figures. With two labels: refused."""
    data = file_of(BENCH, tmp_path / "bench.jsonl")
    ours = evaluate(model, data, tmp_path / "ours.json", "reward_bench")
    config = json.loads((model / "config.json").read_text())
    del config["reward_bias"]
    (model / "config.json").write_text(json.dumps(config))
    theirs = evaluate(model, data, tmp_path / "theirs.json", "reward_bench")
    assert theirs["overall"] == ours["overall"]


def test_an_ensemble(model: Path, tmp_path: Path) -> None:
    """Of one model twice: the mean is that model's score."""
    data = file_of(RANKED, tmp_path / "k.jsonl")
    (tmp_path / "both" / "model").mkdir(parents=True)
    save_ensemble([model, model], Rule(), 0.0, tmp_path / "both" / "model")
    write_manifest(tmp_path / "both", artifact_manifest("reward_model"))
    one = evaluate(model, data, tmp_path / "one.json")
    both = evaluate(tmp_path / "both", data, tmp_path / "both.json")
    assert both["overall"] == one["overall"]
    assert both["scores"][0]["mean"] == pytest.approx(one["scores"][0]["mean"])


def test_a_language_model_is_no_reward_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    data = file_of(BENCH, tmp_path / "bench.jsonl")
    with pytest.raises(UserError, match="holds no reward model"):
        evaluate(tiny_model_folder / "model", data, tmp_path / "out.json", "reward_bench")
    assert not (tmp_path / "out.json").exists()


def test_a_run_keeps_its_figures(model: Path, tmp_path: Path) -> None:
    """A run is found by its id; by default the file lies in its folder."""
    artifact = tmp_path / "store" / "reward_model" / "r"
    artifact.mkdir(parents=True)
    model.rename(artifact / "model")
    write_manifest(artifact, artifact_manifest("reward_model"))
    stage = StageRecord(status=Status.DONE, folder=str(artifact))
    (tmp_path / "runs" / "ppo-1").mkdir(parents=True)
    record = RunRecord(run="ppo-1", stages={"reward_model": stage})
    write_run(tmp_path / "runs" / "ppo-1", record)
    data = file_of(BENCH, tmp_path / "bench.jsonl")
    overrides = ["data/comparisons=reward_bench", f"data.comparisons.path={data}"]
    assert main(["ppo-1", *overrides, "--runs-dir", str(tmp_path / "runs")]) == 0
    written = tmp_path / "runs" / "ppo-1" / "evaluate_reward-reward_bench-bench.json"
    assert json.loads(written.read_text())["reward_model"]["name"] == "ppo-1"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**BENCH[0], "chosen": None}], "line 1, field chosen"),
        ([{**BENCH[0], "chosen": "the dog ."}], "holds no comparison"),
        ([{**BENCH[0], "prompt": "write " * 80}], "fits max_length"),
    ],
)
def test_data_that_cannot_be_judged(
    model: Path, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    data = file_of(rows, tmp_path / "bad.jsonl")
    with pytest.raises(UserError, match=message):
        evaluate(model, data, tmp_path / "out.json", "reward_bench")
    assert not (tmp_path / "out.json").exists()


def test_what_is_too_long_is_counted(model: Path, tmp_path: Path) -> None:
    rows = [*BENCH, {**BENCH[0], "prompt": "write " * 80}]
    found = evaluate(
        model, file_of(rows, tmp_path / "b.jsonl"), tmp_path / "o.json", "reward_bench"
    )
    assert (found["comparisons"], found["too_long"], found["max_length"]) == (4, 1, 64)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data/comparisons=reward_bnch", "did you mean reward_bench"),
        ("data.comparisons.pth=x", r"did you mean data\.comparisons\.path"),
        ("data.comparisons.max_row_bytes=many", "wrong value"),
        ("reward_model.lr=1", "keys of its comparisons alone"),
    ],
)
def test_misspelt_overrides(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        comparison_source(["data.comparisons.path=x", override])


def test_no_data_named() -> None:
    with pytest.raises(UserError, match="names no data"):
        comparison_source(["data/comparisons=generic"])
