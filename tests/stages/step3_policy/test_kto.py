"""The KTO stage: its examples, TRL's loss against our formula, learning, resume."""

import pytest
import torch

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.process import prepare_process
from stages.step3_policy import kto
from stages.step3_policy.config import KtoConfig, Optimizer, PairRule
from stages.step3_policy.kto_trainer import (
    Example,
    examples,
    in_training_order,
    make_trainer,
    mismatched_rows,
    with_mismatched,
)
from stages.step3_policy.losses import kto_losses, reference_point
from stages.step3_policy.preference_data import (
    EncodedComparison,
    completion_logprobs,
    encode_comparisons,
)
from tests.stages.step3_policy.rankings import curves, make_comparison


def tiny_config(**changes):
    values = {"lr": 1e-2, "epochs": 1, "batch_size": 4, "microbatch_size": 4, "warmup_steps": 0}
    return KtoConfig(**values | {"optimizer": Optimizer.adamw, "log_every": 1} | changes)


def run_stage(folder, sft, comparisons, config, should_stop=lambda: False):
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    return kto.run(config, sft=sft, comparisons=comparisons, out=folder / "out", context=context)


# --- examples


def test_a_pair_makes_a_desirable_and_an_undesirable_example():
    comparison = EncodedComparison(
        prompt=[1], completions=[[2], [3, 4], [5]], pairs=[(1, 0), (1, 2)]
    )
    assert examples([comparison], [[-1.0, -2.0, -3.0]]) == [
        Example([1], [3, 4], True, -2.0),
        Example([1], [2], False, -1.0),
        Example([1], [3, 4], True, -2.0),
        Example([1], [5], False, -3.0),
    ]


def test_by_default_the_best_is_desirable_and_the_worst_is_not(tiny_tokenizer):
    (encoded,) = encode_comparisons(
        tiny_tokenizer, [make_comparison(0)], rule=KtoConfig().pairs, max_length=64
    )
    found = examples([encoded], [[0.0] * 4])
    assert [row.completion for row in found] == [encoded.completions[0], encoded.completions[2]]


def test_mismatched_are_rotated_within_a_micro_batch_and_fit():
    ordered = [Example([n] * n, [10 + n] * 3, True, 0.0) for n in (1, 2, 3, 4)]
    found = with_mismatched(ordered, tiny_config(microbatch_size=2, batch_size=2, max_length=6))
    assert [row.prompt for row in found] == [row.prompt for row in ordered]
    assert [row.completions for row in found] == [[[12] * 3], [[11] * 3], [[14] * 3], [[13] * 2]]


# --- the loss


@pytest.mark.parametrize(("sharper", "z0_counts"), [(40.0, False), (1 / 40.0, True)])
def test_trls_loss_is_the_papers(tiny_model, tiny_tokenizer, tmp_path, sharper, z0_counts):
    """At other weights than the reference's; on either side of z0's clamp."""
    prepare_process(1, 0)
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(max(1.0, 1 / sharper))
    config = tiny_config(desirable_weight=1.5, beta=0.3, microbatch_size=8, batch_size=8)
    encoded = encode_comparisons(
        tiny_tokenizer,
        [make_comparison(n) for n in range(4)],
        rule=PairRule.best_worst,
        max_length=64,
    )
    ordered = in_training_order(
        examples(encoded, completion_logprobs(tiny_model, encoded, 0)), config
    )
    others = with_mismatched(ordered, config)
    own = [
        EncodedComparison(prompt=r.prompt, completions=[r.completion], pairs=[]) for r in ordered
    ]
    before = [completion_logprobs(tiny_model, rows, 0) for rows in (own, others)]
    kl_rows = mismatched_rows(tiny_model, ordered, config, 0)
    trainer = make_trainer(tiny_model, tiny_tokenizer, ordered, kl_rows, config, tmp_path)
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(sharper)
    after = [completion_logprobs(tiny_model, rows, 0) for rows in (own, others)]
    r, other = (
        torch.tensor(a)[:, 0] - torch.tensor(b)[:, 0] for a, b in zip(after, before, strict=True)
    )
    desirable = torch.tensor([row.desirable for row in ordered])
    expected = kto_losses(r, desirable, reference_point(other), config).mean()
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = trainer.compute_loss(tiny_model, batch)
    assert float(found.detach()) == pytest.approx(float(expected), abs=1e-5)
    assert (float(reference_point(other)) > 0.1) == z0_counts
    assert float(expected) != pytest.approx(0.5 * 1.25, abs=1e-2)  # where it starts


# --- the stage


def test_learns_from_half_the_weight_on(tmp_path, tiny_model_folder, comparisons):
    """Fails if desirable and undesirable are swapped: the validation accuracy then falls to 0."""
    config = tiny_config(epochs=3, undesirable_weight=2.0, group_by_length=False)
    report = run_stage(tmp_path / "run", tiny_model_folder, comparisons, config)
    records = curves(tmp_path / "run")
    first, last = records[0]["values"], records[-1]["values"]
    assert report.metrics["validation_accuracy"] == 1.0
    assert report.metrics["validation_loss"] == last["loss/validation"] < 0.75
    assert report.metrics["examples"] == 24
    margins = [r["values"]["dpo/margin"] for r in records if "dpo/margin" in r["values"]]
    assert abs(margins[0]) < margins[-1]
    assert first["kto/reference_point"] == pytest.approx(0.0, abs=1e-5)
    load_causal_lm(tmp_path / "run" / "out" / "model")


def test_the_first_validation_is_half_the_mean_weight(tiny_model, tiny_tokenizer):
    config = tiny_config(undesirable_weight=2.0)
    heldout = encode_comparisons(
        tiny_tokenizer,
        [make_comparison(n) for n in range(2)],
        rule=PairRule.all,
        max_length=64,
    )
    figures = kto.Validation(config, tiny_model, heldout, 0)(tiny_model)
    assert figures["loss/validation"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["dpo/accuracy_validation"] == 0.0  # ties are no success


@pytest.mark.parametrize("stop_after", [2, 5])
def test_stopped_and_run_again_ends_with_the_same_weights(
    tmp_path, tiny_model_folder, comparisons, stop_after
):
    config, asked = tiny_config(checkpoint_every=3), iter(range(1, 100))
    run_stage(tmp_path / "whole", tiny_model_folder, comparisons, config)
    with pytest.raises(InterruptedRunError):
        run_stage(
            tmp_path / "stopped",
            tiny_model_folder,
            comparisons,
            config,
            lambda: next(asked) >= stop_after,
        )
    run_stage(tmp_path / "stopped", tiny_model_folder, comparisons, config)
    whole, stopped = (tmp_path / name / "out" / "model" for name in ("whole", "stopped"))
    assert model_hash(whole) == model_hash(stopped)
    assert curves(tmp_path / "whole") == curves(tmp_path / "stopped")


def test_fewer_examples_than_a_batch(tmp_path, tiny_model_folder, comparisons):
    with pytest.raises(UserError, match="fewer examples than one batch"):
        run_stage(tmp_path, tiny_model_folder, comparisons, tiny_config(batch_size=64))
