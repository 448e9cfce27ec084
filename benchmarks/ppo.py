"""How fast PPO is, and against TRL's: one JSON line.

    python benchmarks/ppo.py --iterations 5
    python benchmarks/ppo.py --peer .venv-trl/bin/python --eos-after 16

Random weights, no Ray, no hub; on a GPU if there is one. Each side runs in a process of its own
and makes one iteration at a time, in turn with the other, so that drift of the machine hits both.
Before that each side tries the micro-batches and keeps its fastest.

FLOPs are 2 M K N of the matrix products really made, counted once; the machine's rate is that of
2048-cubed products in the same dtype with the same threads, measured before and after each pair.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from ppo_workload import Workload, workload_options

HERE = Path(__file__).parent
PHASES = ("rollout", "scoring", "policy", "critic")
Replies = list[dict[str, float]]


class Side:
    """A process that makes iterations on request."""

    def __init__(self, python: str, script: str, workload: Workload) -> None:
        path = os.pathsep.join([str(HERE.parent), str(HERE)])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(workload.threads),
        }
        self.workload = workload
        self.process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(asdict(workload))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[1]} died; its messages are above")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Parse, choose micro-batches, measure in turn, print."""
    options = parse()
    ours = fastest(sys.executable, "ppo_ours.py", our_workloads(options))
    peers = fastest(options.peer, "ppo_trl.py", peer_workloads(options)) if options.peer else None
    sides = [side for side in (ours, peers) if side is not None]
    flops = [side.ask("count") for side in sides]
    load, rates = [os.getloadavg()[0]], [ours.ask("rate")["flop_per_s"]]
    times: list[Replies] = [[] for _ in sides]
    for _ in range(options.iterations):
        for side, replies in zip(sides, times, strict=True):
            replies.append(side.ask("time"))
        rates.append(ours.ask("rate")["flop_per_s"])
    load.append(os.getloadavg()[0])
    for side in sides:
        side.close()
    rate = median(rates)
    result = {
        **asdict(ours.workload),
        **figures(times[0], flops[0], ours.workload, rate),
        "phases": phases(times[0], flops[0], rate),
        "matrix_tflop_per_s": round(rate / 1e12, 4),
        "load": [round(x, 2) for x in load],
    }
    if peers is not None:
        result["peer"] = against(times, flops[1], peers.workload, rate)
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    workload_options(parser)
    parser.add_argument("--iterations", type=int, default=5, help="measured, of each side")
    parser.add_argument("--peer", help="the python of an environment with TRL 1.9.2")
    parser.add_argument("--peer-dtype", help="the peer's dtype, if another")
    parser.add_argument("--microbatches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--peer-microbatches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--peer-scored", type=int, nargs="+", default=[64])
    return parser.parse_args()


def our_workloads(options: argparse.Namespace) -> list[Workload]:
    shape = {name: value for name, value in vars(options).items() if name in asdict(Workload())}
    return [Workload(**shape, microbatch=size) for size in options.microbatches]


def peer_workloads(options: argparse.Namespace) -> list[Workload]:
    one = replace(our_workloads(options)[0], dtype=options.peer_dtype or options.dtype)
    return [
        replace(one, microbatch=size, scored=min(scored, one.batch))
        for size in options.peer_microbatches
        for scored in options.peer_scored
    ]


def fastest(python: str, script: str, workloads: list[Workload]) -> Side:
    """The side at the micro-batch where the better of two iterations is shortest; one warms up."""
    best, best_s = None, float("inf")
    for workload in workloads:
        side = Side(python, script, workload)
        side.ask("time")
        if len(workloads) == 1:
            return side
        seconds = min(side.ask("time")["s"] for _ in range(2))
        print(f"{script} micro-batch {workload.microbatch}: {seconds:.2f} s", file=sys.stderr)
        worse, best, best_s = (best, side, seconds) if seconds < best_s else (side, best, best_s)
        if worse is not None:
            worse.close()
    assert best is not None
    return best


def figures(
    replies: Replies, flops: dict[str, float], workload: Workload, rate: float
) -> dict[str, Any]:
    """The figures of one side; medians over its iterations."""
    seconds = median(reply["s"] for reply in replies)
    made = sum(flops.values())
    return {
        "s_per_iteration": round(seconds, 3),
        "episodes_per_s": round(workload.batch / seconds, 3),
        "tflop": round(made / 1e12, 4),
        "tflop_per_s": round(made / seconds / 1e12, 4),
        "share_of_matrix_rate": round(made / seconds / rate, 3),
        "all_s": [round(reply["s"], 3) for reply in replies],
    }


def phases(replies: Replies, flops: dict[str, float], rate: float) -> dict[str, dict[str, float]]:
    """Seconds, products and share of the matrix rate of each phase; `update` is both models'."""
    seconds = {name: median(reply[name] for reply in replies) for name in PHASES}
    seconds["update"] = median(reply["policy"] + reply["critic"] for reply in replies)
    made = {**flops, "update": flops["policy"] + flops["critic"]}
    return {
        name: {
            "s": round(seconds[name], 3),
            "tflop": round(made[name] / 1e12, 4),
            "share_of_matrix_rate": round(made[name] / seconds[name] / rate, 3),
        }
        for name in seconds
    }


def against(
    times: list[Replies], flops: dict[str, float], workload: Workload, rate: float
) -> dict[str, Any]:
    """The peer's figures, and how many times as fast ours is: the median over the pairs."""
    pairs = [theirs["s"] / ours["s"] for ours, theirs in zip(*times, strict=True)]
    return {
        "dtype": workload.dtype,
        "microbatch": workload.microbatch,
        "scored": workload.scored,
        **figures(times[1], flops, workload, rate),
        "times_as_fast": round(median(pairs), 3),
        "pairs": [round(pair, 3) for pair in pairs],
    }


if __name__ == "__main__":
    main()
