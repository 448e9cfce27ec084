"""What both sides of the PPO benchmark work on, and how work is counted. Needs torch and
transformers alone: the peer's interpreter reads this file too.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

EOS, PAD, FIRST_WORD = 2, 0, 3  # prompts hold neither, so nothing is cut by chance
aten = torch.ops.aten


@dataclass(kw_only=True)
class Workload:
    """The shape of the model and of an iteration. eos_after: mean response length; 0 = never."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    vocab: int = 2048
    prompt: int = 24
    response: int = 48
    batch: int = 64
    epochs: int = 4
    minibatches: int = 1
    dtype: str = "float32"
    eos_after: int = 0
    threads: int = 2
    microbatch: int = 16  # sequences a forward of the updates
    scored: int = 64  # sequences a forward without gradients; the peer's alone
    engine: str = "hf"
    clock: str = "wall"  # or "cpu": the process's own time, for one thread on a busy machine

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def now(self) -> float:
        """Seconds on the clock that was asked for."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def model_config(self, **changes: Any) -> Any:
        """A Llama with untied embeddings and an inner width of four times the hidden one."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=4 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.prompt + self.response,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=EOS,
            pad_token_id=PAD,
            **changes,
        )

    def prompts(self, count: int) -> list[list[int]]:
        """`count` prompts of random tokens, all of full length."""
        draw = np.random.default_rng(0)
        return draw.integers(FIRST_WORD, self.vocab, (count, self.prompt)).tolist()

    def lengths(self, iteration: int) -> np.ndarray:
        """(batch,): after how many tokens each response ends, EOS included; past the end: never.

        Every token ends the response with the same probability, chosen so that the mean length,
        cut at `response`, is `eos_after`.
        """
        if self.eos_after == 0:
            return np.full(self.batch, self.response + 1)
        draw = np.random.default_rng([1, iteration])
        return draw.geometric(end_probability(self.eos_after, self.response), self.batch)


def end_probability(mean: float, limit: int) -> float:
    """p of a geometric length L with E min(L, limit) = (1 - (1 - p)^limit) / p = `mean`."""
    low, high = 1e-9, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        long = (1 - (1 - middle) ** limit) / middle > mean
        low, high = (middle, high) if long else (low, middle)
    return low


def force_end(logits: Tensor, ends: Tensor) -> Tensor:
    """(B, V) logits after which EOS is certain where `ends` (B,), and impossible elsewhere."""
    logits = logits.clone()
    logits[:, EOS] = torch.where(ends, 1e4, -1e4).to(logits.dtype)
    return logits


def attention_flops(q: Any, k: Any, *_: Any, **__: Any) -> int:
    """Two products of T x T x head size a head. Shapes (B, heads, T, head size)."""
    batch, heads, rows, size = q
    return 2 * 2 * batch * heads * rows * k[2] * size


def attention_backward_flops(_: Any, q: Any, k: Any, *__: Any, **___: Any) -> int:
    """Five products: the scores again, and one for each of dV, dP, dQ, dK."""
    return attention_flops(q, k) * 5 // 2


def register_cpu_attention() -> None:
    """The counter knows attention kernels of GPUs only."""
    register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)(attention_flops)
    register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)(
        attention_backward_flops
    )


@contextmanager
def counted(flops: dict[str, float], name: str) -> Iterator[None]:
    """Add the matrix products made inside, 2 M K N each, to `flops[name]`."""
    with FlopCounterMode(display=False) as counter:
        yield
    flops[name] = flops.get(name, 0.0) + counter.get_total_flops()


def matrix_rate(workload: Workload, seconds: float = 1.0) -> float:
    """FLOP a second of 2048-cubed products: the best of many, what the machine can do."""
    size, device = 2048, workload.device
    dtype = getattr(torch, workload.dtype)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        synchronise(device)
        started = workload.now()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, workload.now() - started)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for what was queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Channel:
    """Requests on standard input and replies on standard output, a JSON line each.

    {"do": "time"} makes one iteration, {"do": "count"} makes one and counts its products, {"do":
    "rate"} measures the machine's. Whatever else a side prints goes to standard error.
    """

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def next(self) -> str | None:
        """What to do now; None at the end."""
        line = sys.stdin.readline()
        return json.loads(line)["do"] if line else None

    def reply(self, figures: dict[str, float]) -> None:
        self._replies.write(json.dumps(figures) + "\n")


def prepare() -> Workload:
    """The workload on the command line, its threads, and a counter that knows CPU attention."""
    workload = Workload(**json.loads(sys.argv[1]))
    torch.set_num_threads(workload.threads)
    register_cpu_attention()
    return workload


def workload_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field."""
    for name, default in asdict(Workload()).items():
        if name not in ("microbatch", "scored"):  # searched
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
