"""Packing: several demonstrations in one row, so that short ones leave no padding to compute.

TRL packs (`trl.pack_dataset`); here each token keeps the position that it had alone. From positions
that start anew Transformers makes a block-diagonal mask: no demonstration sees another. That holds
for families that read `position_ids`; a probe of the model refuses the others (ALiBi, recurrent
states). A row's first token, and each demonstration's, carries no loss: nothing comes before it.
"""

from collections.abc import Sequence as Rows
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.data_utils import pack_dataset

from stages.contracts import UserError
from stages.lm.batching import pad_right
from stages.lm.data_order import data_order
from stages.step1_sft.config import FineTuningConfig, Packing
from stages.step1_sft.sequences import NO_LOSS, Sequence

PROBES = (7, 5)  # tokens of two sequences
ALIKE = 1e-3  # logits of a probe, packed and apart; float32 leaves about 1e-6 of their size


def packed(sequences: Rows[Sequence], config: FineTuningConfig) -> list[Sequence]:
    """Rows of at most `max_length` tokens; the sequences themselves where nothing is packed.

    bfd keeps every sequence whole. wrapped lays them one after another, in an order drawn from the
    seed, and cuts every `max_length` tokens: the rest of a cut one does not see its beginning.
    """
    if config.packing is Packing.none:
        return list(sequences)
    order = data_order(len(sequences), 1, config.seed)
    chosen = [sequences[index] for index in order]
    rows = Dataset.from_dict(
        {
            "input_ids": [sequence.input_ids for sequence in chosen],
            "labels": [[NO_LOSS, *sequence.labels[1:]] for sequence in chosen],
            "position_ids": [list(range(len(sequence.input_ids))) for sequence in chosen],
        }
    )
    together = {"batch_size": len(chosen)}  # else only neighbours share rows
    table = pack_dataset(rows, config.max_length, config.packing.value, map_kwargs=together)
    return [
        Sequence(input_ids=row["input_ids"], labels=row["labels"], position_ids=row["position_ids"])
        for row in table
    ]


class PackedCollator:
    """Rows to tensors. Without an attention mask, so that positions make the mask.

    Padding has position 0 throughout: each such token is a sequence of its own.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.padding = {"input_ids": pad_token_id, "labels": NO_LOSS, "position_ids": 0}

    def __call__(self, rows: Rows[dict[str, list[int]]]) -> dict[str, Tensor]:
        """(B, T) each."""
        return {
            name: pad_right([row[name] for row in rows], padding)
            for name, padding in self.padding.items()
        }


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Refuse a model in which a sequence sees the one that is packed before it."""
    was_training = model.training
    model.eval()
    tokens = torch.arange(sum(PROBES)) % model.config.get_text_config().vocab_size
    positions = torch.cat([torch.arange(length) for length in PROBES])
    together = model(input_ids=tokens[None], position_ids=positions[None], use_cache=False).logits
    apart = [model(input_ids=part[None], use_cache=False).logits for part in tokens.split(PROBES)]
    model.train(was_training)
    alone = torch.cat(apart, dim=1)
    largest = float((together - alone).abs().max() / alone.abs().max())
    if not largest <= ALIKE:
        raise UserError(
            f"{model.config.model_type} cannot be packed: demonstrations would see one another",
            got=f"logits of two packed sequences differ by {largest:.2g} from those of each alone",
            do="set packing=none; group_by_length saves most of the padding",
        )
