"""The formulas of DPO's relatives against numbers worked by hand, and against each other."""

import math

import pytest
import torch

from stages.contracts import UserError
from stages.lm.peft.config import PeftKind
from stages.step3_policy.config import DpoConfig, KtoConfig, PairLoss, PolicyStart
from stages.step3_policy.losses import (
    Sums,
    kto_losses,
    log_odds,
    pair_losses,
    reference_point,
)

SIGMOID, ROBUST, HINGE, IPO, SIMPO, ORPO = PairLoss


def pair(better, worse, reference=(0.0, 0.0), tokens=(1, 1)):
    return tuple(
        Sums.stack([(policy, frozen, length)])
        for policy, frozen, length in zip((better, worse), reference, tokens, strict=True)
    )


WORKED = pair(-10.0, -12.0, reference=(-11.0, -11.5), tokens=(5, 4))  # h = 1.5; p = -2, -3

BY_HAND = [
    ({"loss": SIGMOID}, 0.620957),
    ({"loss": SIGMOID, "label_smoothing": 0.1}, 0.635957),
    ({"loss": ROBUST, "label_smoothing": 0.1}, 0.602207),  # (.9 * .620957 - .1 * .770957) / .8
    ({"loss": HINGE}, 0.85),
    ({"loss": IPO}, 12.25),
    ({"loss": IPO, "per_token": True}, 21.855625),  # (1 / 5 + .5 / 4 - 5)^2
    ({"loss": SIGMOID, "per_token": True}, 0.677029),  # log(1 + exp(-.0325))
    ({"loss": SIMPO, "beta": 2.0, "gamma": 1.0}, 0.313262),  # log(1 + exp(-1))
    ({"loss": ORPO, "beta": 0.25}, 2.072188),  # 2 + .25 * .288751
]


@pytest.mark.parametrize(("settings", "expected"), BY_HAND)
def test_worked_by_hand(settings, expected):
    """beta .1, log-probs (-10, -12), reference (-11, -11.5), five and four tokens."""
    loss = pair_losses(*WORKED, DpoConfig(**{"beta": 0.1} | settings))
    assert loss.tolist() == pytest.approx([expected], abs=1e-6)


def test_orpos_odds_ratio_by_hand():
    better, worse = torch.tensor(-2.0, dtype=torch.float64), torch.tensor(-3.0).double()
    ratio = log_odds(better) - log_odds(worse)
    assert float(ratio) == pytest.approx(1.094344, abs=1e-6)
    assert -math.log(1 / (1 + math.exp(-float(ratio)))) == pytest.approx(0.288751, abs=1e-6)


def test_log_odds_of_what_is_certain_are_finite():
    certain = torch.tensor([0.0, -1e-12], requires_grad=True)
    odds = log_odds(certain)
    odds.sum().backward()
    assert torch.isfinite(odds).all()
    assert torch.isfinite(certain.grad).all()


AT_THE_REFERENCE = [
    (DpoConfig(beta=0.3), math.log(2)),
    (DpoConfig(beta=5.0, label_smoothing=0.2), math.log(2)),
    (DpoConfig(loss=ROBUST, label_smoothing=0.2), math.log(2)),
    (DpoConfig(loss=HINGE), 1.0),
    (DpoConfig(loss=IPO, beta=0.1), 25.0),
    (DpoConfig(loss=IPO, beta=0.5), 1.0),
]


@pytest.mark.parametrize(("config", "expected"), AT_THE_REFERENCE)
def test_where_the_policy_is_the_reference(config, expected):
    same = pair(-7.0, -3.0, reference=(-7.0, -3.0))
    assert pair_losses(*same, config).tolist() == pytest.approx([expected])


def gradients(config, better=-10.0, worse=-12.0):
    """d loss / d log pi of the better, and of the worse completion."""
    policy = torch.tensor([better, worse], dtype=torch.float64, requires_grad=True)
    fixed = torch.tensor([-11.0, -11.5]), torch.tensor([5, 4])
    sums = [
        Sums(policy=policy[k : k + 1], reference=fixed[0][k : k + 1], tokens=fixed[1][k : k + 1])
        for k in (0, 1)
    ]
    pair_losses(*sums, config).sum().backward()
    return policy.grad.tolist()


@pytest.mark.parametrize("settings", [settings for settings, _ in BY_HAND])
def test_a_step_raises_the_better_and_lowers_the_worse(settings):
    better, worse = gradients(DpoConfig(**{"beta": 0.1} | settings))
    assert better < 0 < worse


def test_gradient_weights_by_hand():
    """At the reference -beta/2; at h = 1.5 -beta sigmoid(-beta h) = -.1 * .462570; IPO 2(h - 5)."""
    assert gradients(DpoConfig(beta=0.3), -11.0, -11.5) == pytest.approx([-0.15, 0.15])
    assert gradients(DpoConfig(beta=0.1)) == pytest.approx([-0.0462570, 0.0462570], abs=1e-7)
    assert gradients(DpoConfig(loss=IPO, beta=0.1)) == pytest.approx([-7.0, 7.0])


