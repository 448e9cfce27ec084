"""Peak memory and time of the log-probs of a large vocabulary, forward and backward, against the
plain computation over all logits and against TRL's fused head: one JSON line.

    python benchmarks/logprob_memory.py                    # needs 17 GiB for the plain one
    python benchmarks/logprob_memory.py --plain_batch 1    # needs 5

Each side in a fresh process. Measured is the highest resident set the kernel kept (VmHWM, reset
before), less what was resident with weights and hidden states made and no gradient yet: logits,
what the backward keeps, and the gradients themselves. `cpu_s` is the process's own time, of all
threads, which other work on the machine changes little. With `plain_batch` below `batch` the plain
side's memory is computed: all of it but the head's gradient is linear in the batch.
`max_difference` is the largest absolute difference of a value or gradient between a side and the
plain one, for batches of `plain_batch`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FIGURES = ("logprobs", "hidden_gradient", "head_gradient")


@dataclass(kw_only=True)
class Workload:
    """`batch` responses of `tokens` tokens."""

    vocabulary: int = 151_936
    hidden: int = 1024
    tokens: int = 2048
    batch: int = 4
    plain_batch: int = 4
    threads: int = 2


def main() -> None:
    """Run every side, compare."""
    options = parse()
    workload = Workload(**{name: getattr(options, name) for name in asdict(Workload())})
    if options.side:
        measure(options.side, workload, options.batch_here, Path(options.folder))
        return
    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="logprob_memory_") as folder:
        sides["plain"] = child("plain", workload, workload.plain_batch, folder)
        for side in ("ours", "trl"):
            same = child(side, workload, workload.plain_batch, folder)
            sides[side] = (
                same
                if workload.batch == workload.plain_batch
                else child(side, workload, workload.batch, folder)
            )
            sides[side]["max_difference"] = differences(Path(folder), side)
    whole = plain_at_batch(workload, sides["plain"]["peak_mib"])
    ratios = {side: round(sides[side]["peak_mib"] / whole, 3) for side in ("ours", "trl")}
    figures = {"plain_mib_at_batch": round(whole), "ratio_to_plain": ratios}
    print(json.dumps({**asdict(workload), **sides, **figures}))


def plain_at_batch(workload: Workload, peak_mib: float) -> float:
    """What `peak_mib` at `plain_batch` is at `batch`: the head's gradient stays as large."""
    gradient = workload.vocabulary * workload.hidden * 4 / 2**20
    return gradient + (peak_mib - gradient) * workload.batch / workload.plain_batch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in asdict(Workload()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--batch_here", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(side: str, workload: Workload, batch: int, folder: str) -> dict[str, Any]:
    """A fresh process; what it prints last."""
    given = [f"--{name}={value}" for name, value in asdict(workload).items()]
    own = [f"--side={side}", f"--batch_here={batch}", f"--folder={folder}"]
    done = subprocess.run(
        [sys.executable, __file__, *own, *given],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "OMP_NUM_THREADS": str(workload.threads),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(side: str, workload: Workload, batch: int, folder: Path) -> None:
    """Forward and backward once; the figures of `plain_batch` to files."""
    import torch

    torch.manual_seed(0)
    rows = batch * workload.tokens
    head = torch.nn.Linear(workload.hidden, workload.vocabulary, bias=False)
    torch.nn.init.normal_(head.weight, std=workload.hidden**-0.5)
    hidden = torch.randn(rows, workload.hidden, requires_grad=True)
    targets, weights = torch.randint(workload.vocabulary, (rows,)), torch.randn(rows)
    logprobs_of = SIDES[side]()
    before = reset_peak()
    started = time.process_time()
    logprobs = logprobs_of(head, hidden, targets)
    logprobs.backward(weights)
    seconds, peak = time.process_time() - started, resident("VmHWM")
    if batch == workload.plain_batch:
        for name, values in zip(FIGURES, (logprobs, hidden.grad, head.weight.grad), strict=True):
            torch.save(values.detach(), folder / f"{side}_{name}.pt")
    print(json.dumps({"peak_mib": round(peak - before, 1), "cpu_s": round(seconds, 1)}))


def plain() -> Callable[..., Any]:
    """All logits at once."""
    return lambda head, hidden, targets: (
        head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    )


def ours() -> Callable[..., Any]:
    """What every stage of this project calls."""
    from stages.lm.logprobs import token_figures

    return lambda head, hidden, targets: token_figures(head, hidden, targets, 1.0, False)[0]


def trl() -> Callable[..., Any]:
    """What TRL's SFT and DPO trainers call, in chunks of the size that they take."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    return lambda head, hidden, targets: ChunkedLogProbFunction.apply(
        hidden, head.weight, None, targets, 1.0, CHUNK, None, 1.0, ()
    )[0]


SIDES = {"plain": plain, "ours": ours, "trl": trl}


def reset_peak() -> float:
    """MiB resident now; from here on VmHWM is the highest after this."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> float:
    """MiB, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(field))
    return int(kib) / 1024


def differences(folder: Path, side: str) -> dict[str, float]:
    """Of each figure, the largest one to the plain side's."""
    import torch

    found = {}
    for name in FIGURES:
        own, other = (torch.load(folder / f"{s}_{name}.pt", mmap=True) for s in (side, "plain"))
        parts = zip(own.split(8192), other.split(8192), strict=True)
        found[name] = float(f"{max(float((a - b).abs().max()) for a, b in parts):.2g}")
    return found


if __name__ == "__main__":
    main()
