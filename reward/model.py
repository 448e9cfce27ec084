"""The reward model, and the critic that starts as its copy (InstructGPT §3.5, App. C.2, C.4).

A decoder whose unembedding is replaced by a projection to one scalar. The score of a response is
read at its last real token, found from lengths, never from `token == pad`. The folder on disk is an
ordinary `...ForSequenceClassification` with one label, a pad id that never occurs in text and
`reward_bias` in its config: Transformers alone gives `score + reward_bias`.

Dimension letters: B sequences, R tokens of the longest response, H hidden.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.contracts import UserError
from stages.lm.batching import SequenceBatch
from stages.lm.branches import Branches, last_hidden_states
from stages.lm.loading import (
    how_to_open,
    load_tokenizer,
    save_model,
    spare_special_token,
)
from stages.lm.logprobs import hidden_at_responses, hidden_states
from stages.lm.peft import quantised
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import ADAPTER, is_merged
from stages.lm.peft.virtual_tokens import add_unmerged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RewardModel(nn.Module):
    """One scalar a response. It stays in eval mode, in training too: no dropout outside SFT."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.eval()

    @property
    def reward_bias(self) -> float:
        """What is subtracted so that demonstrations score zero on average."""
        return float(self.network.config.reward_bias)

    def forward(self, batch: SequenceBatch | Branches) -> Tensor:
        """(N,) float32: raw scores, encoded as the batch is; what backends wrap."""
        if isinstance(batch, Branches):
            return self.branch_scores(batch)
        return self.raw_scores(batch)

    def raw_scores(self, batch: SequenceBatch) -> Tensor:
        """(B,) float32: scores before the shift, what training works on."""
        hidden = hidden_states(self.network.base_model, batch.input_ids)
        rows = torch.arange(len(hidden), device=hidden.device)
        return project(self.network.score, hidden[rows, batch.lengths - 1])

    def branch_scores(self, branches: Branches) -> Tensor:
        """(N,) float32: the same of responses that share prompts, each prompt encoded once."""
        return project(self.network.score, last_hidden_states(self.network.base_model, branches))

    def scores(self, batch: SequenceBatch) -> Tensor:
        """(B,) float32: normalised scores, zero on average over the demonstrations."""
        return self.raw_scores(batch) - self.reward_bias


class Critic(nn.Module):
    """The value function: one scalar a response token, a network of its own."""

    def __init__(self, backbone: Any, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.eval()

    def values(self, batch: SequenceBatch) -> Tensor:
        """(B, R) float32: the value before each response token; 0 where masked."""
        values = project(self.head, hidden_at_responses(self.backbone, batch))
        return values.masked_fill(~batch.response_mask, 0.0)


def project(head: nn.Module, hidden: Tensor) -> Tensor:
    """(..., H) to (...) float32: a head with one output."""
    scalar: Tensor = head(hidden)[..., 0]
    return scalar.float()


def new_reward_model(folder: Path, seed: int, kind: PeftKind = PeftKind.none) -> RewardModel:
    """A reward model on the language model in `folder`, its head drawn from `seed`.

    kind: what is going to be trained; qlora's base is in 4 bits.

    Raises:
        UserError: Transformers has no classifier of this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    if kind is PeftKind.qlora:
        network = quantised.load(AutoModelForSequenceClassification, folder, num_labels=1)
    else:
        network = _classifier(folder, num_labels=1)
    assert is_merged(folder / ADAPTER), f"{folder} is no plain language model"
    network.config.reward_bias = 0.0
    network.config.get_text_config().pad_token_id = load_reward_tokenizer(folder).pad_token_id
    initialise_head(network.score, seed)
    return RewardModel(network)


def _classifier(folder: Path, **changes: Any) -> Any:
    """Transformers' `...ForSequenceClassification` of the model in `folder`, float32."""
    from transformers import AutoModelForSequenceClassification as Classifier

    return Classifier.from_pretrained(folder, **how_to_open(Classifier, folder, **changes))


def initialise_head(head: nn.Linear, seed: int) -> None:
    """Weights from N(0, 1/(H + 1)), bias 0 (lm-human-preferences; Stiennon et al. 2020).

    Stiennon et al. print a standard deviation of 1/(H + 1); their code takes the root.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.empty(head.weight.shape, device="cpu")
    nn.init.normal_(drawn, std=1 / math.sqrt(head.in_features + 1), generator=generator)
    with torch.no_grad():
        head.weight.copy_(drawn)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def load_reward_model(folder: Path, *, foreign: bool = False) -> RewardModel:
    """The reward model saved in `folder`, in eval mode.

    foreign: a classifier with one label that others trained may do as well; its scores are taken
    as they are.
    """
    network = _classifier(folder)
    add_unmerged(network, folder)
    if foreign:
        _adopt(network, folder)
    if "reward_bias" not in network.config.to_dict():
        raise UserError(
            f"{folder} holds no reward model of this pipeline",
            got="a config.json without reward_bias",
            do='add "reward_bias": 0.0 to its config.json if it is a classifier with one label',
        )
    return RewardModel(network)


def _adopt(network: Any, folder: Path) -> None:
    """Give a classifier of one label the one key that ours have besides."""
    if network.config.num_labels != 1 or "score" not in dict(network.named_children()):
        raise UserError(
            f"{folder} holds no reward model",
            got=f"{type(network).__name__} with {network.config.num_labels} labels",
            do="give a decoder's ...ForSequenceClassification folder with one label",
        )
    if "reward_bias" not in network.config.to_dict():
        network.config.reward_bias = 0.0


def save_reward_model(
    model: RewardModel, tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write model, bias and tokenizer as a Transformers folder."""
    save_model(model.network, tokenizer, folder)


def critic_from(model: RewardModel) -> Critic:
    """A critic that starts as the reward model: its values are the normalised per-token scores.

    It takes over the model's decoder.
    """
    weight = model.network.score.weight
    head = nn.Linear(weight.shape[1], 1)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.fill_(-model.reward_bias)
    return Critic(model.network.base_model, head)


def critic_from_policy(model: Any) -> Critic:
    """A critic that starts as a language model, its head 0: so is every value (LMHP).

    It takes over the model's decoder.
    """
    head = nn.Linear(model.get_output_embeddings().in_features, 1)  # OPT-350M: not hidden_size
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Critic(model.base_model, head)


def load_reward_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a pad token that never occurs in text.

    Transformers finds the end of a text by its pad id. Where pad is EOS, or missing, another
    special token takes its place, one that the chat template does not write.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _unused_special_token(tokenizer)
    return tokenizer


def _unused_special_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    if token := spare_special_token(tokenizer):
        return token
    raise UserError(
        "the reward model needs a pad token of its own",
        got=f"pad token {tokenizer.pad_token!r}, EOS {tokenizer.eos_token!r}",
        do="make the base again: its stage gives the tokenizer one",
    )
