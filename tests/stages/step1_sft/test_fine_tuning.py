"""What TRL's trainer is given and computes, against a plain reference."""

import pytest
import torch

from stages.contracts import Context, UserError
from stages.lm.optimisation import NonFiniteError
from stages.lm.process import prepare_process
from stages.step1_sft.config import SftConfig
from stages.step1_sft.fine_tuning import fine_tune, ordered_dataset
from stages.step1_sft.sequences import Sequence
from stages.step1_sft.validation import token_figures

SEQUENCES = [
    Sequence(input_ids=[1, 4, 7, 5, 9, 10, 2], labels=[-100, -100, -100, -100, 9, 10, 2]),
    Sequence(input_ids=[1, 4, 8, 5, 11, 2], labels=[-100, -100, -100, -100, 11, 2]),
    Sequence(input_ids=[1, 12, 13, 2], labels=[1, 12, 13, 2]),
]


def token_losses(model, sequence):
    """Reference: every labelled token after the first, one at a time, from its own prefix."""
    losses = []
    for position in range(1, len(sequence.input_ids)):
        if sequence.labels[position] != -100:
            prefix = torch.tensor([sequence.input_ids[:position]])
            logprobs = model(prefix).logits[0, -1].double().log_softmax(-1)
            losses.append(-float(logprobs[sequence.labels[position]].detach()))
    return losses


def tiny_config(**changes):
    values = {"lr": 1e-2, "epochs": 1, "batch_size": 3, "microbatch_size": 3, "log_every": 1}
    return SftConfig(**values | {"residual_dropout": 0.0, "group_by_length": False} | changes)


def fit(model, tokenizer, config, folder, sequences=SEQUENCES):
    prepare_process(1, config.seed)
    logged = []
    context = Context.at(folder)
    context.journal.log = lambda step, figures: logged.append((step, figures))
    fine_tune(model, tokenizer, sequences, config, context, lambda step, model: {})
    return logged


