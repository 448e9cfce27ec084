"""What the reward model starts from: comparisons as token ids, and a network with a new head."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward.model import RewardModel, load_reward_tokenizer, new_reward_model, save_reward_model
from reward.ranked_prompts import RankedPrompt, TooLong, read_ranked_prompts
from stages.contracts import UserError
from stages.lm.activations import checkpoint_activations
from stages.lm.loading import load_config
from stages.lm.peft.adapters import adapt_classifier, adapter_of, check_base, publish
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import positions_taken
from stages.lm.peft.methods import check_family, train_biases
from stages.lm.precision import compute_in
from stages.step2_reward.config import Loss, OnTooLong, RewardModelConfig
from stages.step2_reward.held_out import without_groups

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 10  # rows that are too long, of each split


@dataclass(frozen=True, kw_only=True)
class Folders:
    """start: of the model that becomes the reward model. base: on which its adapter lies."""

    start: Path
    comparisons: Path
    base: Path | None = None


@dataclass(kw_only=True)
class Comparisons:
    """What is learnt from, and what is not. train: each with at least one untied pair."""

    train: list[RankedPrompt]
    validation: list[RankedPrompt]
    pad_token_id: int
    num_all_tied: int
    num_held_out: int
    too_long: Mapping[str, list[TooLong]]  # by split

    @property
    def metrics(self) -> dict[str, float]:
        """What was left out."""
        counts = {f"{split}_prompts_too_long": float(len(r)) for split, r in self.too_long.items()}
        return {
            "train_prompts_all_tied": float(self.num_all_tied),
            "train_prompts_held_out": float(self.num_held_out),
            **counts,
        }

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The first rows that are too long, to look at."""
        return [
            {"split": split, **asdict(row)}
            for split, rows in self.too_long.items()
            for row in rows[:SHOWN]
        ]


def read_comparisons(config: RewardModelConfig, folders: Folders) -> Comparisons:
    """Both splits as token ids.

    Raises:
        UserError: nothing to learn from, margins that the loss does not ask for, a row that is too
            long; it names file and row.
    """
    tokenizer = load_reward_tokenizer(folders.start)
    train, train_too_long = _read(config, folders.comparisons / "train.parquet", tokenizer)
    validation, too_long = _read(config, folders.comparisons / "validation.parquet", tokenizer)
    train = [train[row] for row in config.rows(len(train))]
    seen = without_groups(train, validation, config.held_out_groups)
    ranked = [prompt for prompt in seen if prompt.num_pairs]
    _check_untied(seen, "train")
    _check_untied(validation, "validation")
    _check_margins(config, ranked)
    return Comparisons(
        train=ranked,
        validation=validation,
        pad_token_id=int(tokenizer.pad_token_id),
        num_all_tied=len(seen) - len(ranked),
        num_held_out=len(train) - len(seen),
        too_long={"train": train_too_long, "validation": too_long},
    )


def _read(
    config: RewardModelConfig, path: Path, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[RankedPrompt], list[TooLong]]:
    prompts, too_long = read_ranked_prompts(path, tokenizer, config.max_length)
    if too_long and config.on_too_long is OnTooLong.error:
        first, more = too_long[0], len(too_long) - 1
        raise UserError(
            f"{path}, row {first.row}: prompt and response are longer than max_length",
            got=f"{first.tokens} tokens, max_length={config.max_length}"
            + (f", and {more} more rows" if more else ""),
            do="raise reward_model.max_length, or leave such rows out with "
            "reward_model.on_too_long=skip",
        )
    return prompts, too_long


def _check_untied(prompts: list[RankedPrompt], split: str) -> None:
    if not any(prompt.num_pairs for prompt in prompts):
        raise UserError(
            f"no comparison to {'learn from' if split == 'train' else 'judge by'}",
            got=f"{len(prompts)} {split} prompts whose completions all tie",
            do="lower labeler.tie_margin, or raise completions.k_max",
        )


def _check_margins(config: RewardModelConfig, ranked: list[RankedPrompt]) -> None:
    margins = [margin for prompt in ranked for _, _, margin in prompt.pairs or [] if margin]
    if margins and config.loss is not Loss.pairwise:
        raise UserError(
            "only reward_model.loss=pairwise asks for margins",
            got=f"loss={config.loss}, and {len(margins)} pairs with a margin",
            do="set reward_model.loss=pairwise, or give pairs with margin 0",
        )


def check_start(config: RewardModelConfig, folders: Folders) -> None:
    """Refuse a context that is too short, and an adapter on another base."""
    limit = int(load_config(folders.start).max_position_embeddings) - positions_taken(folders.start)
    if config.max_length > limit:
        raise UserError(
            "max_length is above the model's context",
            got=f"reward_model.max_length={config.max_length}, {folders.start} has {limit}",
            do=f"set reward_model.max_length={limit} or less",
        )
    if folders.base is not None:
        check_base(folders.base, {"sft": folders.start}, config.peft)


@dataclass(kw_only=True)
class Started:
    """A reward model to train; with an adapter on a base, PEFT's model of the same.

    in_float32: what makes it compute in float32 again, whatever it was trained in.
    """

    model: RewardModel
    in_float32: Callable[[], None]
    kind: PeftKind = PeftKind.none
    base: Path | None = None
    adapted: Any = None

    def publish(self, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> dict[str, str]:
        """Write what became of it; what the contract says of the base."""
        if self.base is None:
            save_reward_model(self.model, tokenizer, folder)
            return {}
        return publish(self.adapted, tokenizer, folder, base=self.base, kind=self.kind)


def start(config: RewardModelConfig, folders: Folders) -> Started:
    """The model with a new head: whole, or its adapter on the base."""
    model = new_reward_model(folders.base or folders.start, config.seed, config.peft)
    adapted = None
    if folders.base is not None:
        adapted = adapt_classifier(model.network, adapter_of(folders.start))
    elif config.peft is PeftKind.bitfit:
        check_family(config.peft, model.network)
        train_biases(model.network)
        model.network.score.requires_grad_(True)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return Started(
        model=model,
        in_float32=compute_in(model.network.base_model, config.precision),
        kind=config.peft,
        base=folders.base,
        adapted=adapted,
    )