def test_ipo_turns_back_beyond_its_margin_and_hinge_stops_there():
    """1 / (2 beta) = .5 and 1 / beta = 1 are below h = 1.5. DPO goes on for ever."""
    assert gradients(DpoConfig(loss=IPO, beta=1.0))[0] > 0
    assert gradients(DpoConfig(loss=HINGE, beta=1.0)) == [0.0, 0.0]
    assert gradients(DpoConfig(beta=1.0))[0] < 0


@pytest.mark.parametrize("h", [-3.0, 0.4, 8.0])
def test_robust_dpo_is_plain_dpo_on_average_over_flipped_labels(h):
    """Its reason to be: with a share e of flips, its expectation is the loss of the true labels."""
    robust = DpoConfig(loss=ROBUST, label_smoothing=0.2)
    kept, flipped = (pair_losses(*pair(sign * h, 0.0), robust) for sign in (1, -1))
    plain = pair_losses(*pair(h, 0.0), DpoConfig())
    assert (0.8 * kept + 0.2 * flipped).tolist() == pytest.approx(plain.tolist())


def test_conservative_dpo_is_content_where_the_policy_doubts_as_labels_do():
    """Stationary where sigmoid(beta h) = 1 - e: h = log(9) / .1 for e = .1."""
    h = math.log(9) / 0.1
    config = DpoConfig(label_smoothing=0.1)
    assert gradients(config, -11.0 + h, -11.5) == pytest.approx([0.0, 0.0], abs=1e-9)


def test_simpo_and_orpo_know_no_reference():
    for loss in (SIMPO, ORPO):
        config = DpoConfig(loss=loss, beta=2.0)
        other = pair(-10.0, -12.0, reference=(-1.0, -30.0), tokens=(5, 4))
        assert pair_losses(*other, config).tolist() == pair_losses(*WORKED, config).tolist()


# --- KTO


def kto(logratio, desirable, z0, **settings):
    ratios = torch.tensor(logratio, dtype=torch.float64)
    point = torch.tensor(z0, dtype=torch.float64)
    return kto_losses(ratios, torch.tensor(desirable), point, KtoConfig(**settings)).tolist()


def test_kto_by_hand():
    """beta .1: 1 - s(.1 (1 - .5)) and 1 - s(.1 (.5 + .5)); the weights are lambda_D, lambda_U."""
    found = kto([1.0, -0.5], [True, False], 0.5, desirable_weight=1.5, undesirable_weight=2.0)
    assert found == pytest.approx([1.5 * 0.487503, 2.0 * 0.475021], abs=1e-6)


def test_kto_starts_at_half_the_weight():
    assert kto([0.0, 0.0], [True, False], 0.0, undesirable_weight=3.0) == [0.5, 1.5]


def test_the_reference_point_is_not_below_zero_and_has_no_gradient():
    ratios = torch.tensor([1.0, 3.0], requires_grad=True)
    assert float(reference_point(ratios)) == 2.0
    assert not reference_point(ratios).requires_grad
    assert float(reference_point(-ratios)) == 0.0


def test_ktos_gradients_point_away_from_the_undesirable():
    ratios = torch.tensor([0.3, 0.3], requires_grad=True)
    losses = kto_losses(ratios, torch.tensor([True, False]), torch.tensor(0.1), KtoConfig())
    losses.sum().backward()
    assert ratios.grad[0] < 0 < ratios.grad[1]


# --- settings that do not go together

REFUSED = [
    ({"loss": IPO, "label_smoothing": 0.1}, "label_smoothing is known to sigmoid and robust"),
    ({"loss": ORPO, "label_smoothing": 0.1}, "label_smoothing is known"),
    ({"loss": ROBUST}, "label_smoothing is what robust corrects for"),
    ({"gamma": 1.0}, "gamma is the margin of simpo"),
    ({"loss": HINGE, "per_token": True}, "per_token is a choice of ipo"),
    ({"label_smoothing": 0.1, "per_token": True}, "per_token is a choice of ipo"),
    ({"start": PolicyStart.base}, "start is sft where the loss has a reference"),
    ({"loss": ORPO, "start": PolicyStart.base, "peft": PeftKind.lora}, "start=base trains all"),
]


@pytest.mark.parametrize(("settings", "what"), REFUSED)
def test_settings_that_do_not_go_together(settings, what):
    with pytest.raises(UserError, match=what):
        DpoConfig(**settings)


def test_kto_needs_two_completions_at_once():
    with pytest.raises(UserError, match="microbatch_size must be at least 2"):
        KtoConfig(microbatch_size=1)
