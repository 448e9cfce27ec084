"""The DPO stage: its rows, its losses by hand, and resume."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm import trl_runs
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.process import prepare_process
from stages.step3_policy import dpo
from stages.step3_policy.config import DpoConfig, Optimizer, PairLoss, PairRule
from stages.step3_policy.dpo_trainer import make_trainer, pair_rows
from stages.step3_policy.preference_data import (
    EncodedComparison,
    completion_logprobs,
    encode_comparisons,
)
from tests.stages.step3_policy.rankings import curves, make_comparison

PAIR = EncodedComparison(prompt=[1, 4, 7, 5], completions=[[9, 10, 2], [11, 12]], pairs=[(0, 1)])


def tiny_config(**changes):
    values = {"lr": 1e-2, "epochs": 1, "batch_size": 4, "microbatch_size": 4, "warmup_steps": 0}
    return DpoConfig(**values | {"optimizer": Optimizer.adamw, "log_every": 1} | changes)


def run_stage(folder, sft, comparisons, config, should_stop=lambda: False, **inputs):
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    inputs |= {"sft": sft, "comparisons": comparisons}
    return dpo.run(config, **inputs, out=folder / "out", context=context)


# --- rows


@pytest.mark.parametrize(("finished", "ending"), [(True, ["<eos>"]), (False, [])])
def test_eos_only_where_the_completion_finished(tiny_tokenizer, finished, ending):
    """TRL's own preparation appends EOS to truncated completions too."""
    (encoded,) = encode_comparisons(
        tiny_tokenizer, [make_comparison(0, finished)], rule=PairRule.all, max_length=64
    )
    tokens = tiny_tokenizer.convert_ids_to_tokens(encoded.completions[1])
    assert tokens == ["the", "dog", *ending]
    rows = pair_rows([encoded], [[-1.0, -2.0, -3.0, -4.0]])
    assert len(rows) == 5
    assert rows[0]["chosen_ids"] == encoded.completions[0]
    assert rows[0]["rejected_ids"] == encoded.completions[1]
    assert (rows[0]["ref_chosen_logps"], rows[0]["ref_rejected_logps"]) == (-1.0, -2.0)


def test_completions_too_long_leave_the_others(tiny_tokenizer):
    """The prompt has seven tokens; only the second and third text fit into eleven with EOS."""
    (encoded,) = encode_comparisons(
        tiny_tokenizer, [make_comparison(0)], rule=PairRule.all, max_length=11
    )
    assert encoded.pairs == [(1, 2)]


def test_logprobs_are_summed_over_the_completion(tiny_model):
    """Reference: token by token, each from its own prefix. Fails if the first is left out."""
    expected = []
    for completion in PAIR.completions:
        total, tokens = 0.0, list(PAIR.prompt)
        for token in completion:
            logits = tiny_model(torch.tensor([tokens])).logits[0, -1].double()
            total += float(logits.log_softmax(-1)[token].detach())
            tokens.append(token)
        expected.append(total)
    (logprobs,) = completion_logprobs(tiny_model, [PAIR], pad_token_id=0)
    assert logprobs == pytest.approx(expected, rel=1e-5)


# --- losses


def trl_loss(model, tokenizer, config, folder, shifts=(0.0, 0.0)):
    """TRL's loss on one pair whose log-ratios are `shifts`, set through the reference."""
    prepare_process(1, 0)
    (logprobs,) = completion_logprobs(model, [PAIR], 0)
    reference = [value - shift for value, shift in zip(logprobs, shifts, strict=True)]
    rows = pair_rows([PAIR], [reference])
    trainer = make_trainer(model, tokenizer, rows, config, folder)
    return float(trainer.compute_loss(model, trainer.data_collator([rows[0]])).detach())


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 5.0])
def test_ln_2_where_the_policy_is_the_reference(tiny_model, tiny_tokenizer, tmp_path, beta):
    loss = trl_loss(tiny_model, tiny_tokenizer, tiny_config(beta=beta), tmp_path)
    assert loss == pytest.approx(math.log(2), abs=1e-5)


