"""The supervised loop: schedules, data order, resume equal to an uninterrupted run."""

import json

import pytest
import torch

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.checkpoints import Checkpoints, restore_rng, rng_state
from stages.lm.early_stopping import EarlyStopping
from stages.lm.optimisation import (
    NonFiniteError,
    OptimizerConfig,
    Schedule,
    ScheduleConfig,
    clip_and_step,
    lr_factor,
    make_optimizer,
)
from stages.lm.training import TrainingPlan, batch_indices, epochs_to_steps, train_steps
from tests.stages.lm.lessons import learner_of


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))


def make_plan(**changes):
    values = {"total_steps": 9, "log_every": 1, "checkpoint_every": 2}
    return TrainingPlan(lr=0.01, schedule=ScheduleConfig(), **(values | changes))


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.mark.parametrize("killed_after", [1, 4, 5, 8])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, killed_after):
    """Red when the RNG is not restored (dropout differs) or the data order starts anew."""
    whole = make_model()
    train_steps(learner_of(whole), make_plan(), Context.at(tmp_path / "whole"))

    first = learner_of(make_model())
    train = first.train

    def dying(step, lr):
        if step == killed_after:
            raise Killed
        return train(step, lr)

    first.train = dying
    with pytest.raises(Killed):
        train_steps(first, make_plan(), Context.at(tmp_path / "parts"))
    torch.manual_seed(99)
    second = make_model()
    train_steps(learner_of(second), make_plan(), Context.at(tmp_path / "parts"))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts/metrics.jsonl").open()]
    assert steps == list(range(1, 10))


def test_asked_to_stop_it_checkpoints_and_says_so(tmp_path):
    model, context = make_model(), Context.at(tmp_path)
    context.should_stop = lambda: True
    with pytest.raises(InterruptedRunError):
        train_steps(learner_of(model), make_plan(), context)
    step, _ = Checkpoints(context.checkpoints).load_latest()
    assert step == 1


def test_generators_come_back():
    state = rng_state()
    first = torch.rand(3)
    restore_rng(state)
    assert torch.equal(torch.rand(3), first)


def test_schedules_by_hand():
    cosine = ScheduleConfig(kind=Schedule.cosine, end=0.1)
    assert [lr_factor(cosine, s, 100) for s in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])
    warm = ScheduleConfig(kind=Schedule.constant, warmup_steps=10, start=0.1)
    assert [lr_factor(warm, s, 100) for s in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1, 1])
    linear = ScheduleConfig(kind=Schedule.linear, end=0.0)
    assert [lr_factor(linear, s, 100) for s in (0, 25, 100)] == pytest.approx([1, 0.75, 0])


def test_every_epoch_sees_every_item_once():
    seen = [i for step in range(3) for i in batch_indices(12, 4, seed=0, step=step)]
    assert sorted(seen) == list(range(12))
    assert seen != [i for step in range(3, 6) for i in batch_indices(12, 4, seed=0, step=step)]
    assert epochs_to_steps(12725, 32, 16) == 6363  # the paper's 6,362, the last batch short


def test_a_non_finite_gradient_touches_no_weight():
    model = make_model()
    before = [p.clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    with pytest.raises(NonFiniteError):
        clip_and_step(make_optimizer(model, OptimizerConfig(lr=1)), model.parameters(), 1.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_negative_learning_rate_is_the_users_mistake():
    with pytest.raises(UserError, match="learning rate"):
        OptimizerConfig(lr=-1e-5)


LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 0.5, 10: 0.7, 12: 0.6, 14: 0.1}


def stopped_early(folder, should_stop=lambda: False, patience=2, total_steps=14, **changes):
    """Validation losses made by hand, every second step; the weights by step and the result."""
    model = make_model()
    learner, seen = learner_of(model), {}

    def validate():
        step = learner.steps
        seen[step] = learner.weights()
        return {"loss/validation": LOSSES[step]}

    train = learner.train

    def counted(step, lr):
        learner.steps = step + 1
        return train(step, lr)

    learner.train = counted
    plan = make_plan(
        total_steps=total_steps,
        validate=validate,
        early_stopping=EarlyStopping(patience=patience, validate_every=2),
        **changes,
    )
    context = Context.at(folder)
    context.should_stop = should_stop
    return train_steps(learner, plan, context), seen


@pytest.mark.parametrize(
    ("patience", "steps", "best"),
    [(1, 6, 4), (2, 12, 8), (3, 14, 14)],
)
def test_early_stopping_keeps_the_weights_of_the_lowest_loss(tmp_path, patience, steps, best):
    """Losses 3, 1, 2, 0.5, 0.7, 0.6, 0.1. Mutations: strikes that are not forgotten after a new
    lowest loss (patience 2 ends at 10); the weights at the end."""
    trained, seen = stopped_early(tmp_path, patience=patience)
    assert (trained.steps, trained.best.step, trained.best.loss) == (steps, best, LOSSES[best])
    for name, weight in seen[best].items():
        assert torch.equal(trained.best.weights[name], weight)


def test_curves_alone_do_not_end_a_training(tmp_path):
    """`validate_every` is for looking: it may not change which weights are kept."""
    trained, _ = stopped_early(tmp_path, patience=2, validate_every=4)
    assert (trained.steps, trained.best.step) == (12, 8)


@pytest.mark.parametrize("after", [5, 8, 11, 12])
def test_early_stopping_continues_where_it_was(tmp_path, after):
    """Mutation: strikes, or the best weights, left out of the checkpoint."""
    whole, _ = stopped_early(tmp_path / "whole")
    ticks = iter(range(1, 99))
    with pytest.raises(InterruptedRunError):
        stopped_early(tmp_path / "parts", lambda: next(ticks) == after)
    parts, _ = stopped_early(tmp_path / "parts")
    assert (parts.steps, parts.best.step, parts.best.loss) == (12, 8, 0.5)
    for name, weight in whole.best.weights.items():
        assert torch.equal(parts.best.weights[name], weight)


def test_without_early_stopping_nothing_is_kept(tmp_path):
    trained = train_steps(learner_of(make_model()), make_plan(), Context.at(tmp_path))
    assert (trained.steps, trained.best.step, trained.best.weights) == (9, 0, {})
