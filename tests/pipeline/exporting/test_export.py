"""`export`: what opens, what the card says, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.commands.export import main
from stages.contracts import UserError
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.peft.quantised import compute_in_own_dtype
from stages.lm.rollout import Sampling, sampling_keys
from stages.lm.tokens import decode_response, encode_prompt
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import read_table
from tests.pipeline.exporting.small_run import REWARD_BIAS, fingerprint, write_small_run

Export = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture
def export(run: Path, tmp_path: Path) -> Export:
    def call(*options: str) -> Path:
        assert main([str(run), "--to", str(tmp_path / "out"), *options]) == 0
        return tmp_path / "out"

    return call


def assets(run: Path) -> Path:
    return run.parents[1] / "assets"


def test_a_policy_opens_and_answers_as_ours_does(
    run: Path, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = export()
    said = capsys.readouterr().out
    assert "whole greedy responses the same, of 8" in said
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    row = read_table(assets(run) / "demonstrations" / "validation.parquet", Demonstration)[0]
    tokens = model.generate(
        **tokenizer.apply_chat_template(
            row.prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ),
        do_sample=False,
    )
    prompt, response = greedy(assets(run) / "policy" / "model", row.prompt)
    assert tokens[0].tolist() == prompt + response
    # Compared by export itself, on eight prompts and the texts:
    checked = {
        name: found
        for name, *found in json.loads((folder / "export.json").read_text())["checked"]["rows"]
    }
    assert checked["whole greedy responses the same, of 8"] == ["", "100.0%"]
    original, exported = checked["perplexity of demonstrations"]
    assert original == exported


def greedy(model: Path, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Our engine's tokens: of the prompt, and of the response, at most eight."""
    tokenizer = load_tokenizer(model)
    engine = HFEngine(load_causal_lm(model), eos_token_id=2, pad_token_id=0)
    prompt = encode_prompt(tokenizer, messages)
    sampling = Sampling(max_new_tokens=8, greedy=True)
    return prompt, engine.generate([prompt], sampling, sampling_keys(0, 0, [0], [0])).tokens[0]


def test_it_is_sampled_as_it_was_trained(export: Export) -> None:
    said = json.loads((export("--check-rows", "0") / "generation_config.json").read_text())
    del said["transformers_version"]
    assert said == {
        "do_sample": True,
        "temperature": 0.5,  # the manifest's, of its rollouts
        "top_k": 0,  # Transformers' own default would cut at 50
        "top_p": 1.0,
        "max_new_tokens": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def test_weights_in_sixteen_bits(run: Path, export: Export) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(export("--dtype", "bfloat16"))
    original = load_causal_lm(assets(run) / "policy" / "model")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, original.get_parameter(name).to(torch.bfloat16))


