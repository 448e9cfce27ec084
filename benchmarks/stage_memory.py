"""Peak memory of every stage that trains, for a model of 135M parameters: one JSON line.

    python benchmarks/stage_memory.py
    python benchmarks/stage_memory.py --stages sft,dpo --options lora,lora_bf16

Random weights in the shape of SmolLM2-135M (30 layers of 576, vocabulary 49,152, tied), words for
tokens. Each stage's own `run`, as the pipeline calls it, with `steps` optimizer steps: loading,
training, validation, publishing. Sequences have `length` tokens, half prompt and half response, of
which `microbatch` go through a forward; PPO samples and trains on as many. A stage's process is
forked from one that has imported everything; measured is the largest resident set the kernel kept
of it (VmHWM, reset at its start), libraries included (`libraries_mib`).
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppo_memory import random_model, random_tokenizer

OPTIONS: dict[str, tuple[str, ...]] = {
    "full": (),
    "full_checkpointing": ("checkpointing",),
    "full_bf16": ("bf16",),
    "full_8bit": ("8bit",),
    "lora": ("lora",),
    "lora_checkpointing": ("lora", "checkpointing"),
    "lora_bf16": ("lora", "bf16"),
}
STAGES = ("sft", "reward_model", "ppo", "dpo")


@dataclass(kw_only=True)
class Workload:
    """`steps` optimizer steps of `microbatch` sequences of `length` tokens."""

    microbatch: int = 4
    length: int = 256
    rank: int = 16
    steps: int = 2
    threads: int = 1


def main() -> None:
    """Write the inputs, run every stage with every option."""
    options = parse()
    workload = Workload(**{name: getattr(options, name) for name in asdict(Workload())})
    peaks: dict[str, dict[str, Any]] = {}
    import_everything()
    with tempfile.TemporaryDirectory(prefix="stage_memory_") as name:
        folder = Path(name)
        forked(write_inputs, folder, workload)
        for stage in options.stages.split(","):
            for option in options.options.split(","):
                out = folder / "run"
                found = forked(run_stage, stage, set(OPTIONS[option]), folder, out, workload)
                peaks.setdefault(stage, {})[option] = found
                forked(remove, out)
                print(stage, option, found, file=sys.stderr, flush=True)
    figures = {"libraries_mib": round(resident("VmRSS")), "peak_mib": peaks}
    print(json.dumps({**asdict(workload), **figures}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in asdict(Workload()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--options", default=",".join(OPTIONS))
    return parser.parse_args()


def import_everything() -> None:
    """Once, not in every stage's process. Nothing is computed here: a fork would not survive it."""
    import bitsandbytes  # noqa: F401
    import trl.trainer.dpo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    from stages.step1_sft import sft  # noqa: F401
    from stages.step2_reward import reward_model  # noqa: F401
    from stages.step3_policy import dpo  # noqa: F401
    from stages.step3_policy.ppo import stage  # noqa: F401


def forked(work: Any, *arguments: Any) -> Any:
    """What `work` gives, in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        raise SystemExit(f"{work.__name__}{arguments[:2]} died") from None
    process.join()
    return answer


def _send(pipe: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    pipe.send(work(*arguments))


def resident(field: str) -> float:
    """MiB, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(field))
    return int(kib) / 1024


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def write_inputs(folder: Path, workload: Workload) -> None:
    """base; sft and reward_model, whole and as adapters on it; tables of random words."""
    from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
    from stages.lm.loading import load_causal_lm, model_hash, save_model
    from stages.lm.peft.adapters import adapt, adapt_classifier, adapter_of, save_adapter

    base, sft, judge = (folder / name / "model" for name in ("base", "sft", "reward_model"))
    for target in (base, sft):
        save_model(random_model(), random_tokenizer(), target)
    sha256 = model_hash(base)
    method = lora(workload)
    save_adapter(adapt(load_causal_lm(base), method, workload.steps), sft, sha256, method.kind)
    reward_model = new_reward_model(base, seed=0)
    save_reward_model(reward_model, load_reward_tokenizer(base), judge)
    adapted = adapt_classifier(reward_model.network, adapter_of(sft))
    save_adapter(adapted, judge, sha256, method.kind)
    write_tables(folder, workload)


def write_tables(folder: Path, workload: Workload) -> None:
    """As many rows as `steps` batches hold, and one batch of each to validate on."""
    from random import Random

    from ppo_memory import WORDS

    from stages.records.schemas import Comparison, Demonstration, Prompt, Text
    from stages.records.tables import write_table

    random, half = Random(0), workload.length // 2

    def words(count: int) -> str:
        return " ".join(random.choices(WORDS, k=count))

    def prompt() -> list[dict[str, str]]:
        return [{"role": "user", "content": words(half - 3)}]  # BOS and two marks

    def comparison() -> Comparison:
        return Comparison(
            prompt=prompt(),
            completions=[words(half - 1), words(half - 1)],
            source=["sft"] * 2,
            finished=[True] * 2,
            ranks=[1, 2],
        )

    for split, batches in {"train": workload.steps, "validation": 1}.items():
        rows = range(batches * workload.microbatch)
        shown = [Demonstration(prompt=prompt(), response=words(half - 1)) for _ in rows]
        write_table(folder / "demonstrations" / f"{split}.parquet", shown)
        write_table(folder / "comparisons" / f"{split}.parquet", [comparison() for _ in rows])
        write_table(
            folder / "prompts" / f"{split}.parquet", [Prompt(prompt=prompt()) for _ in rows]
        )
        texts = [Text(text=words(workload.length - 2)) for _ in rows]
        write_table(folder / "text" / f"{split}.parquet", texts)


