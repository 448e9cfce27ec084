"""Every family: what we compute of a base is what Transformers' own forward says, one by one."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.lm.batching import collate
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.logprobs import response_logprobs
from stages.lm.rollout import Sampling
from tests.families.models import FAMILIES

LENGTHS = [(11, 5), (3, 9), (7, 1)]  # tokens of prompt and response; windows are 6


def sequences(vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = torch.Generator().manual_seed(1)

    def tokens(length: int) -> list[int]:
        return torch.randint(vocabulary, (length,), generator=draw).tolist()

    return [tokens(p) for p, _ in LENGTHS], [tokens(r) for _, r in LENGTHS]


def reference(folder, prompts, responses) -> list[list[float]]:
    """A model as Transformers alone opens it, eager, one sequence, one token at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double()
        rows = [logits[len(prompt) - 1 + t].log_softmax(-1) for t in range(len(response))]
        found.append([float(row[token]) for row, token in zip(rows, response, strict=True)])
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_and_samples_equal_the_models_own(name, base_of) -> None:
    folder = base_of(name) / "model"
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    prompts, responses = sequences(len(tokenizer))
    expected = reference(folder, prompts, responses)

    with torch.no_grad():
        padded = response_logprobs(model, collate(prompts, responses, tokenizer.pad_token_id))
        wider = collate([*prompts, prompts[0] * 2], [*responses, responses[1]], 0)
        more_padding = response_logprobs(model, wider)
    for row, logprobs in enumerate(expected):
        width = len(logprobs)
        assert padded[row, :width].tolist() == pytest.approx(logprobs, abs=1e-5)
        assert more_padding[row, :width].tolist() == pytest.approx(logprobs, abs=1e-5)

    engine = HFEngine(
        model, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    keys = np.arange(len(prompts), dtype=np.uint64)
    sampled = engine.generate(prompts, Sampling(max_new_tokens=10), keys)
    recomputed = reference(folder, prompts, sampled.tokens)
    for found, logprobs in zip(sampled.logprobs, recomputed, strict=True):
        assert found == pytest.approx(logprobs, abs=1e-5)
