"""AdaLoRA's rank allocation in a trainer of TRL (Zhang et al. 2023, Algorithm 1).

Each low-rank adapter is P diag(E) Q. After every step the singular values E that matter least, over
all layers, are set to zero, until `rank` a layer are left on average. What matters is averaged over
the steps, so a checkpoint holds the averages too.
"""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.lm.checkpoints import read_state, write_state

FILE = "ranks.pt"
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class RankAllocation(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Prunes between an optimizer's step and the next gradient. Comes before what marks
    checkpoints as complete."""

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Continue with the averages of the checkpoint that is resumed."""
        if state.global_step > 0:
            tuner = kwargs["model"].base_model
            saved = read_state(_checkpoint(args, state) / FILE)
            tuner.peft_config["default"].rank_pattern = saved.pop("rank_pattern")
            vars(tuner.rankallocator).update(saved)

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """The gradients of the step are still there."""
        kwargs["model"].base_model.update_and_allocate(state.global_step + 1)

    def on_save(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Beside the weights."""
        tuner = kwargs["model"].base_model
        averages = {name: vars(tuner.rankallocator)[name] for name in AVERAGES}
        pattern = tuner.peft_config["default"].rank_pattern
        write_state({**averages, "rank_pattern": pattern}, _checkpoint(args, state) / FILE)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
