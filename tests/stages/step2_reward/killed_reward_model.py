"""Train the reward model in this process and kill it with SIGKILL at a chosen moment.

    python killed_reward_model.py FOLDER MOMENT

FOLDER holds sft/, comparisons/ and demonstrations/ and gets the work. MOMENT: `step:N` after
optimizer step N, `save:N` in the middle of the N-th save, `never`.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

from stages.contracts import Context
from stages.lm import checkpoints
from stages.lm.process import prepare_process
from stages.step2_reward import reward_model
from stages.step2_reward.config import RewardModelConfig


def main(folder, moment):
    kind, _, number = moment.partition(":")
    context = Context.at(folder / "work")
    if kind == "step":
        context.journal.advance = lambda done, figures=None: kill() if done == int(number) else None
    elif kind == "save":
        kill_in_save(int(number))
    prepare_process(1, 0)
    reward_model.run(
        RewardModelConfig(lr=1e-2, batch_size=4, epochs=2.0, max_length=64, checkpoint_every=3),
        sft=folder / "sft",
        comparisons=folder / "comparisons",
        demonstrations=folder / "demonstrations",
        out=folder / "out",
        context=context,
    )


def kill_in_save(number):
    """Half of the file is written, under its temporary name."""
    save, saves = checkpoints.torch.save, count(1)

    def save_or_die(state, file):
        save(state, file)
        if next(saves) == number:
            file.truncate(file.tell() // 2)
            kill()

    checkpoints.torch.save = save_or_die


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