@pytest.mark.parametrize("microbatch_size", [3, 1])
def test_the_loss_is_the_token_mean_of_the_batch(
    tiny_model, tiny_tokenizer, tmp_path, microbatch_size
):
    """Fails if padding or prompt tokens count, or if accumulation averages over microbatches."""
    losses = [loss for sequence in SEQUENCES for loss in token_losses(tiny_model, sequence)]
    config = tiny_config(microbatch_size=microbatch_size)
    ((step, figures),) = fit(tiny_model, tiny_tokenizer, config, tmp_path)
    assert step == 1
    assert figures["loss/train"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert figures["lr"] == 1e-2


def test_validation_is_the_token_mean_whatever_the_batches(tiny_model, monkeypatch):
    """Fails if batches are averaged: sequences differ in length."""
    losses = [loss for sequence in SEQUENCES for loss in token_losses(tiny_model, sequence)]
    for tokens_a_forward in (1, 10_000):
        monkeypatch.setattr("stages.step1_sft.validation.TOKENS_A_FORWARD", tokens_a_forward)
        figures = token_figures(tiny_model, SEQUENCES, pad_token_id=0)
        assert figures.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_validation_accuracy_counts_the_most_probable_token(tiny_model):
    greedy = [1, 4, 7]
    for _ in range(3):
        logits = tiny_model(torch.tensor([greedy])).logits
        greedy.append(int(logits[0, -1].argmax()))
    wrong = [*greedy[:-1], (greedy[-1] + 1) % 20]
    for tokens, expected in ((greedy, 1.0), (wrong, 2 / 3)):
        sequence = Sequence(input_ids=tokens, labels=[-100] * 3 + tokens[3:])
        assert token_figures(tiny_model, [sequence], 0).accuracy == pytest.approx(expected)


def test_validation_leaves_train_mode_and_the_generator_as_they_were(tiny_model):
    tiny_model.train()
    state = torch.get_rng_state()
    token_figures(tiny_model, SEQUENCES, 0)
    assert tiny_model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_cosine_to_a_tenth_without_warm_up(tiny_model, tiny_tokenizer, tmp_path):
    """App. C.1; hand-worked: after half of 4 steps the factor is 0.1 + 0.9 / 2 = 0.55."""
    logged = fit(tiny_model, tiny_tokenizer, tiny_config(epochs=4), tmp_path)
    rates = [figures["lr"] for _, figures in logged]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[2] == pytest.approx(0.55e-2)
    assert rates[1] > rates[2] > rates[3] > 1e-3


def test_dropout_changes_training_and_needs_no_other_change(tiny_model, tiny_tokenizer, tmp_path):
    plain = fit(tiny_model, tiny_tokenizer, tiny_config(), tmp_path / "plain")
    dropped = fit(tiny_model, tiny_tokenizer, tiny_config(residual_dropout=0.5), tmp_path / "drop")
    assert plain[0][1]["loss/train"] != dropped[0][1]["loss/train"]


def test_rows_keep_their_labels_in_any_order():
    rows = ordered_dataset(SEQUENCES, tiny_config(epochs=2, group_by_length=True))
    expected = {tuple(sequence.input_ids): sequence.labels for sequence in SEQUENCES}
    assert len(rows) == 6
    assert all(expected[tuple(row["input_ids"])] == row["labels"] for row in rows)


def test_a_non_finite_gradient_stops_before_the_step(tiny_model, tiny_tokenizer, tmp_path):
    """Fails if the trainer's own filter hides it: the weights would then be NaN."""
    with torch.no_grad():
        tiny_model.model.norm.weight[0] = float("inf")
    before = tiny_model.lm_head.weight.clone()
    with pytest.raises(NonFiniteError, match="gradient norm"):
        fit(tiny_model, tiny_tokenizer, tiny_config(), tmp_path)
    assert torch.equal(tiny_model.lm_head.weight, before)


def test_fewer_sequences_than_a_batch_is_the_users_fault(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match="fewer demonstrations than one batch"):
        fit(tiny_model, tiny_tokenizer, tiny_config(), tmp_path, SEQUENCES[:2])


@pytest.mark.parametrize(
    "changes", [{"lr": -1e-5}, {"epochs": 0}, {"residual_dropout": 1.5}, {"microbatch_size": 2}]
)
def test_impossible_settings_name_their_key(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        tiny_config(**changes)


def test_noise_on_embeddings_in_training_alone(tiny_model, tiny_tokenizer, tmp_path):
    """NEFTune: uniform in +-alpha / sqrt(L H), here 5 / sqrt(7 * 16) = 0.472 for the longest."""
    embeddings, noise = tiny_model.get_input_embeddings(), {True: 0.0, False: 0.0}
    before = len(embeddings._forward_hooks)

    def see(_model, ids, states):
        off = (states - embeddings.weight[ids]).abs().max()
        noise[tiny_model.training] = max(noise[tiny_model.training], float(off.detach()))

    layers = tiny_model.model.layers
    hook = layers[0].register_forward_pre_hook(lambda *parts: seen.update(states=parts[1][0]))
    seen = {}
    decoder = tiny_model.model.register_forward_hook(
        lambda _m, _a, kwargs, _o: see(_m, kwargs["input_ids"], seen["states"]), with_kwargs=True
    )
    config = tiny_config(neftune_alpha=5.0, lr=1e-12)
    prepare_process(1, 0)
    context = Context.at(tmp_path)
    after = lambda step, model: {"loss/validation": token_figures(model, SEQUENCES, 0).loss}  # noqa: E731
    fine_tune(tiny_model, tiny_tokenizer, SEQUENCES, config, context, after)
    hook.remove()
    decoder.remove()
    assert 0.3 < noise[True] <= 5 / (7 * 16) ** 0.5 + 1e-6
    assert noise[False] < 1e-6
    assert len(embeddings._forward_hooks) == before


def test_liger_is_refused_without_a_gpu(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match="a GPU"):
        fit(tiny_model, tiny_tokenizer, tiny_config(liger=True), tmp_path)
