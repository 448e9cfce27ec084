"""The figures of a run: the policy against SFT, base and its own start, on held-out prompts (§3.6).

every model's answers  -> gold, proxy, win rates with intervals, length, EOS rate
policy and its start   -> KL, and the loss on pretraining text
SFT and the labels     -> accuracy, ceiling and calibration of the reward model
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward.ensemble import load_scorer
from reward.model import load_reward_tokenizer
from stages.contracts import Context, InterruptedRunError, Report
from stages.lm.loading import load_causal_lm, text_contract
from stages.lm.prompts import fitting_prompts
from stages.step4_evaluation.answers import Answers, Exam
from stages.step4_evaluation.config import EvaluationConfig
from stages.step4_evaluation.figures import Results
from stages.step4_evaluation.pretraining import read_documents, text_loss
from stages.step4_evaluation.reward_checks import (
    check_gold,
    check_labels,
    label_figures,
    score_distributions,
)
from stages.step4_evaluation.samples import sample_rows

SHOWN_IN_JOURNAL = 16


def run(  # noqa: PLR0913  # one keyword an upstream asset
    config: EvaluationConfig,
    *,
    policy: Path,
    ppo_init: Path,
    sft: Path,
    base: Path,
    prompts: Path,
    text: Path,
    out: Path,
    context: Context,
    reward_model: Path | None = None,
    comparisons: Path | None = None,
) -> Report:
    """Measure; writes figures.json, calibration.json, score_distributions.json and samples.json.

    policy: a model folder, or best-of-n. ppo_init: what the policy started from (sft for DPO and
    best-of-n). reward_model, comparisons: None where training maximised another reward, which is
    then the proxy. Raises InterruptedRunError when asked to stop: the next run measures again.
    """
    tokenizer = load_reward_tokenizer(sft / "model")
    rows = fitting_prompts(
        prompts / "test.parquet", tokenizer, config.max_prompt_tokens, config.num_prompts
    )
    exam = Exam(config, tokenizer, rows.records, reward_model and reward_model / "model")
    folders = model_folders(policy, ppo_init, sft, base)
    results = _examine(exam, folders, policy, text / "validation.parquet", context)
    judged = {} if comparisons is None else _check_reward_model(exam, comparisons, folders, out)
    also = {"prompts_too_long": float(rows.too_long)}
    also |= {"policy_kl": policy_kl(exam, results.answers["policy"], folders, policy)}
    figures = _named("evaluation", results.figures(config.confidence) | also)
    figures |= _named("reward_model", judged)
    samples = sample_rows(rows.records, results.answers, config)
    _write(out / "figures.json", figures)
    _write(out / "score_distributions.json", score_distributions(results.answers))
    _write(out / "samples.json", samples)
    context.journal.table(0, "samples", samples[:SHOWN_IN_JOURNAL])
    context.journal.advance(len(folders) + 1)
    return Report(metrics=figures, contract=text_contract(tokenizer, config.max_length))


def _check_reward_model(
    exam: Exam, comparisons: Path, folders: Mapping[str, Path], out: Path
) -> dict[str, float]:
    """Its figures against labels and gold; its calibration is written."""
    labels = check_labels(exam, comparisons / "validation.parquet", exam.config)
    _write(out / "calibration.json", labels.calibration.bins)
    sft = load_causal_lm(folders["sft"])
    return label_figures(labels) | check_gold(exam, sft, exam.config)


def model_folders(policy: Path, ppo_init: Path, sft: Path, base: Path) -> dict[str, Path]:
    """What answers: base, SFT, the policy's start where it is not SFT, the policy, its average."""
    folders = {"base": base, "sft": sft, "ppo_init": ppo_init, "policy": policy}
    if ppo_init.resolve() == sft.resolve():
        del folders["ppo_init"]
    models = {name: folder / "model" for name, folder in folders.items()}
    if (policy / "ema").is_dir():
        models["ema"] = policy / "ema"
    return models


def _examine(
    exam: Exam, folders: Mapping[str, Path], policy: Path, text: Path, context: Context
) -> Results:
    """Every model answers the prompts and reads the pretraining text, one model in memory."""
    documents = read_documents(
        text,
        exam.tokenizer,
        num_tokens=exam.config.pretrain_tokens,
        max_length=exam.config.max_length,
    )
    context.journal.start(len(folders) + 1, "models")
    predicted = sum(len(document) - 1 for document in documents)
    results = Results(start=_start(folders), pretrain_tokens=predicted)
    for done, (name, folder) in enumerate(folders.items(), start=1):
        model = load_causal_lm(folder)
        results.answers[name] = _answer(exam, model, name, policy)
        results.losses[name] = text_loss(model, documents, exam.pad_token_id)
        context.journal.advance(done)
        if context.should_stop():
            raise InterruptedRunError("stopped while evaluating: the next run measures again")
    return results


def _answer(exam: Exam, model: Any, name: str, policy: Path) -> Answers:
    n = best_of_n(policy) if name == "policy" else None
    if n is None:
        return exam.answer(model, name)
    return exam.answer_best_of(model, name, n, load_scorer(policy / "reward_model"))


def best_of_n(policy: Path) -> int | None:
    """n of a best-of-n policy; None for a policy that is a model alone."""
    path = policy / "best_of_n.json"
    return int(json.loads(path.read_text())["n"]) if path.is_file() else None


def policy_kl(exam: Exam, answers: Answers, folders: Mapping[str, Path], policy: Path) -> float:
    """KL(policy || its start) in nats a response.

    The mean of log pi(y|x) - log pi_start(y|x) over the policy's own answers; best-of-n has the
    closed form log n - (n-1)/n, an upper bound where responses tie (Stiennon et al. 2020). Of
    greedy or truncated answers the mean is not the policy's KL: it says how likely they are.
    """
    n = best_of_n(policy)
    if n is not None:
        return math.log(n) - (n - 1) / n
    own = exam.logprobs(load_causal_lm(folders["policy"]), answers)
    start = exam.logprobs(load_causal_lm(folders[_start(folders)]), answers)
    return float((own - start).mean())


def _start(folders: Mapping[str, Path]) -> str:
    """The name of the model that the policy began as."""
    return "ppo_init" if "ppo_init" in folders else "sft"


def _named(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}.{name}": value for name, value in figures.items()}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
