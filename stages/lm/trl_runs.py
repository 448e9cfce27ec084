"""What the stages that train through TRL share: arguments, journal, checkpoints, a clean stop.

TRL computes losses and steps; here is decided when to log, to save, to stop, which checkpoint to
trust, and the schedule (`stages.lm.optimisation`). The order of data is laid out before
(`stages.lm.data_order`). Nothing is printed, nothing leaves the machine.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from stages.contracts import Context, InterruptedRunError
from stages.lm.backends.base import copy_weights
from stages.lm.optimisation import NonFiniteError, ScheduleConfig, lr_factor
from stages.lm.precision import Precision
from stages.lm.trl_checkpoints import checkpoint_step, keep_only, latest_checkpoint, mark_complete

Figures = Mapping[str, float]
WEIGHTS = "model.safetensors"
AfterStep = Callable[[int, nn.Module], Figures]


@dataclass(kw_only=True)
class TrlRun:
    """How a training run goes, whatever its loss.

    figures: from what the trainer logs to what the journal gets besides loss, rate and gradient
    norm. after_step(step, model): called after each optimizer step with the number of steps done;
    what it returns is logged (validation, for one). It must draw no random number.
    """

    schedule: ScheduleConfig
    log_every: int
    checkpoint_every: int
    figures: Callable[[Figures], Figures]
    after_step: AfterStep


def common_arguments(
    folder: Path,
    *,
    batch_size: int,
    microbatch_size: int,
    seed: int,
    precision: Precision = Precision.fp32,
) -> dict[str, Any]:
    """TrainingArguments that every run has: float32, one epoch read in order, no output.

    Logging, saving and validation are decided by `StageCallback`, so their strategies are off.
    """
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": microbatch_size,
        "gradient_accumulation_steps": batch_size // microbatch_size,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "seed": seed,
        "use_cpu": torch.get_default_device().type == "cpu",
        "bf16": False,  # what computes in it is for the stage to say (`stages.lm.precision`)
        "fp16": precision is Precision.fp16,  # for Accelerate's loss scaling
        "activation_checkpointing": False,
        "use_cache": True,  # only what the saved config says; TRL's losses run without a cache
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


class StageTrainer:
    """Mixed into a TRL trainer: our schedule, a stop at non-finite gradients, no telemetry."""

    run: TrlRun

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The schedule of `stages.lm.optimisation`, the same in every stage."""
        schedule = self.run.schedule
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[attr-defined]  # the trainer's own
            lambda step: lr_factor(schedule, step, num_training_steps),
        )
        return self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]  # the trainer's own
        scaled = self.args.fp16  # type: ignore[attr-defined]  # then the step is left out
        if not math.isfinite(norm) and not scaled:
            raise NonFiniteError(f"the gradient norm is {float(norm)}")
        return norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What is trained, by name; PEFT's own files would leave a prefix's MLP out."""
        assert output_dir is not None
        del state_dict
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), Path(output_dir) / WEIGHTS)  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(checkpoint) / WEIGHTS)
        copy_weights(saved, model or self.model)  # type: ignore[attr-defined]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the artifact's manifest says how the model was made."""

    def _send_telemetry(self) -> None:
        """Not wanted."""


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name."""
    named = model.named_parameters()
    return {name: p.detach().contiguous() for name, p in named if p.requires_grad}


class StageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """After each step: tell the journal, and decide whether to log, save or stop."""

    def __init__(self, run: TrlRun, context: Context) -> None:
        self.run, self.context = run, context
        self.interrupted = False
        self._extra: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        self._last_log = (0, 0.0)

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Open the bar at the first step to do."""
        self.context.journal.start(state.max_steps)
        self._last_log = (state.global_step, time.perf_counter())

    def on_step_end(self, _args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validate where due, then set the flags that the trainer acts on."""
        step, last = state.global_step, state.global_step == state.max_steps
        self._extra = dict(self.run.after_step(step, kwargs["model"]))
        self.interrupted = not last and self.context.should_stop()
        due = not last and step % self.run.checkpoint_every == 0
        control.should_save = due or self.interrupted
        # The trainer averages its figures since the last log: a log at every checkpoint keeps the
        # curves of a resumed run those of an uninterrupted one.
        due = last or step % self.run.log_every == 0
        control.should_log = due or control.should_save or bool(self._extra)
        control.should_training_stop = control.should_training_stop or self.interrupted
        self.context.journal.advance(step, self._shown)

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any
    ) -> None:
        """Pass on the figures we define; the trainer's closing summary has none of them."""
        if "loss" not in logs:
            return
        step, now = state.global_step, time.perf_counter()
        figures = {
            "loss/train": logs["loss"],
            "grad_norm": logs["grad_norm"],
            "lr": logs["learning_rate"],
            "time/step_s": (now - self._last_log[1]) / (step - self._last_log[0]),
        }
        self.context.journal.log(step, {**figures, **self.run.figures(logs), **self._extra})
        self._last_log, self._shown = (step, now), {"loss": logs["loss"]}

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """The checkpoint is written: mark it, then drop the one before."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_complete(checkpoint)
        keep_only(checkpoint, checkpoint.parent)


def train(trainer: Any, run: TrlRun, context: Context) -> None:
    """Train from the latest complete checkpoint, if there is one.

    Raises InterruptedRunError after writing a checkpoint when the stage was asked to stop.
    """
    folder = Path(trainer.args.output_dir)
    latest = latest_checkpoint(folder)
    keep_only(latest, folder)
    context.journal.rewind(checkpoint_step(latest) if latest else 0)
    trainer.run = run
    trainer.remove_callback(PrinterCallback)
    callback = StageCallback(run, context)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    if callback.interrupted:
        raise InterruptedRunError(f"stopped after step {trainer.state.global_step}")
