"""Run a stage in this process and kill it with SIGKILL at a chosen moment.

    python killed_stage.py STAGE FOLDER MOMENT

STAGE: sft or dpo. FOLDER holds the inputs and gets the work. MOMENT: `step:N` after optimizer step
N, `save:N` in the middle of the N-th save, `never`.
"""

import os
import signal
import sys
from pathlib import Path

from stages.contracts import Context
from stages.lm import trl_runs
from stages.lm.process import prepare_process


def main(stage, folder, moment):
    kind, _, number = moment.partition(":")
    context = Context.at(folder / "work")
    if kind == "step":
        kill_at_step(context, int(number))
    elif kind == "save":
        kill_in_save(int(number))
    prepare_process(1, 0)
    {"sft": run_sft, "dpo": run_dpo}[stage](folder, context)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(context, step):
    context.journal.advance = lambda done, figures=None: kill() if done == step else None


def kill_in_save(number):
    """The checkpoint's files are there, one of them cut short, and no marker."""
    mark_complete, saves = trl_runs.mark_complete, iter(range(1, 1000))

    def mark_or_die(checkpoint):
        if next(saves) == number:
            weights = checkpoint / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:100])
            kill()
        mark_complete(checkpoint)

    trl_runs.mark_complete = mark_or_die


def run_sft(folder, context):
    from stages.step1_sft import sft
    from stages.step1_sft.config import SftConfig

    config = SftConfig(lr=5e-3, epochs=3, batch_size=4, microbatch_size=4, checkpoint_every=4)
    inputs = {"base": folder / "base", "demonstrations": folder / "demonstrations"}
    sft.run(config, **inputs, out=folder / "out", context=context)


def run_dpo(folder, context):
    from stages.step3_policy import dpo
    from stages.step3_policy.config import DpoConfig

    config = DpoConfig(lr=1e-3, epochs=1, batch_size=4, microbatch_size=4, checkpoint_every=4)
    inputs = {"sft": folder / "base", "comparisons": folder / "comparisons"}
    dpo.run(config, **inputs, out=folder / "out", context=context)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
