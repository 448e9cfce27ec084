"""DPO, its relatives, online DPO and rejection sampling on one SFT policy and one set of labels.

    python -m pipeline run +experiment=dpo store=/tmp/store to_stage=reward_model
    python benchmarks/preferences.py --store /tmp/store --folder /tmp/preferences

Every variant is made by the stages of the workflow, in this process, from the newest assets of the
store, and answers the same held-out prompts as SFT does. One JSON line, a figure a variant; a line
a variant on standard error as it comes.
"""

import argparse
import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.composition import compose
from pipeline.config import PipelineConfig, stage_configs
from pipeline.selection import Selection, select
from pipeline.workflow import workflow
from stages.contracts import Context

VARIANTS = {
    "dpo": ["align=dpo"],
    "cdpo": ["align=cdpo"],
    "robust": ["align=robust"],
    "hinge": ["align=hinge"],
    "ipo": ["align=ipo"],
    "ipo, per token": ["align=ipo", "align.per_token=true"],
    "ipo, per token, beta 0.8": ["align=ipo", "align.per_token=true", "align.beta=0.8"],
    "simpo": ["align=simpo"],
    "orpo": ["align=orpo"],
    "orpo from base": ["align=orpo", "align.start=base"],
    "kto": ["align=kto"],
    "rejection_sampling": ["align=rejection_sampling"],
    "online dpo": ["align=dpo", "workflow=online_dpo"],
    "online dpo, reward model": [
        "align=dpo",
        "workflow=online_dpo",
        "workflow.ranked_by=reward_model",
    ],
}
GIVEN = ("base", "sft", "comparisons", "reward_model", "prompts", "text")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True, help="with the assets of one run")
    parser.add_argument("--folder", type=Path, required=True, help="policies go here")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--overrides", nargs="*", default=[], help="for every variant")
    options = parser.parse_args()
    given = {asset: newest(options.store, asset) for asset in GIVEN}
    examiner = Examiner(given)
    measured = {}
    for name in options.only:
        config = compose([*VARIANTS[name], *options.overrides])
        started = time.process_time()
        policy = make(config, given, options.folder / name.replace(" ", "_").replace(",", ""))
        seconds = time.process_time() - started
        start = given["base" if "align.start=base" in VARIANTS[name] else "sft"]
        measured[name] = examiner.examine(policy, start) | {"cpu_s": round(seconds, 1)}
        print(name, json.dumps(measured[name]), file=sys.stderr, flush=True)
    print(json.dumps(measured))


def newest(store: Path, asset: str) -> Path:
    """The folder of the asset made last."""
    manifests = (store / asset).glob("*/manifest.json")
    return max(manifests, key=lambda path: path.stat().st_mtime).parent


def make(config: PipelineConfig, given: dict[str, Path], folder: Path) -> Path:
    """Run the stages that lead to the policy; the policy's folder."""
    from stages.lm.process import prepare_process

    graph = workflow(stage_configs(config))
    selected = select(graph, Selection(to_stage="policy", given=dict.fromkeys(given, "given")))
    there = dict(given)
    shutil.rmtree(folder, ignore_errors=True)
    for asset, stage in selected.items():
        if asset in given:
            continue
        module, _, function = stage.function.partition(":")
        there[asset] = folder / asset
        there[asset].mkdir(parents=True)
        prepare_process(stage.config.threads, stage.config.seed)
        getattr(importlib.import_module(module), function)(
            stage.config,
            **{keyword: there[parent] for keyword, parent in stage.reads.items()},
            out=there[asset],
            context=Context.at(folder / f"{asset}_work"),
        )
    return there["policy"]


class Examiner:
    """Held-out prompts, and what SFT answered."""

    def __init__(self, given: dict[str, Path]) -> None:
        from reward.model import load_reward_tokenizer
        from stages.lm.process import prepare_process
        from stages.lm.prompts import fitting_prompts
        from stages.step4_evaluation.answers import Exam
        from stages.step4_evaluation.pretraining import read_documents

        self.given, self.config = given, compose().evaluation
        prepare_process(self.config.threads, self.config.seed)
        tokenizer = load_reward_tokenizer(given["sft"] / "model")
        rows = fitting_prompts(
            given["prompts"] / "test.parquet",
            tokenizer,
            self.config.max_prompt_tokens,
            self.config.num_prompts,
        )
        reward_model = given["reward_model"] / "model"
        self.exam = Exam(self.config, tokenizer, rows.records, reward_model)
        self.documents = read_documents(
            given["text"] / "validation.parquet",
            tokenizer,
            num_tokens=self.config.pretrain_tokens,
            max_length=self.config.max_length,
        )
        self.sft = self._answers(given["sft"], "sft")

    def _answers(self, folder: Path, name: str) -> Any:
        from stages.lm.loading import load_causal_lm

        return self.exam.answer(load_causal_lm(folder / "model"), name)

    def examine(self, policy: Path, start: Path) -> dict[str, float]:
        """Win rate against SFT, what it stands on, and what it cost."""
        from stages.step4_evaluation.evaluate import policy_kl
        from stages.step4_evaluation.figures import PERFECT, win_rate

        answers = self._answers(policy, "policy")
        gold = win_rate(answers.gold, self.sft.gold, self.config.confidence)
        folders = {name: path / "model" for name, path in self.given.items()}
        folders |= {"policy": policy / "model", "ppo_init": start / "model"}
        return {
            "win_rate_vs_sft": gold.mean,
            "low": gold.low,
            "gold": float(answers.gold.mean()),
            "perfect": float((answers.gold >= PERFECT).mean()),
            "proxy": float(answers.proxy.mean()),
            "kl": policy_kl(self.exam, answers, folders, policy),
            "pretrain_loss_delta": self._text_loss(policy) - self._text_loss(start),
            "response_tokens": sum(map(len, answers.tokens)) / len(answers.tokens),
        }

    def _text_loss(self, folder: Path) -> float:
        from stages.lm.loading import load_causal_lm
        from stages.step4_evaluation.pretraining import text_loss

        model = load_causal_lm(folder / "model")
        return text_loss(model, self.documents, self.exam.pad_token_id)


if __name__ == "__main__":
    main()
