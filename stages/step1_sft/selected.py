"""The SFT epoch whose responses the reward model likes best (InstructGPT App. C.1).

    sft, reward_model, prompts -> model/, epochs.json

The paper trains past the lowest validation loss and selects by reward-model score on validation
prompts. Its reward model began as an SFT model; here it began as the epoch of lowest validation
loss, and what is selected is an asset of its own: no circle. Every epoch answers the same prompts
with the same noise, so that epochs differ by what they learnt and not by luck.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward.ensemble import load_scorer
from reward.scoring import score_responses
from stages.contracts import Context, InterruptedRunError, Report, UserError
from stages.lm.engines.hf import HFEngine
from stages.lm.folders import link_folder
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.peft.adapters import check_base, load_adapted, network_of, publish
from stages.lm.peft.folders import positions_taken
from stages.lm.precision import computing_in
from stages.lm.prompts import fitting_prompts
from stages.lm.rollout import Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.step1_sft.config import SftSelectedConfig


@dataclass(kw_only=True)
class Epoch:
    """What is known of an epoch. reward: mean score of its responses, zero on demonstrations."""

    reward: float
    eos_rate: float
    response_tokens: float
    validation_loss: float


def run(
    config: SftSelectedConfig,
    *,
    sft: Path,
    reward_model: Path,
    prompts: Path,
    out: Path,
    context: Context,
    base: Path | None = None,
) -> Report:
    """Sample from every epoch, score, and publish the best (the journal's step is the epoch).

    base: on which the epochs' adapters lie. Raises InterruptedRunError when asked to stop: the next
    run samples again; UserError where the epochs were not kept.
    """
    folders = _epoch_folders(sft)
    if base is not None:
        check_base(base / "model", {"sft": folders[0]}, config.peft)
    examiner = _Examiner(config, sft, reward_model, prompts)
    context.journal.start(len(folders), "epochs")
    epochs: list[Epoch] = []
    for folder in folders:
        epochs.append(examiner.examine(folder, base))
        context.journal.advance(len(epochs))
        if context.should_stop() and len(epochs) < len(folders):
            raise InterruptedRunError("stopped while sampling: the next run samples again")
    _log(epochs, context)
    (out / "epochs.json").write_text(json.dumps([asdict(epoch) for epoch in epochs]))
    best = best_epoch(epochs)
    of_base = _publish(folders[best], base, examiner.tokenizer, config, out / "model")
    metrics = {
        "selected_epoch": float(best + 1),
        "reward": epochs[best].reward,
        "validation_loss": epochs[best].validation_loss,
        "prompts": float(len(examiner.prompts)),
        "prompts_too_long": float(examiner.too_long),
    }
    return Report(metrics=metrics, contract=examiner.contract | of_base)


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """The index of the highest mean score; the first of equals."""
    return max(range(len(epochs)), key=lambda index: epochs[index].reward)


def _epoch_folders(sft: Path) -> list[Path]:
    folders = sorted((sft / "epochs").glob("epoch_*"))
    if not folders:
        raise UserError(
            "sft.select=reward_model needs every epoch of sft",
            got=f"{sft} without epochs/",
            do="let this pipeline make sft, or set sft.select=validation_loss",
        )
    return folders


class _Examiner:
    """The prompts that every epoch answers, and the reward model that judges."""

    def __init__(
        self, config: SftSelectedConfig, sft: Path, reward_model: Path, prompts: Path
    ) -> None:
        self.config, self.tokenizer = config, load_tokenizer(sft / "model")
        rows = fitting_prompts(
            prompts / "validation.parquet",
            self.tokenizer,
            config.max_prompt_tokens,
            config.num_prompts,
        )
        self.prompts, self.too_long = rows.tokens, rows.too_long
        self.reward_model = load_scorer(reward_model / "model")
        self.contract: dict[str, Any] = {}

    def examine(self, folder: Path, base: Path | None) -> Epoch:
        """Responses of one epoch, scored."""
        network = _network(folder, base)
        limit = int(network.config.max_position_embeddings) - positions_taken(folder)
        self.contract = text_contract(self.tokenizer, limit)
        with computing_in(network.get_decoder(), self.config.precision):
            rollouts = self._sample(network)
        scores = score_responses(
            self.reward_model.scores, self.prompts, rollouts.tokens, self.tokenizer.pad_token_id
        )
        figures = json.loads((folder / "validation.json").read_text())
        return Epoch(
            reward=float(scores.double().mean()),
            eos_rate=float(np.mean(rollouts.finished)),
            response_tokens=float(np.mean([len(tokens) for tokens in rollouts.tokens])),
            validation_loss=figures["loss"],
        )

    def _sample(self, network: Any) -> Rollouts:
        config, count = self.config, len(self.prompts)
        engine = HFEngine(
            network,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return sample_responses(
            engine,
            self.prompts,
            Sampling(max_new_tokens=config.max_response_tokens, temperature=config.temperature),
            sampling_keys(config.seed, 0, list(range(count)), [0] * count),
            sequences_per_batch=config.sequences_per_batch,
        )


def _network(folder: Path, base: Path | None) -> Any:
    """An epoch's model: whole, or its adapter in the layers of the base."""
    if base is None:
        return load_causal_lm(folder)
    return network_of(load_adapted(base / "model", folder))


def _log(epochs: Sequence[Epoch], context: Context) -> None:
    for number, epoch in enumerate(epochs, start=1):
        figures = {
            "sft_selected/reward": epoch.reward,
            "sft_selected/eos_rate": epoch.eos_rate,
            "sft_selected/response_tokens": epoch.response_tokens,
            "loss/validation": epoch.validation_loss,
        }
        context.journal.log(number, figures)


def _publish(
    folder: Path, base: Path | None, tokenizer: Any, config: SftSelectedConfig, target: Path
) -> dict[str, str]:
    """The epoch as a model folder; what the contract says of its base."""
    if base is None:
        link_folder(folder, target)
        return {}
    adapted = load_adapted(base / "model", folder)
    return publish(adapted, tokenizer, target, base=base / "model", kind=config.peft)