def test_a_reward_model_scores_up_to_its_stated_bias(
    run: Path, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = export("--asset", "reward_model")
    said = capsys.readouterr().out
    assert "pairs in the same order, of 12" in said  # four comparisons of three
    assert f"- {REWARD_BIAS}  # reward_bias" in (folder / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.reward_bias == REWARD_BIAS
    assert not (folder / "generation_config.json").exists()
    row = read_table(assets(run) / "comparisons" / "validation.parquet", Comparison)[0]
    assert row.completions[0] == "the cat"
    rows = json.loads((folder / "export.json").read_text())["checked"]["rows"]
    assert float(rows[0][2]) < 1e-5
    assert rows[1][2] == "100.00%"


@pytest.mark.parametrize(("kind", "bytes_a_weight"), [("int8", 1), ("int4", 0.5)])
def test_quantised_weights_open_again(
    run: Path, export: Export, kind: str, bytes_a_weight: float
) -> None:
    """Fewer bytes, and figures beside the original's, which are those of what is on the disk."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    folder = export("--quantise", kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    compute_in_own_dtype(model)  # its layers are narrower than bitsandbytes packs on some CPUs
    layer, width = "model.layers.0.mlp.up_proj.weight", (32, 16)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored = file.get_tensor(layer)
    assert stored.nbytes == bytes_a_weight * width[0] * width[1]
    row = read_table(assets(run) / "demonstrations" / "validation.parquet", Demonstration)[0]
    tokens = torch.tensor([encode_prompt(load_tokenizer(folder), row.prompt)])
    original = load_causal_lm(assets(run) / "policy" / "model")
    with torch.no_grad():
        apart = (model(tokens).logits - original(tokens).logits).abs().max()
    assert 0 < apart < 0.5
    record = json.loads((folder / "export.json").read_text())
    checked = {name: found for name, *found in record["checked"]["rows"]}
    whole, exported = checked["perplexity of demonstrations"]
    assert whole != exported
    assert float(whole) == pytest.approx(float(exported), rel=0.05)
    assert record["needs"] == ["transformers", "bitsandbytes"]


def test_what_cannot_be_quantised_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [str(run), "--to", str(tmp_path / "out"), "--quantise"]
    for kind in ("gptq", "awq"):
        with pytest.raises(UserError, match=f"{kind} is not made in this environment"):
            main([*asked, kind])
    with pytest.raises(UserError, match="only a whole language model"):
        main([*asked, "int8", "--asset", "reward_model"])
    monkeypatch.setattr("stages.step4_evaluation.export.quantise.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package bitsandbytes") as caught:
        main([*asked, "int4"])
    assert "[quantise]" in caught.value.do
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_what_it_is(export: Export) -> None:
    card = (export("--license", "mit", "--base-model", "owner/base") / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "owner/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "policy", "small"],
    }
    for asset in ("prompts", "demonstrations", "text", "base", "sft", "reward_model", "policy"):
        assert f"| {asset} | `{fingerprint(asset)}`" in body
    assert fingerprint("other") not in body
    assert (
        "| demonstrations | the embedded world: generated, seed 0 | train 20, validation 20 |"
        in body
    )
    assert "| `policy.loss` | 0.5 |" in body
    assert "| `align.kl_coef` | 0.02 | 0.1 |" in body
    assert "python -m pipeline run +experiment=small\n" in body
    assert "--to FOLDER --base-model owner/base --license mit\n" in body


def test_a_run_that_cannot_give_it_is_told(run: Path, tmp_path: Path) -> None:
    out = ["--to", str(tmp_path / "out")]
    with pytest.raises(UserError, match="has no policyx") as caught:
        main([str(run), "--asset", "policyx", *out])
    assert caught.value.do == "did you mean policy?"
    with pytest.raises(UserError, match="has not made its ppo_init yet"):
        main([str(run), "--asset", "ppo_init", *out])
    with pytest.raises(UserError, match="text is no model"):
        main([str(run), "--asset", "text", *out])
    with pytest.raises(UserError, match="has no adapter"):
        main([str(run), "--what", "adapter", *out])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_of_its_own_is_told(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(assets(run), copied / "assets")
    shutil.copytree(run, copied / "runs" / "small-0")
    policy, reward_model = (copied / "assets" / name for name in ("policy", "reward_model"))
    text = (copied / "runs" / "small-0" / "run.json").read_text()
    (copied / "runs" / "small-0" / "run.json").write_text(
        text.replace(str(assets(run)), str(copied / "assets"))
    )
    (policy / "best_of_n.json").write_text('{"n": 4}')
    (reward_model / "model" / "ensemble.json").write_text("{}")
    named = [str(copied / "runs" / "small-0"), "--to", str(tmp_path / "out")]
    with pytest.raises(UserError, match="best-of-n policy is no model") as caught:
        main(named)
    assert "--asset sft" in caught.value.do
    with pytest.raises(UserError, match="ensemble of reward models is no model"):
        main([*named, "--asset", "reward_model"])


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline", "stages", "reward", "conf"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Refuse())
"""


def run_card(folder: Path, **changes: str) -> str:
    """What the card's program prints where nothing of this project can be imported."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    for old, new in changes.items():
        assert old in program
        program = program.replace(old, new)
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE + program],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_cards_programs_run_without_this_project(
    run: Path, export: Export, tmp_path: Path
) -> None:
    row = read_table(assets(run) / "demonstrations" / "validation.parquet", Demonstration)[0]
    model = assets(run) / "policy" / "model"
    _, response = greedy(model, row.prompt)
    folder = export()
    said = run_card(folder, **{"**inputs": "**inputs, do_sample=False"})
    assert said == decode_response(load_tokenizer(model), response)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_cards_program_gives_our_score(run: Path, export: Export) -> None:
    from reward.model import load_reward_model
    from stages.lm.batching import collate
    from stages.lm.tokens import encode_response

    model = assets(run) / "reward_model" / "model"
    tokenizer = load_tokenizer(model)
    row = read_table(assets(run) / "demonstrations" / "validation.parquet", Demonstration)[0]
    response = encode_response(tokenizer, row.response, finished=True)
    batch: Any = collate([encode_prompt(tokenizer, row.prompt)], [response], 0)
    expected = float(load_reward_model(model).scores(batch))
    assert float(run_card(export("--asset", "reward_model"))) == pytest.approx(expected, abs=1e-5)
