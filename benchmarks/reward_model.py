"""Comparison sets a second of the reward model's training: one JSON line.

    python benchmarks/reward_model.py --k 9 --prompt 128 --completion 64

One optimizer step on the same comparison sets, three ways, each in a process of its own, in turn,
best of `--repeats`: (a) a prompt encoded once for all its responses, (b) a copy for each response,
(c) TRL's RewardTrainer on all pairs. The same random Llama in float32, no gradient checkpointing,
the same tokens a micro-batch; beside it TRL with its default micro-batch and checkpointing.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing.connection import Connection
from random import Random
from typing import Any

PAD, EOS, FIRST_WORD = 0, 2, 3


@dataclass(frozen=True, kw_only=True)
class Workload:
    """sets: comparison sets an optimizer step; k: completions of each; lengths in tokens."""

    k: int = 9
    prompt: int = 128
    completion: int = 64
    sets: int = 8
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    vocab: int = 2048
    microbatch_tokens: int = 4096
    threads: int = 2
    repeats: int = 5
    default_trl: bool = False

    def comparisons(self) -> list[tuple[list[int], list[list[int]]]]:
        """(prompt, responses from best to worst) of each set."""
        rng = Random(0)

        def tokens(length: int) -> list[int]:
            return [rng.randrange(FIRST_WORD, self.vocab) for _ in range(length)]

        return [
            (tokens(self.prompt), [tokens(self.completion) for _ in range(self.k)])
            for _ in range(self.sets)
        ]

    def network(self) -> Any:
        """A Llama with one score, random weights."""
        import torch
        from transformers import LlamaConfig, LlamaForSequenceClassification

        torch.manual_seed(0)
        return LlamaForSequenceClassification(
            LlamaConfig(
                vocab_size=self.vocab,
                hidden_size=self.hidden,
                intermediate_size=4 * self.hidden,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.heads,
                num_labels=1,
                pad_token_id=PAD,
                eos_token_id=EOS,
            )
        )


def main() -> None:
    """Parse, measure, print."""
    workload = parse()
    sides = {
        "shared_prompt": Side(ours, "shared", workload),
        "separate": Side(ours, "separate", workload),
        "trl_pairs": Side(trl, "pairs", workload),
        "trl_pairs_default": Side(trl, "pairs", replace(workload, default_trl=True)),
    }
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(workload.repeats + 1):  # the first warms up
        for name, side in sides.items():
            seconds = side.step()
            best[name] = min(best[name], seconds)
    for side in sides.values():
        side.end()
    rates = {f"{name}_per_s": round(workload.sets / seconds, 3) for name, seconds in best.items()}
    peer = rates["trl_pairs_per_s"]
    ratios = {
        f"{name}_against_trl": round(rates[f"{name}_per_s"] / peer, 2)
        for name in ("shared_prompt", "separate")
    }
    print(json.dumps({**workload.__dict__, **rates, **ratios}))


def parse() -> Workload:
    """An option for each number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in Workload().__dict__.items():
        if not isinstance(default, bool):
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return Workload(**vars(parser.parse_args()))


class Side:
    """One way, in a process that makes an optimizer step when asked."""

    def __init__(self, run: Callable[..., None], way: str, workload: Workload) -> None:
        spawned = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawned.Pipe()
        self.process = spawned.Process(target=run, args=(way, workload, theirs), daemon=True)
        self.process.start()

    def step(self) -> float:
        """Seconds of one step."""
        self.pipe.send("step")
        seconds: float = self.pipe.recv()
        return seconds

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join(timeout=30)


def ours(way: str, workload: Workload, pipe: Connection) -> None:
    """Steps of the reward-model stage."""
    from stages.lm.attention import attention
    from stages.lm.process import prepare_process

    prepare_process(workload.threads, seed=0)
    attention()
    from reward.encoding import SEPARATE, SHARED
    from reward.model import RewardModel
    from reward.ranked_prompts import RankedPrompt
    from stages.lm.backends.base import SingleProcess
    from stages.lm.learning import RankLearner
    from stages.lm.optimisation import OptimizerConfig
    from stages.step2_reward.config import RewardModelConfig
    from stages.step2_reward.learning import LearnRankings

    network = workload.network()
    network.set_attn_implementation(attention())
    config = RewardModelConfig(
        batch_size=workload.sets, microbatch_tokens=workload.microbatch_tokens
    )
    objective = LearnRankings(
        config=config,
        train=[
            RankedPrompt(prompt=prompt, responses=responses, ranks=[*range(1, workload.k + 1)])
            for prompt, responses in workload.comparisons()
        ],
        pad_token_id=PAD,
        encoding=SHARED if way == "shared" else SEPARATE,
    )
    backend = SingleProcess(RewardModel(network), OptimizerConfig.of(config, config.lr))
    learner = RankLearner(objective, backend)
    while pipe.recv() is not None:
        started = time.perf_counter()
        learner.train(0, config.lr)
        pipe.send(time.perf_counter() - started)


def trl(way: str, workload: Workload, pipe: Connection) -> None:
    """Steps of TRL's trainer, which waits for a request after each."""
    del way
    os.dup2(2, 1)  # libraries print as they are loaded
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer

    torch.set_num_threads(workload.threads)

    class Steps(TrainerCallback):
        """A step a request."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if pipe.recv() is None:
                raise SystemExit
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pipe.send(time.perf_counter() - self.started)

    pairs = [
        {"chosen_ids": prompt + responses[better], "rejected_ids": prompt + responses[worse]}
        for prompt, responses in workload.comparisons()
        for better, worse in combinations(range(workload.k), 2)
    ]
    arguments = RewardConfig(
        output_dir=tempfile.mkdtemp(prefix="reward_benchmark_"),
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        max_length=None,
        max_steps=10_000,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **micro_batches(workload, len(pairs)),
    )
    RewardTrainer(
        model=workload.network(),
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer(workload.vocab),
        callbacks=[Steps()],
    ).train()


def micro_batches(workload: Workload, pairs: int) -> dict[str, Any]:
    """One step for all pairs: micro-batches of as many tokens as ours, or TRL's default of 8."""
    if workload.default_trl:
        most, checkpointing = 8, True
    else:
        most = workload.microbatch_tokens // (2 * (workload.prompt + workload.completion))
        checkpointing = False
    size = max(number for number in range(1, max(1, most) + 1) if pairs % number == 0)
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": pairs // size,
        "gradient_checkpointing": checkpointing,
    }


def tokenizer(vocab: int) -> Any:
    """What TRL wants to have; the pairs are token ids already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(vocab)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w1")),
        pad_token="w0", eos_token="w2", unk_token="w1",
    )  # fmt: skip


if __name__ == "__main__":
    main()
