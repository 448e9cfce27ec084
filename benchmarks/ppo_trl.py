"""The peer's side of the PPO benchmark: TRL 1.9.2, the last release with a PPO trainer.

Its trainer owns the loop, so a callback stops at the end of each iteration, answers the request and
waits for the next one. Nothing of the trainer is replaced; where responses end, a logits processor
puts the same lengths as ours. What differs from ours by its nature: log-probs come from the logits
of generation (no forward of their own), logits are made for the prompt too, the gradient is not
clipped, and responses that ended are worked on at full length.
"""

import functools
import os
import sys
import tempfile
from typing import Any

import torch
from ppo_workload import (
    EOS,
    PAD,
    Channel,
    Workload,
    counted,
    force_end,
    matrix_rate,
    prepare,
    synchronise,
)


class ForcedEnds:
    """A logits processor: the responses of a batch end at the lengths drawn for it."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.part = workload, -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called once a token; a batch may be generated in several parts."""
        position = input_ids.shape[1] - self.workload.prompt
        self.part += position == 0
        iteration, part = divmod(self.part, self.workload.batch // len(scores))
        lengths = self.workload.lengths(iteration)[part * len(scores) :][: len(scores)]
        ends = torch.from_numpy(lengths == position + 1).to(scores.device)
        return force_end(scores, ends)


def make_trainer(workload: Workload, stepper: Any) -> Any:
    """PPOTrainer with random models and no files, one optimizer step a minibatch."""
    from datasets import Dataset
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification
    from trl.experimental.ppo import PPOTrainer

    torch.manual_seed(0)
    policy = LlamaForCausalLM(workload.model_config(attn_implementation="sdpa"))
    judge, critic = (
        LlamaForSequenceClassification(
            workload.model_config(num_labels=1, attn_implementation="sdpa")
        )
        for _ in "ab"
    )
    if workload.eos_after > 0:
        policy.generate = functools.partial(
            policy.generate, logits_processor=[ForcedEnds(workload)]
        )
    # Many batches: in the last one of the data it would step after every micro-batch.
    rows = Dataset.from_dict({"input_ids": workload.prompts(workload.batch * 200)})
    return PPOTrainer(
        args=arguments(workload),
        processing_class=tokenizer(),
        model=policy,
        ref_model=None,
        reward_model=judge,
        value_model=critic,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=lambda part: {"input_ids": torch.tensor([row["input_ids"] for row in part])},
        callbacks=[stepper],
    )


def arguments(workload: Workload) -> Any:
    """Our algorithm's numbers in its words.

    It steps once in `gradient_accumulation_steps` micro-batches, whatever `num_mini_batches` says:
    more than one optimizer step an epoch needs micro-batches as large as the minibatch.
    """
    from trl.experimental.ppo import PPOConfig

    whole = workload.minibatches > 1
    return PPOConfig(
        output_dir=tempfile.mkdtemp(prefix="ppo_benchmark_"),
        use_cpu=workload.device.type == "cpu",
        bf16=workload.dtype == "bfloat16",
        gradient_checkpointing=False,
        per_device_train_batch_size=workload.batch if whole else workload.microbatch,
        gradient_accumulation_steps=1 if whole else workload.batch // workload.microbatch,
        num_mini_batches=workload.minibatches,
        num_ppo_epochs=workload.epochs,
        local_rollout_forward_batch_size=workload.scored,
        total_episodes=workload.batch * 10_000,
        response_length=workload.response,
        stop_token="eos" if workload.eos_after > 0 else None,
        missing_eos_penalty=1.0 if workload.eos_after > 0 else None,
        temperature=1.0,
        kl_coef=0.05,
        learning_rate=1e-6,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )


def tokenizer() -> Any:
    """The trainer asks it for special ids alone."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": PAD, "<bos>": 1, "<eos>": EOS}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def make_stepper(workload: Workload, channel: Channel) -> Any:
    """The callback that makes the trainer's loop answer requests."""
    from transformers import TrainerCallback

    class Stepper(TrainerCallback):
        """Between two iterations: reply to the last request, wait for the next."""

        def on_train_begin(self, *_: Any, **trained: Any) -> None:
            self.steps = 0
            trained["optimizer"].register_step_post_hook(self._count_step)
            self._begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self._end()
            self._begin()

        def _count_step(self, *_: Any) -> None:
            self.steps += 1

        def _begin(self) -> None:
            while (request := channel.next()) == "rate":
                channel.reply({"flop_per_s": matrix_rate(workload)})
            if request is None:
                os._exit(0)
            self.flops: dict[str, float] = {}
            self.steps, self.counter = 0, None
            if request == "count":
                self.counter = counted(self.flops, "all")
                self.counter.__enter__()
            self.started = workload.now()

        def _end(self) -> None:
            synchronise(workload.device)
            passed = workload.now() - self.started
            assert self.steps == workload.epochs * workload.minibatches, self.steps
            if self.counter is None:
                return channel.reply({"s": passed})
            self.counter.__exit__(None, None, None)
            return channel.reply(self.flops)

    return Stepper()


def main() -> None:
    """Train until there is nothing left to do."""
    channel = Channel()
    workload = prepare()
    if workload.dtype == "bfloat16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    make_trainer(workload, make_stepper(workload, channel)).train()


if __name__ == "__main__":
    sys.exit(main())