def lora(workload: Workload) -> Any:
    from stages.lm.peft.config import PeftConfig, PeftKind

    return PeftConfig(kind=PeftKind.lora, rank=workload.rank)


def run_stage(stage: str, chosen: set[str], folder: Path, out: Path, workload: Workload) -> Any:
    """MiB at the stage's peak, and its seconds."""
    from stages.contracts import Context
    from stages.lm.process import prepare_process

    prepare_process(workload.threads, 0)
    (out / "out").mkdir(parents=True)
    started = time.perf_counter()
    where: dict[str, Any] = {"out": out / "out", "context": Context.at(out)}
    own = {"sft": run_sft, "reward_model": run_reward_model, "ppo": run_ppo, "dpo": run_dpo}
    own[stage](chosen, folder, where, workload)
    return {"mib": round(resident("VmHWM")), "seconds": round(time.perf_counter() - started)}


def values(chosen: set[str], workload: Workload) -> dict[str, Any]:
    """What all four configs have."""
    from stages.lm.precision import Precision

    found: dict[str, Any] = {"threads": workload.threads}
    found["gradient_checkpointing"] = "checkpointing" in chosen
    found["precision"] = Precision.bf16 if "bf16" in chosen else Precision.fp32
    return found


def optimizer(chosen: set[str]) -> dict[str, Any]:
    from stages.lm.adamw import AdamWKind

    return {"optimizer": AdamWKind.adamw_8bit if "8bit" in chosen else AdamWKind.adamw}


def kind(chosen: set[str]) -> Any:
    from stages.lm.peft.config import PeftKind

    return PeftKind.lora if "lora" in chosen else PeftKind.none


def on_base(chosen: set[str], folder: Path) -> dict[str, Path]:
    return {"base": folder / "base"} if "lora" in chosen else {}


def run_sft(chosen: set[str], folder: Path, where: dict[str, Any], workload: Workload) -> None:
    from stages.lm.peft.config import PeftConfig
    from stages.step1_sft import sft
    from stages.step1_sft.config import SftConfig

    config = SftConfig(
        **values(chosen, workload),
        **optimizer(chosen),
        epochs=1,
        batch_size=workload.microbatch,
        microbatch_size=workload.microbatch,
        residual_dropout=0.0,
        peft=lora(workload) if "lora" in chosen else PeftConfig(),
    )
    read = {name: folder / name for name in ("base", "demonstrations")}
    sft.run(config, **read, **where)


def run_reward_model(
    chosen: set[str], folder: Path, where: dict[str, Any], workload: Workload
) -> None:
    """Half as many comparisons as sequences a forward: each has two responses."""
    from reward.config import Encoding
    from stages.step2_reward import reward_model
    from stages.step2_reward.config import RewardModelConfig

    config = RewardModelConfig(
        **values(chosen, workload),
        **optimizer(chosen),
        peft=kind(chosen),
        batch_size=workload.microbatch // 2,
        epochs=0.5,
        encoding=Encoding.separate,
        microbatch_tokens=workload.microbatch * workload.length,
        max_length=workload.length,
    )
    read = {name: folder / name for name in ("sft", "comparisons", "demonstrations")}
    reward_model.run(config, **read, **on_base(chosen, folder), **where)


def run_ppo(chosen: set[str], folder: Path, where: dict[str, Any], workload: Workload) -> None:
    """One iteration of `steps` minibatches, as many documents as episodes."""
    from stages.step3_policy.ppo import stage
    from stages.step3_policy.ppo.config import PpoConfig

    half = workload.length // 2
    config = PpoConfig(
        **values(chosen, workload),
        **optimizer(chosen),
        peft=kind(chosen),
        iterations=1,
        rollout_batch_size=workload.steps * workload.microbatch,
        minibatch_size=workload.microbatch,
        microbatch_tokens=workload.microbatch * workload.length,
        sequences_per_batch=workload.microbatch,
        max_prompt_tokens=half,
        max_response_tokens=half,
        max_document_tokens=workload.length,
        ptx_ratio=1.0,
        sample_rows=0,
        validation_prompts=workload.microbatch,
    )
    read = {name: folder / name for name in ("reward_model", "prompts", "text")}
    stage.run(config, ppo_init=folder / "sft", **read, **on_base(chosen, folder), **where)


def run_dpo(chosen: set[str], folder: Path, where: dict[str, Any], workload: Workload) -> None:
    """Half as many pairs as sequences a forward."""
    from stages.step3_policy import dpo
    from stages.step3_policy.config import DpoConfig, Optimizer

    config = DpoConfig(
        **values(chosen, workload),
        optimizer=Optimizer(optimizer(chosen)["optimizer"].value),
        peft=kind(chosen),
        batch_size=workload.microbatch // 2,
        microbatch_size=workload.microbatch // 2,
        max_length=workload.length,
        warmup_steps=0,
    )
    read = {name: folder / name for name in ("sft", "comparisons")}
    dpo.run(config, **read, **on_base(chosen, folder), **where)


if __name__ == "__main__":
    main()
