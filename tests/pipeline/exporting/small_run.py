"""A run's folder with real tables and untrained models: what `export` and `serve` read."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pipeline.executors.protocol import Status
from pipeline.fingerprint import Parts
from pipeline.manifest import Duration, Manifest, Parent, record_files, write_manifest
from pipeline.runs import CONFIG_FILE
from pipeline.summary import RunRecord, StageRecord, write_run
from reward.model import new_reward_model, save_reward_model
from stages.lm.loading import load_tokenizer, text_contract
from stages.records.schemas import Comparison, Demonstration, Prompt
from stages.records.tables import read_table, write_table
from stages.step0_data.card import Origin, write_card
from stages.step0_data.config import DemonstrationsConfig
from tests.stages.small_world import write_small_world

PARENTS: dict[str, tuple[str, ...]] = {
    "prompts": (),
    "demonstrations": (),
    "text": (),
    "base": ("text",),
    "sft": ("base", "demonstrations"),
    "comparisons": ("sft", "prompts"),
    "reward_model": ("sft", "comparisons", "demonstrations"),
    "policy": ("sft", "reward_model", "prompts", "text"),
    "other": (),
}
REWARD_BIAS = 0.25
CONFIG = {
    "name": "small",
    "base": {"kind": "scratch", "path": None},
    "evaluation": {"max_response_tokens": 8},
}


def write_small_run(folder: Path) -> Path:
    """The run small-0; `other` is an asset nothing descends from."""
    assets = write_small_world(folder / "assets")
    (assets / "start").rename(assets / "policy")
    _write_comparisons(assets)
    _write_reward_model(assets)
    write_card(assets / "demonstrations", Demonstration, Origin(source=DemonstrationsConfig()))
    (assets / "other").mkdir()
    for asset in PARENTS:
        write_asset(assets / asset, asset)
    run = folder / "runs" / "small-0"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(CONFIG)))
    write_run(run, small_record(assets))
    return run


def small_record(assets: Path) -> RunRecord:
    """All stages are done but `ppo_init`."""
    stages = {
        asset: StageRecord(status=Status.DONE, folder=str(assets / asset)) for asset in PARENTS
    }
    stages["ppo_init"] = StageRecord(status=Status.WAITING)
    return RunRecord(
        run="small-0",
        command="python -m pipeline run +experiment=small",
        stages=stages,
        departures={"align.kl_coef": (0.02, 0.1)},
    )


def write_asset(folder: Path, asset: str, **trained: Any) -> None:
    """The manifest of what lies in the folder. trained: config of the stage."""
    model, contract = folder / "model", {}
    if (model / "config.json").is_file():
        contract = text_contract(load_tokenizer(model), max_length=64)
    write_manifest(
        folder,
        Manifest(
            kind=asset,
            fingerprint=fingerprint(asset),
            parents={p: Parent(asset=p, fingerprint=fingerprint(p)) for p in PARENTS[asset]},
            parts=Parts(
                stage=asset, code={}, packages={"torch": "2.13"}, config={}, external={}, parents={}
            ),
            config={"temperature": 0.5} | trained if asset == "policy" else trained,
            seed=7,
            metrics={"reward_bias": REWARD_BIAS} if asset == "reward_model" else {"loss": 0.5},
            contract=contract,
            time=Duration(started=0.0, ended=1.0, wall_s=1.0, cpu_s=1.0),
            files=record_files(folder),
        ),
    )


def fingerprint(asset: str) -> str:
    """Of 64 hexadecimal digits."""
    return (asset.encode().hex() * 8)[:64]


def _write_comparisons(assets: Path) -> None:
    prompts = read_table(assets / "prompts" / "validation.parquet", Prompt)
    rows = [
        Comparison(
            prompt=row.prompt,
            completions=["the cat", "a dog .", "one two three"],
            source=["sft"] * 3,
            finished=[True, False, True],
            ranks=[2, 1, 3],
        )
        for row in prompts[:4]
    ]
    write_table(assets / "comparisons" / "validation.parquet", rows)


def _write_reward_model(assets: Path) -> None:
    sft = assets / "sft" / "model"
    model = new_reward_model(sft, seed=3)
    with torch.no_grad():
        model.network.score.weight *= 10
    model.network.config.reward_bias = REWARD_BIAS
    save_reward_model(model, load_tokenizer(sft), assets / "reward_model" / "model")