BY_HAND = [
    ({}, 0.620957),
    ({"label_smoothing": 0.1}, 0.635957),
    ({"loss": PairLoss.robust, "label_smoothing": 0.1}, 0.602207),
    ({"loss": PairLoss.hinge}, 0.85),
    ({"loss": PairLoss.ipo}, 12.25),
    ({"loss": PairLoss.ipo, "per_token": True}, 19.506944),  # (1 / 3 + .5 / 2 - 5)^2
    ({"per_token": True}, 0.664406),  # log(1 + exp(-.0583333))
]


@pytest.mark.parametrize(("changes", "expected"), BY_HAND)
def test_losses_worked_by_hand(tiny_model, tiny_tokenizer, tmp_path, changes, expected):
    """beta .1, log-ratios 1 and -.5 of three and two tokens: h = 1.5. Fails for a flipped sign
    (0.770957), and if TRL drops the smoothing (0.620957 twice)."""
    config = tiny_config(**changes)
    loss = trl_loss(tiny_model, tiny_tokenizer, config, tmp_path, shifts=(1.0, -0.5))
    assert loss == pytest.approx(expected, abs=1e-4)


WITHOUT_REFERENCE = [
    {"loss": PairLoss.simpo, "beta": 2.0, "gamma": 1.0},
    {"loss": PairLoss.orpo, "beta": 0.25},
]


@pytest.mark.parametrize("changes", [changes for changes, _ in BY_HAND] + WITHOUT_REFERENCE)
def test_validation_computes_what_training_does(tiny_model, tiny_tokenizer, tmp_path, changes):
    """The formula on log-probs of its own, and the trainer's loss, at the same weights."""
    config, pad = tiny_config(**changes), tiny_tokenizer.pad_token_id
    (logprobs,) = completion_logprobs(tiny_model, [PAIR], pad)
    reference = [logprobs[0] - 0.7, logprobs[1] - 2.0]
    figures = dpo.validation_figures([PAIR], [logprobs], [reference], config)
    trained = trl_loss(tiny_model, tiny_tokenizer, config, tmp_path, shifts=(0.7, 2.0))
    assert figures["loss/validation"] == pytest.approx(trained, rel=1e-5)


def test_simpo_and_orpo_are_what_trls_own_trainers_say(tiny_model, tiny_tokenizer, tmp_path):
    """From mean log-probs. TRL's simpo subtracts gamma / beta before it multiplies by beta."""
    (logprobs,) = completion_logprobs(tiny_model, [PAIR], 0)
    means = [torch.tensor([logprobs[0] / 3]), torch.tensor([logprobs[1] / 2])]
    cpu = SimpleNamespace(device="cpu")
    simpo = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=1.0,
        beta=2.0,
        label_smoothing=0.0,
        accelerator=cpu,
    )
    orpo = SimpleNamespace(beta=0.25, accelerator=cpu)
    theirs = [
        CPOTrainer.cpo_loss(simpo, *means)[0],
        -means[0] - ORPOTrainer.odds_ratio_loss(orpo, *means)[0],
    ]
    ours = [
        trl_loss(tiny_model, tiny_tokenizer, tiny_config(**changes), tmp_path)
        for changes in WITHOUT_REFERENCE
    ]
    assert ours == pytest.approx([float(loss) for loss in theirs], rel=1e-5)


# --- the stage


