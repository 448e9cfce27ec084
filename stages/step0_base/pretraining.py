"""Next-word pretraining of a small Llama on packed documents.

Dimension letters: N blocks, B blocks a step, L tokens a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from stages.contracts import Context, UserError
from stages.lm.attention import attention
from stages.lm.backends.base import SingleProcess
from stages.lm.batching import micro_batches
from stages.lm.learning import Figures, Forward, RankLearner
from stages.lm.logprobs import document_loss
from stages.lm.optimisation import OptimizerConfig, ScheduleConfig
from stages.lm.token_cache import TokenizedDocuments
from stages.lm.training import TrainingPlan, batch_indices, train_steps
from stages.step0_base.config import BaseConfig

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

VALIDATION_MAX_TOKENS = 4096  # padded tokens a forward


def new_llama(config: BaseConfig, tokenizer: "PreTrainedTokenizerBase") -> "LlamaForCausalLM":
    """A Llama with weights drawn from `config.seed`; input and output embeddings are one matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.max_length,
            initializer_range=config.init_std,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
            attn_implementation=attention(),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(
    model: "LlamaForCausalLM",
    train: TokenizedDocuments,
    validation: TokenizedDocuments,
    config: BaseConfig,
    context: Context,
) -> float:
    """Train in place; the mean cross-entropy (nats a token) on the validation documents."""
    blocks = pack(train.tokens, config.block_length)
    held_out = [document[: config.max_length] for document in validation]

    def validate() -> Figures:
        model.eval()
        loss = mean_document_loss(model, held_out)
        model.train()
        return {"loss/validation": loss}

    model.train()
    backend = SingleProcess(BlockLoss(model), OptimizerConfig.of(config, config.lr))
    learner = RankLearner(NextWord(blocks, config), backend)
    train_steps(learner, _plan(config, validate), context)
    model.eval()
    return mean_document_loss(model, held_out)


@dataclass
class NextWord:
    """What is learnt: the next word of blocks (N, L), the whole batch in one forward."""

    blocks: np.ndarray
    config: BaseConfig

    def pieces(self, step: int) -> list[Tensor]:
        """(B, L): the blocks of a step."""
        config = self.config
        rows = batch_indices(len(self.blocks), config.batch_size, config.seed, step)
        return [torch.from_numpy(self.blocks[rows].astype(np.int64))]

    def loss(self, forward: Forward, piece: Tensor) -> tuple[Tensor, Figures]:
        """Their mean cross-entropy."""
        return forward(piece), {}


def _plan(config: BaseConfig, validate: Callable[[], Figures]) -> TrainingPlan:
    return TrainingPlan(
        total_steps=config.steps,
        lr=config.lr,
        schedule=ScheduleConfig(warmup_steps=config.warmup_steps, end=config.final_lr_fraction),
        validate=validate,
        validate_every=config.validate_every,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
    )


def pack(stream: np.ndarray, block_length: int) -> np.ndarray:
    """(N, L): documents end to end, (T,), cut into blocks; the last, shorter one is dropped.

    A view: of documents on disk only the blocks that are indexed are read.
    """
    num_blocks = len(stream) // block_length
    if num_blocks == 0:
        raise UserError(
            "the text is shorter than one block",
            got=f"{len(stream)} tokens, base.block_length={block_length}",
            do="give more text or a smaller base.block_length",
        )
    return stream[: num_blocks * block_length].reshape(num_blocks, block_length)


def block_loss(model: "LlamaForCausalLM", blocks: Tensor) -> Tensor:
    """Mean cross-entropy (nats) over the B x (L-1) predicted tokens of blocks (B, L)."""
    logits = model(input_ids=blocks[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())


class BlockLoss(nn.Module):
    """A language model whose forward is the loss that is trained."""

    def __init__(self, model: "LlamaForCausalLM") -> None:
        super().__init__()
        self.model = model

    def forward(self, blocks: Tensor) -> Tensor:
        """As `block_loss`."""
        return block_loss(self.model, blocks)


@torch.no_grad()
def mean_document_loss(model: "LlamaForCausalLM", documents: Sequence[list[int]]) -> float:
    """Mean cross-entropy (nats a token) over whole documents."""
    groups = micro_batches([len(document) for document in documents], VALIDATION_MAX_TOKENS)
    pad_token_id = int(model.config.pad_token_id)
    sums = [document_loss(model, [documents[i] for i in group], pad_token_id) for group in groups]
    return float(sum(loss for loss, _ in sums)) / sum(count for _, count in sums)
