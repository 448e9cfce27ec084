"""The real vLLM on a small random Llama: slow, and only where its environment was built."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.contracts import Context, UserError
from stages.lm.batching import collate, pad_right
from stages.lm.engines.config import Correction, EngineDtype, EngineKind, RolloutConfig
from stages.lm.engines.hf import HFEngine
from stages.lm.engines.remote import EngineRestartWarning, RemoteEngine
from stages.lm.engines.vllm_client import vllm_engine
from stages.lm.logprobs import response_logprobs
from stages.lm.rollout import Rollouts, Sampling, sampling_keys, truncated
from stages.step3_policy.ppo.mismatch import difference_figures
from tests.stages.step3_policy.ppo.small_ppo import small_config, write_inputs

ROOT = Path(__file__).parents[4]
PYTHON = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not PYTHON.is_file(), reason=f"no vLLM at {PYTHON}: make vllm, or set VLLM_PYTHON"
    ),
]

BOUNDS = {EngineDtype.float32: 1e-4, EngineDtype.bfloat16: 0.02}
# The last two fill vLLM's cache blocks of 128 tokens, so that stale ones would show.
PROMPTS = [[5, 7, 8], [6, 9], [7], *([[3 + i % 17 for i in range(150)] + [t] for t in (4, 5)])]
PROMPTS = PROMPTS * 4
SAMPLING = Sampling(max_new_tokens=24, temperature=0.9)
KEYS = sampling_keys(3, 1, range(len(PROMPTS)), [0] * len(PROMPTS))


def write_llama(folder: Path, tokenizer: Any, *, tied: bool) -> Path:
    """A Llama with attention heads of a size that vLLM has for the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from stages.lm.loading import save_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(LlamaForCausalLM(config), tokenizer, folder / "model")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    return write_llama(tmp_path_factory.mktemp("tied"), tiny_tokenizer, tied=True)


@pytest.fixture(
    scope="module",
    params=[(EngineDtype.float32, True), (EngineDtype.bfloat16, False)],
    ids=["float32-tied", "bfloat16-untied"],
)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any
) -> Iterator[tuple[RemoteEngine, Any, float]]:
    """The engine, the model in training, and the bound on their difference."""
    from stages.lm.loading import load_causal_lm

    dtype, tied = request.param
    folder = write_llama(tmp_path_factory.mktemp("llama"), tiny_tokenizer, tied=tied)
    engine = vllm_engine(
        RolloutConfig(python=str(PYTHON), dtype=dtype),
        folder / "model",
        eos_token_id=tiny_tokenizer.eos_token_id,
        max_length=256,
        max_sequences=8,
        log=folder / "engine.log",
    )
    yield engine, load_causal_lm(folder / "model"), BOUNDS[dtype]
    engine.close()


def difference(rollouts: Rollouts, model: Any) -> float:
    """The mean over tokens, as the trainer takes it."""
    batch = collate(PROMPTS, rollouts.tokens, pad_token_id=0)
    with torch.no_grad():
        logprobs = response_logprobs(model, batch, SAMPLING.temperature)
    engine_logprobs = pad_right(rollouts.logprobs, 0.0)
    figures = difference_figures(logprobs, engine_logprobs, batch.response_mask)
    return figures["rollout/logprob_diff_mean"]


def test_engine_and_trainer_agree_before_and_after_a_step(
    started: tuple[RemoteEngine, Any, float], tiny_tokenizer: Any
) -> None:
    """Sampled, then a real optimizer step, then the new weights: each time within the bound.

    Without the sync the difference is far above it, prompts in the engine's cache included.
    """
    engine, model, bound = started
    rollouts = engine.generate(PROMPTS, SAMPLING, KEYS)
    assert difference(rollouts, model) < bound
    eos = tiny_tokenizer.eos_token_id
    assert any(rollouts.finished)
    for tokens, logprobs, finished in zip(
        rollouts.tokens, rollouts.logprobs, rollouts.finished, strict=True
    ):
        assert len(tokens) == len(logprobs)
        assert finished == (tokens[-1] == eos)
        assert eos not in tokens[:-1]
        assert finished or len(tokens) == SAMPLING.max_new_tokens

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    batch = collate(PROMPTS, rollouts.tokens, pad_token_id=0)
    response_logprobs(model, batch).sum().backward()
    optimizer.step()
    assert difference(engine.generate(PROMPTS, SAMPLING, KEYS), model) > 5 * BOUNDS["bfloat16"]
    engine.load_weights(1, model.named_parameters())
    rollouts = engine.generate(PROMPTS, SAMPLING, KEYS)
    assert rollouts.version == 1
    assert difference(rollouts, model) < bound