def test_learns_the_order_from_ln_2_on(tmp_path, tiny_model_folder, comparisons):
    """Fails if better and worse are swapped: the validation accuracy then falls to 0."""
    config = tiny_config(epochs=2)
    report = run_stage(tmp_path / "run", tiny_model_folder, comparisons, config)
    records = curves(tmp_path / "run")
    first, last = records[0]["values"], records[-1]["values"]
    assert first["loss/train"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(first["dpo/margin"]) < 1e-5
    assert last["dpo/margin"] > 0
    assert last["dpo/chosen_logratio"] > last["dpo/rejected_logratio"]
    assert report.metrics["validation_accuracy"] == 1.0
    assert report.metrics["validation_loss"] == last["loss/validation"] < math.log(2)
    assert report.metrics["pairs"] == 60
    load_causal_lm(tmp_path / "run" / "out" / "model")


def test_margin_is_beta_times_the_logratios(tmp_path, tiny_model_folder, comparisons):
    run_stage(tmp_path / "run", tiny_model_folder, comparisons, tiny_config(beta=0.5))
    last = curves(tmp_path / "run")[-1]["values"]
    difference = last["dpo/chosen_logratio"] - last["dpo/rejected_logratio"]
    assert last["dpo/margin"] == pytest.approx(0.5 * difference, rel=1e-4)


def test_a_later_round_is_held_to_the_first(tmp_path, tiny_model_folder, comparisons):
    """From the policy of the round before, with SFT as the reference: the first margin is not 0.
    Fails if the reference is what training starts from."""
    config = tiny_config()
    run_stage(tmp_path / "one", tiny_model_folder, comparisons, config)
    before = tmp_path / "one" / "out"
    run_stage(tmp_path / "two", before, comparisons, config, reference=tiny_model_folder)
    run_stage(tmp_path / "alone", before, comparisons, config)
    assert curves(tmp_path / "two")[0]["values"]["dpo/margin"] > 0.01
    assert abs(curves(tmp_path / "alone")[0]["values"]["dpo/margin"]) < 1e-5


@pytest.mark.parametrize("loss", [PairLoss.simpo, PairLoss.orpo])
def test_losses_without_a_reference_learn_too(tmp_path, tiny_model_folder, comparisons, loss):
    config = tiny_config(epochs=2, loss=loss, beta=2.0)
    report = run_stage(tmp_path / "run", tiny_model_folder, comparisons, config)
    first, last = (curves(tmp_path / "run")[step]["values"] for step in (0, -1))
    assert report.metrics["validation_accuracy"] == 1.0
    assert last["loss/train"] < first["loss/train"]
    assert last["dpo/chosen_logprob"] > last["dpo/rejected_logprob"]
    assert "dpo/chosen_logratio" not in last


def test_warm_up_starts_at_its_first_step(tmp_path, tiny_model_folder, comparisons):
    """The paper's linear warm-up: min(1, (step + 1) / (steps + 1)), then constant."""
    config = tiny_config(lr=1e-4, warmup_steps=3, optimizer=Optimizer.rmsprop)
    run_stage(tmp_path / "run", tiny_model_folder, comparisons, config)
    rates = [record["values"]["lr"] / 1e-4 for record in curves(tmp_path / "run")]
    assert rates[:6] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("stop_after", [2, 7, 12])
def test_stopped_and_run_again_ends_with_the_same_weights(
    tmp_path, tiny_model_folder, comparisons, stop_after
):
    config, asked = tiny_config(checkpoint_every=5), iter(range(1, 100))
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


def test_a_crash_in_a_save_falls_back_to_the_checkpoint_before(
    tmp_path, tiny_model_folder, comparisons, monkeypatch
):
    config, saves = tiny_config(checkpoint_every=5), iter([1, 2])
    run_stage(tmp_path / "whole", tiny_model_folder, comparisons, config)
    mark_complete = trl_runs.mark_complete

    def crash(checkpoint):
        if next(saves) == 2:
            (checkpoint / "optimizer.pt").write_bytes(b"half")
            raise RuntimeError("killed")
        mark_complete(checkpoint)

    monkeypatch.setattr(trl_runs, "mark_complete", crash)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(tmp_path / "crashed", tiny_model_folder, comparisons, config)
    monkeypatch.undo()
    run_stage(tmp_path / "crashed", tiny_model_folder, comparisons, config)
    whole, crashed = (tmp_path / name / "out" / "model" for name in ("whole", "crashed"))
    assert model_hash(whole) == model_hash(crashed)


def test_unusable_data_is_the_users_fault(tmp_path, tiny_model_folder, comparisons):
    with pytest.raises(UserError, match="no pair to learn from"):
        run_stage(tmp_path / "a", tiny_model_folder, comparisons, tiny_config(max_length=6))
    with pytest.raises(UserError, match="fewer pairs than one batch"):
        run_stage(tmp_path / "b", tiny_model_folder, comparisons, tiny_config(batch_size=64))


@pytest.mark.parametrize("changes", [{"lr": -1.0}, {"label_smoothing": 0.5}, {"beta": 0.0}])
def test_impossible_settings_name_their_key(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        tiny_config(**changes)
