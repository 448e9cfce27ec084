"""The rollout engines on the same prompts: one JSON line.

    python benchmarks/rollouts.py --dtype bfloat16 --threads 2 --repeats 5

vLLM (in its own process, built by `make vllm`) and the trainer's own engine sample in turn, on a
Llama of random weights: tokens a second (best of the repeats), how long vLLM takes to start and to
take new weights, and how far its log-probs are from the trainer's, before and after an optimizer
step.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.lm.batching import collate, pad_right
from stages.lm.engines.config import EngineDtype, RolloutConfig
from stages.lm.engines.hf import HFEngine
from stages.lm.engines.remote import RemoteEngine
from stages.lm.engines.vllm_client import vllm_engine
from stages.lm.logprobs import response_logprobs
from stages.lm.rollout import RolloutEngine, Rollouts, Sampling, sampling_keys
from stages.step3_policy.ppo.mismatch import difference_figures

EOS, PAD = 1, 0


def main() -> None:
    """Parse, measure, print."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = new_model(options)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        engine = start(options, Path(folder))
        try:
            print(json.dumps({**vars(options), **measure(options, model, engine)}))
        finally:
            engine.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sizes = {"hidden": 256, "layers": 6, "heads": 8, "vocab": 2048, "prompt": 24, "response": 48}
    for name, default in {**sizes, "batch": 64, "threads": 2, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16", choices=[d.value for d in EngineDtype])
    parser.add_argument("--python", default=RolloutConfig().python)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the step between two weights")
    return parser.parse_args()


def new_model(options: argparse.Namespace) -> Any:
    """A Llama whose logits are spread as a trained one's."""
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=8 * options.hidden // 3 // 16 * 16,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=options.prompt + options.response,
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).eval()


def start(options: argparse.Namespace, folder: Path) -> RemoteEngine:
    config = RolloutConfig(
        python=options.python, dtype=EngineDtype(options.dtype), threads=options.threads
    )
    return vllm_engine(
        config,
        folder,
        eos_token_id=EOS,
        max_length=options.prompt + options.response,
        max_sequences=options.batch,
        log=folder / "engine.log",
    )


def measure(options: argparse.Namespace, model: Any, engine: RemoteEngine) -> dict[str, float]:
    generator = np.random.default_rng(0)
    prompts = generator.integers(2, options.vocab, (options.batch, options.prompt)).tolist()
    started = time.perf_counter()
    engine.load_weights(0, model.named_parameters())
    figures = {"vllm_start_s": time.perf_counter() - started}
    own = HFEngine(model, eos_token_id=EOS, pad_token_id=PAD)
    rates: dict[str, list[float]] = {"hf": [], "vllm": []}
    rollouts = sample(options, engine, prompts, -1)  # warms up
    for repeat in range(options.repeats):
        for name, each in {"hf": own, "vllm": engine}.items():
            started = time.perf_counter()
            rollouts = sample(options, each, prompts, repeat)
            rates[name].append(sum(map(len, rollouts.tokens)) / (time.perf_counter() - started))
    figures |= {f"{name}_tokens_per_s": max(column) for name, column in rates.items()}
    figures |= named("before", model, prompts, rollouts)
    take_step(options, model, prompts, rollouts)
    figures |= named("stale", model, prompts, rollouts)
    started = time.perf_counter()
    engine.load_weights(1, model.named_parameters())
    figures["load_s"] = time.perf_counter() - started
    return figures | named("after", model, prompts, sample(options, engine, prompts, 0))


def sample(
    options: argparse.Namespace, engine: RolloutEngine, prompts: list[list[int]], stream: int
) -> Rollouts:
    rows = range(len(prompts))
    keys = sampling_keys(0, stream & 0xFFFF, rows, rows)
    return engine.generate(prompts, Sampling(max_new_tokens=options.response), keys)


def named(when: str, model: Any, prompts: list[list[int]], rollouts: Rollouts) -> dict[str, float]:
    batch = collate(prompts, rollouts.tokens, PAD)
    with torch.no_grad():
        logprobs = response_logprobs(model, batch)
    engine_logprobs = pad_right(rollouts.logprobs, 0.0)
    figures = difference_figures(logprobs, engine_logprobs, batch.response_mask)
    return {f"{name.removeprefix('rollout/')}_{when}": value for name, value in figures.items()}


def take_step(
    options: argparse.Namespace, model: Any, prompts: list[list[int]], rollouts: Rollouts
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    response_logprobs(model, collate(prompts, rollouts.tokens, PAD)).mean().backward()
    optimizer.step()


if __name__ == "__main__":
    main()