def test_a_response_is_a_function_of_its_key(started: tuple[RemoteEngine, Any, float]) -> None:
    """Whatever it is batched with, in whatever order, and after a SIGKILL too."""
    engine, model, _ = started
    engine.load_weights(2, model.named_parameters())
    together = engine.generate(PROMPTS, SAMPLING, KEYS).tokens
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    apart = [
        engine.generate([PROMPTS[row] for row in rows], SAMPLING, KEYS[rows]).tokens
        for rows in np.array_split(order, 3)
    ]
    assert [row for part in apart for row in part] == [together[row] for row in order]
    others = sampling_keys(4, 1, range(len(PROMPTS)), [0] * len(PROMPTS))
    assert engine.generate(PROMPTS, SAMPLING, others).tokens != together

    assert engine._server is not None
    os.kill(engine._server.process.pid, signal.SIGKILL)
    with pytest.warns(EngineRestartWarning, match="SIGKILL"):
        again = engine.generate(PROMPTS, SAMPLING, KEYS)
    assert (again.tokens, again.version) == (together, 2)


@pytest.mark.parametrize(
    "changes",
    [{"greedy": True}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.7}],
    ids=str,
)
def test_evaluation_sampling_means_the_same_there(
    started: tuple[RemoteEngine, Any, float], tiny_tokenizer: Any, changes: dict[str, Any]
) -> None:
    """Log-probs of first tokens under our own truncation; greedy responses token for token."""
    engine, model, bound = started
    if bound > 1e-3:
        pytest.skip("rounding moves the edge of a truncation")
    engine.load_weights(3, model.named_parameters())
    sampling = Sampling(max_new_tokens=8, **changes)
    answers = engine.generate(PROMPTS, sampling, KEYS)
    if sampling.greedy:
        eos = tiny_tokenizer.eos_token_id
        own = HFEngine(model, eos_token_id=eos, pad_token_id=0)
        assert answers.tokens == own.generate(PROMPTS, sampling, KEYS).tokens
        return
    for prompt, tokens, logprobs in zip(PROMPTS, answers.tokens, answers.logprobs, strict=True):
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([prompt])).logits[:, -1].log_softmax(-1)
        expected = truncated(whole, sampling)[0, tokens[0]]
        assert logprobs[0] == pytest.approx(float(expected), abs=1e-3)


def test_a_mistake_of_the_call_is_told_with_the_log(folder: Path) -> None:
    engine = vllm_engine(
        RolloutConfig(python=str(PYTHON)),
        folder / "nowhere",
        eos_token_id=2,
        max_length=64,
        max_sequences=4,
        log=folder / "nowhere.log",
    )
    with pytest.raises(UserError, match="failed in start") as caught:
        engine.generate([[5]], SAMPLING, KEYS[:1])
    assert "nowhere" in caught.value.got


def test_ppo_trains_with_it_one_update_ahead(folder: Path, tmp_path: Path) -> None:
    """The whole stage; what it logs, and that nothing of the engine is left."""
    from stages.step3_policy.ppo.stage import run

    inputs = write_inputs(folder, tmp_path / "inputs")
    rollout = RolloutConfig(
        kind=EngineKind.vllm,
        python=str(PYTHON),
        async_steps=1,
        correction=Correction.mask,
        max_logprob_diff=0.05,
    )
    context = Context.at(tmp_path / "run")
    run(small_config(rollout=rollout), **inputs, out=tmp_path / "out", context=context)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line)["values"] for line in lines][1:]
    assert len(figures) == 3
    for values in figures:
        assert 0 < values["rollout/logprob_diff_mean"] < 0.05
        assert 0.5 < values["rollout/correction_mean"] < 1.5
    assert "started in" in (context.checkpoints / "rollout_engine.log").read_text()
