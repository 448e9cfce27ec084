"""The DPO stage: its rows, its losses by hand, resume, and the optimum it finds."""

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm import trl_runs
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison
from stages.records.tables import write_table
from stages.step3_policy import dpo
from stages.step3_policy.config import DpoConfig, Optimizer, PairRule
from stages.step3_policy.dpo_trainer import make_trainer, pair_rows
from stages.step3_policy.preference_data import (
    EncodedComparison,
    completion_logprobs,
    encode_comparisons,
)

TEXTS = ["the cat is red .", "the dog", "red red red", "the ball is blue ."]
PAIR = EncodedComparison(prompt=[1, 4, 7, 5], completions=[[9, 10, 2], [11, 12]], pairs=[(0, 1)])


def make_comparison(number, finished=True):
    order = [(number + k) % 4 for k in range(4)]
    return Comparison(
        prompt=[{"role": "user", "content": f"write about the {['cat', 'dog'][number % 2]}"}],
        completions=[TEXTS[k] for k in order],
        source=["sft"] * 4,
        finished=[finished] * 4,
        ranks=[min(k + 1, 3) for k in order],  # the last two texts tie
    )


@pytest.fixture
def comparisons(tmp_path):
    folder = tmp_path / "comparisons"
    write_table(folder / "train.parquet", [make_comparison(n) for n in range(12)])
    write_table(folder / "validation.parquet", [make_comparison(n) for n in range(2)])
    return folder


def tiny_config(**changes):
    values = {"lr": 1e-2, "epochs": 1, "batch_size": 4, "microbatch_size": 4, "warmup_steps": 0}
    return DpoConfig(**values | {"optimizer": Optimizer.adamw, "log_every": 1} | changes)


def run_stage(folder, sft, comparisons, config, should_stop=lambda: False):
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    return dpo.run(config, sft=sft, comparisons=comparisons, out=folder / "out", context=context)


def curves(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"], record["values"]["time/step_s"]
    return records


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


@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, 0.620957), (0.1, 0.635957)])
def test_hand_worked_losses(tiny_model, tiny_tokenizer, tmp_path, smoothing, expected):
    """beta .1, log-probs (-10, -12), reference (-11, -11.5): h = 1.5. Fails for a flipped sign
    (0.770957), and if TRL drops the smoothing (0.620957 twice)."""
    config = tiny_config(label_smoothing=smoothing)
    loss = trl_loss(tiny_model, tiny_tokenizer, config, tmp_path, shifts=(1.0, -0.5))
    assert loss == pytest.approx(expected, abs=1e-5)
    ours = dpo.pair_loss(torch.tensor(1.5, dtype=torch.float64), 0.1, smoothing)
    assert float(ours) == pytest.approx(expected, abs=1e-6)


def test_gradient_of_the_loss():
    """At the reference -beta/2; at h = 1.5 the weight sigmoid(-beta h) = .462570 times -beta."""
    h = torch.tensor([0.0, 1.5], dtype=torch.float64, requires_grad=True)
    dpo.pair_loss(h, 0.1, 0.0).sum().backward()
    assert h.grad.tolist() == pytest.approx([-0.05, -0.0462570], abs=1e-7)


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


# --- the optimum


ACTIONS, PROMPT = [4, 5, 6, 7], 3


def four_action_policy(probabilities):
    """A Llama without blocks: one prompt token, four single-token completions, free logits."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    policy = LlamaForCausalLM(config)
    with torch.no_grad():
        policy.model.embed_tokens.weight.copy_(torch.eye(8))
        hidden = policy.model(torch.tensor([[PROMPT]])).last_hidden_state[0, 0, PROMPT]
        policy.lm_head.weight.fill_(-40.0 / hidden)
        policy.lm_head.weight[ACTIONS, PROMPT] = torch.tensor(probabilities).log() / hidden
    policy.model.requires_grad_(False)
    return policy


def population_comparisons(rewards, labels_per_pair):
    """Every ordered pair as often as Bradley-Terry labelers prefer it."""
    pairs = []
    for i, first in enumerate(rewards):
        for j, second in enumerate(rewards):
            if i != j:
                share = 1 / (1 + math.exp(second - first))
                pairs += [(i, j)] * round(labels_per_pair * share)
    return EncodedComparison(
        prompt=[PROMPT], completions=[[action] for action in ACTIONS], pairs=pairs
    )


def action_probabilities(policy):
    logits = policy(torch.tensor([[PROMPT]])).logits[0, -1, ACTIONS]
    return logits.double().softmax(-1).detach()


TILTED = [
    (1.0, [0.085073, 0.173439, 0.314304, 0.427184]),
    (2.0, [0.212039, 0.262195, 0.288191, 0.237574]),
]


@pytest.mark.parametrize(("beta", "optimum"), TILTED)
def test_population_dpo_reaches_the_tilted_optimum(tiny_tokenizer, tmp_path, beta, optimum):
    """ref [.4, .3, .2, .1], r [0, 1, 2, 3]: pi* is proportional to ref exp(r / beta).

    Total variation under 0.02. Fails for a swapped pair, a wrong beta, or a reference left out.
    """
    prepare_process(1, 0)
    policy = four_action_policy([0.4, 0.3, 0.2, 0.1])
    comparison = population_comparisons([0.0, 1.0, 2.0, 3.0], labels_per_pair=200)
    rows = pair_rows([comparison], completion_logprobs(policy, [comparison], 0))
    trainer = make_trainer(policy, tiny_tokenizer, rows, tiny_config(beta=beta), tmp_path)
    batch = trainer.data_collator(list(rows))
    optimizer = torch.optim.Adam([policy.lm_head.weight], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        trainer.compute_loss(policy, dict(batch)).backward()
        optimizer.step()
    distance = (action_probabilities(policy) - torch.tensor(optimum)).abs().sum() / 2
    assert float(distance) < 0.02
