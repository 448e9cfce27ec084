"""What an exported policy has kept: its greedy words and its perplexity, beside the original's.

The original answers through our own rollout engine, the export through Transformers' `generate`;
so an export in float32 shows that the two agree, a quantised one what the lost bits cost.

Dimension letters: B sequences, T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from stages.lm.batching import collate, micro_batches, pad_left
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.prompts import fitting_prompts
from stages.lm.rollout import Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.lm.tokens import encode_document, encode_prompt, encode_response
from stages.records.schemas import Demonstration, Text
from stages.records.tables import iterate_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_PER_FORWARD = 1_024  # logits of a whole batch are alive: 1,024 x V floats
SEQUENCES_PER_BATCH = 16

Pairs = list[tuple[list[int], list[int]]]  # token ids: what is given, what is predicted


@dataclass(kw_only=True)
class Material:
    """What both models are asked. texts: by table, what they must predict."""

    prompts: list[list[int]]
    texts: dict[str, Pairs]
    max_new_tokens: int


@dataclass(kw_only=True)
class Fidelity:
    """How close an export is.

    same_tokens: share of the original's greedy tokens that the export, given the same words before,
    finds likeliest too. same_responses: share of prompts whose whole greedy response is the same.
    perplexity: by table, of the original and of the export.
    """

    prompts: int
    tokens: int
    same_tokens: float
    same_responses: float
    perplexity: dict[str, tuple[float, float]]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """What it is, of the original, of the export."""
        yield f"greedy tokens the same, of {self.tokens:,}", "", f"{100 * self.same_tokens:.2f}%"
        whole = f"{100 * self.same_responses:.1f}%"
        yield f"whole greedy responses the same, of {self.prompts}", "", whole
        for name, (original, export) in self.perplexity.items():
            yield f"perplexity of {name}", f"{original:.4f}", f"{export:.4f}"


class Predicted(NamedTuple):
    """Summed cross-entropy in nats, tokens predicted, and how many of them were the likeliest."""

    loss: float
    tokens: int
    likeliest: int


class Original(NamedTuple):
    """What the original says to the material."""

    responses: list[list[int]]
    losses: dict[str, Predicted]


def read_material(
    folders: Mapping[str, Path], model: Path, *, rows: int, max_length: int, max_new_tokens: int
) -> Material:
    """The first `rows` of the run's validation tables: `prompts`, `demonstrations` and `text`.

    folders: of the assets; a table that is not there is left out. What is longer than `max_length`
    tokens is left out too, of documents what lies beyond.
    """
    tokenizer = load_tokenizer(model)
    texts: dict[str, Pairs] = {}
    if path := _table(folders, "demonstrations"):
        texts["demonstrations"] = [
            pair
            for row, _ in zip(iterate_table(path, Demonstration), range(rows), strict=False)
            if sum(map(len, pair := _demonstration(tokenizer, row))) <= max_length
        ]
    if path := _table(folders, "text"):
        documents = zip(iterate_table(path, Text), range(rows), strict=False)
        tokens = [encode_document(tokenizer, row.text)[:max_length] for row, _ in documents]
        texts["text"] = [(document[:1], document[1:]) for document in tokens]
    path = folders["prompts"] / "validation.parquet"
    prompts = fitting_prompts(path, tokenizer, max_length - max_new_tokens, rows).tokens
    texts = {name: pairs for name, pairs in texts.items() if pairs}
    return Material(prompts=prompts, texts=texts, max_new_tokens=max_new_tokens)


def _table(folders: Mapping[str, Path], asset: str) -> Path | None:
    path = folders[asset] / "validation.parquet" if asset in folders else None
    return path if path and path.is_file() else None


def _demonstration(
    tokenizer: "PreTrainedTokenizerBase", row: Demonstration
) -> tuple[list[int], list[int]]:
    prompt = encode_prompt(tokenizer, row.prompt)
    return prompt, encode_response(tokenizer, row.response, finished=True)


def ask_original(model: Path, material: Material) -> Original:
    """Greedy responses by our engine, and what the texts cost."""
    network, tokenizer = load_causal_lm(model), load_tokenizer(model)
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id is not None
    engine = HFEngine(
        network, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    owners = range(len(material.prompts))
    responses = sample_responses(
        engine,
        material.prompts,
        Sampling(max_new_tokens=material.max_new_tokens, greedy=True),
        sampling_keys(0, 0, owners, [0] * len(owners)),
        sequences_per_batch=SEQUENCES_PER_BATCH,
    ).tokens
    return Original(responses=responses, losses=_losses(network, material))


def compare(original: Original, export: Any, material: Material) -> Fidelity:
    """The figures of an export that Transformers or PEFT has opened."""
    pairs = list(zip(material.prompts, original.responses, strict=True))
    same = predict(export, pairs)
    responses = generate(export, material.prompts, material.max_new_tokens)
    equal = [ours == theirs for ours, theirs in zip(original.responses, responses, strict=True)]
    losses = _losses(export, material)
    return Fidelity(
        prompts=len(pairs),
        tokens=same.tokens,
        same_tokens=same.likeliest / same.tokens,
        same_responses=sum(equal) / len(equal),
        perplexity={
            name: (perplexity(original.losses[name]), perplexity(losses[name])) for name in losses
        },
    )


def _losses(model: Any, material: Material) -> dict[str, Predicted]:
    return {name: predict(model, pairs) for name, pairs in material.texts.items()}


def perplexity(found: Predicted) -> float:
    """The exponential of the mean cross-entropy a token."""
    return math.exp(found.loss / found.tokens)


@torch.no_grad()
def predict(model: Any, pairs: Pairs) -> Predicted:
    """How well a model predicts the second part of each pair from the first."""
    lengths = [len(given) + len(wanted) for given, wanted in pairs]
    loss, tokens, likeliest = 0.0, 0, 0
    for rows in micro_batches(lengths, TOKENS_PER_FORWARD):
        batch = collate([pairs[row][0] for row in rows], [pairs[row][1] for row in rows], 0)
        mask = batch.response_mask
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        before = (batch.response_positions - 1)[mask]
        sequence = torch.arange(len(rows))[:, None].expand(mask.shape)[mask]
        logits, targets = output.logits[sequence, before].float(), batch.response_tokens[mask]
        loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += len(targets)
        likeliest += int((logits.argmax(-1) == targets).sum())
    return Predicted(loss=loss, tokens=tokens, likeliest=likeliest)


@torch.no_grad()
def generate(model: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy responses by Transformers, with the export's own EOS, their last token, and pad."""
    config = model.generation_config
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    responses: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), SEQUENCES_PER_BATCH):
        rows = order[start : start + SEQUENCES_PER_BATCH]
        tokens = pad_left([prompts[row] for row in rows], config.pad_token_id)
        lengths = torch.tensor([len(prompts[row]) for row in rows])
        mask = torch.arange(tokens.shape[1]) >= tokens.shape[1] - lengths[:, None]
        output = model.generate(
            input_ids=tokens,
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        for row, found in zip(rows, output[:, tokens.shape[1] :].tolist(), strict=True):
            responses[row] = _until(found, config.eos_token_id)
    return responses


def _until(tokens: list[int], eos: int) -> list[int]:
    """Up to the first EOS; what follows is padding."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
