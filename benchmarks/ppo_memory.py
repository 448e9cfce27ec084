"""Peak memory of PPO-ptx with LoRA, all four roles in one process, against TRL's LoRA SFT of the
same model: one JSON line.

    python benchmarks/ppo_memory.py
    python benchmarks/ppo_memory.py --model FOLDER     # a model of one's own instead

The same micro-batch, sequence length, adapters and dtype (float32) on both sides, no activation
checkpointing on either, each in a fresh process. Ours is the whole loop: sampling, scoring, policy,
pretraining text, critic, average, validation, checkpoint. Measured is the peak resident set that
the kernel keeps for a process (VmHWM), libraries included.

Without --model: random weights in the shape of SmolLM2-135M, which take the same memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORDS = [f"w{number}" for number in range(200)]


@dataclass(kw_only=True)
class Workload:
    """Sequences of `length` tokens, the second half a response; `microbatch` of them a forward."""

    microbatch: int = 4
    length: int = 256
    rank: int = 16
    episodes: int = 8
    steps: int = 2  # of SFT, and minibatches of PPO's one iteration
    threads: int = 2


def main() -> None:
    """Write the models, run both sides, compare."""
    options = parse()
    workload = Workload(**{name: getattr(options, name) for name in asdict(Workload())})
    if options.side:
        sides = {"prepare": prepare, "ours": ours, "trl": trl}
        sides[options.side](Path(options.folder), workload, options.model)
        return
    with tempfile.TemporaryDirectory(prefix="ppo_memory_") as folder:
        child("prepare", folder, workload, options.model)
        peer = child("trl", folder, workload, options.model)
        own = child("ours", folder, workload, options.model)
    ratio = round(own["peak_mib"] / peer["peak_mib"], 3)
    print(json.dumps({**asdict(workload), "ours": own, "trl_sft": peer, "ratio": ratio}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in asdict(Workload()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--model", help="a Hugging Face folder with a chat template and a pad token"
    )
    parser.add_argument("--side", choices=("prepare", "ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(side: str, folder: str, workload: Workload, model: str | None) -> dict[str, float]:
    """A fresh process; what it prints last."""
    given = [f"--{name}={value}" for name, value in asdict(workload).items()]
    given += [f"--model={model}"] if model else []
    done = subprocess.run(
        [sys.executable, __file__, f"--side={side}", f"--folder={folder}", *given],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(workload.threads),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def reply() -> None:
    """The last line of a side: the peak of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"peak_mib": round(int(kib) / 1024, 1)}))


def prepare(folder: Path, workload: Workload, model: str | None) -> None:
    """The base, a new adapter of SFT, and one of a reward model."""
    from reward.model import new_reward_model
    from stages.lm.loading import load_causal_lm, load_tokenizer, save_model
    from stages.lm.peft.adapters import adapt, adapt_classifier, adapter_of, save_adapter
    from stages.lm.peft.config import PeftKind

    base = Path(model) if model else folder / "base"
    if not model:
        save_model(random_model(), random_tokenizer(), base)
    tokenizer, network = load_tokenizer(base), load_causal_lm(base)
    config, sha256 = network.config, "0" * 64
    adapted = adapt(network, peft_config(workload), total_steps=workload.steps)
    save_adapter(adapted, folder / "start", sha256, PeftKind.lora)
    reward_model = new_reward_model(base, seed=0).network
    judge = adapt_classifier(reward_model, adapter_of(folder / "start"))
    save_adapter(judge, folder / "reward_model", sha256, PeftKind.lora)
    for name, settings in {"start": config, "reward_model": reward_model.config}.items():
        settings.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    print("{}")


def random_model() -> Any:
    """SmolLM2-135M's shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def random_tokenizer() -> Any:
    from stages.lm.vocabulary import word_tokenizer

    return word_tokenizer(WORDS)


def peft_config(workload: Workload) -> Any:
    from stages.lm.peft.config import PeftConfig, PeftKind

    return PeftConfig(kind=PeftKind.lora, rank=workload.rank)


def trl(folder: Path, workload: Workload, model: str | None) -> None:
    """SFT of random sequences with loss on the second half."""
    import numpy as np
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from stages.lm.loading import load_tokenizer
    from stages.lm.peft.methods import library_config
    from stages.lm.trl_runs import common_arguments

    base, half = Path(model) if model else folder / "base", workload.length // 2
    count = workload.steps * workload.microbatch
    rows = np.random.default_rng(0).integers(10, 200, (count, workload.length)).tolist()
    labels = [[-100] * half + row[half:] for row in rows]
    arguments = common_arguments(
        folder / "trl", batch_size=workload.microbatch, microbatch_size=workload.microbatch, seed=0
    )
    trainer = SFTTrainer(
        model=plain_model(base),
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": labels}),
        processing_class=load_tokenizer(base),
        peft_config=library_config(peft_config(workload), workload.steps),
    )
    trainer.train()
    reply()


def plain_model(folder: Path) -> Any:
    """As TRL's users load it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def ours(folder: Path, workload: Workload, model: str | None) -> None:
    """An iteration of PPO-ptx on random prompts of half the length."""
    import numpy as np

    from stages.contracts import Context
    from stages.lm.loading import load_tokenizer
    from stages.step3_policy.ppo.config import PpoConfig
    from stages.step3_policy.ppo.data import PpoData, PromptSet
    from stages.step3_policy.ppo.loading import Folders, load_parts
    from stages.step3_policy.ppo.loop import PpoLoop
    from stages.step3_policy.ppo.roles import Roles

    half = workload.length // 2
    config = PpoConfig(**ppo_values(workload))
    folders = Folders(
        start=folder / "start",
        reward_model=folder / "reward_model",
        base=Path(model) if model else folder / "base",
    )
    drawn = np.random.default_rng(0).integers(10, 200, (32, half)).tolist()
    prompts = PromptSet(messages=[[]] * len(drawn), tokens=drawn)
    data = PpoData(
        tokenizer=load_tokenizer(folders.start),
        train=prompts,
        validation=prompts.take(range(workload.microbatch)),
        documents=[" ".join(WORDS * 10)] * 32,
        config=config,
    )
    roles = Roles(**load_parts(config, folders, config.roles()))
    context = Context.at(folder / "ours")
    PpoLoop(roles=roles, data=data, config=config, context=context).train()
    reply()


def ppo_values(workload: Workload) -> dict[str, Any]:
    """One iteration, as many documents as episodes."""
    from stages.lm.peft.config import PeftKind

    half = workload.length // 2
    return {
        "peft": PeftKind.lora,
        "threads": workload.threads,
        "iterations": 1,
        "rollout_batch_size": workload.episodes,
        "minibatch_size": workload.episodes // workload.steps,
        "microbatch_tokens": workload.microbatch * workload.length,
        "sequences_per_batch": workload.episodes,
        "max_prompt_tokens": half,
        "max_response_tokens": half,
        "max_document_tokens": workload.length,
        "ptx_ratio": 1.0,
        "checkpoint_every": 1,
        "sample_rows": 0,
    }


if __name__ == "__main__":
    main()
