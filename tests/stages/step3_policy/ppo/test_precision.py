"""PPO in bfloat16: every role's decoder, weights and figures in float32."""

from collections.abc import Callable

import pytest
import torch

from stages.lm.precision import Precision
from stages.step3_policy.ppo.loading import decoders_of
from stages.step3_policy.ppo.loop import PpoLoop


def models_of(loop: PpoLoop) -> dict[str, torch.nn.Module]:
    roles = loop.roles
    parts = (roles.policy, roles.ref_policy, roles.critic, roles.reward_model)
    names = ("policy", "ref_policy", "critic", "reward_model")
    return {name: part.model for name, part in zip(names, parts, strict=True)}


@pytest.mark.parametrize("precision", list(Precision)[:2])
def test_every_role_computes_in_the_precision_of_the_config(
    make_loop: Callable[..., PpoLoop], precision: Precision
):
    loop, seen = make_loop(precision=precision), {}
    for name, model in models_of(loop).items():
        (decoder,) = decoders_of(model)
        product = decoder.layers[0].mlp.up_proj
        product.register_forward_hook(
            lambda *parts, name=name: seen.setdefault(name, set()).add(parts[2].dtype)
        )
    loop.iterate(0, kl_coef=0.1)
    dtype = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}[precision]
    assert seen == {name: {dtype} for name in models_of(loop)}
    for model in models_of(loop).values():
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_ratio_starts_at_exactly_one(make_loop: Callable[..., PpoLoop]):
    """Rounding is the same in scoring and in the first update: red when one of them differs."""
    figures = make_loop(precision=Precision.bf16, minibatch_size=8).iterate(0, kl_coef=0.1)
    assert figures["policy/ratio_max"] == 1.0


def test_figures_of_an_iteration_are_near_float32s(make_loop: Callable[..., PpoLoop]):
    exact = make_loop("exact").iterate(0, kl_coef=0.1)
    rounded = make_loop("rounded", precision=Precision.bf16).iterate(0, kl_coef=0.1)
    for name in ("rollout/score_mean", "loss/value", "loss/ptx"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.02)


def test_activations_computed_again_give_the_same_iteration(make_loop: Callable[..., PpoLoop]):
    """Of policy and critic, which stay in eval mode: Transformers' own switch would do nothing."""
    plain = make_loop("plain").iterate(0, kl_coef=0.1)
    loop, calls = (
        make_loop("again", gradient_checkpointing=True),
        dict.fromkeys(("kept", "again"), 0),
    )

    def count(*_parts):
        calls["again" if torch._C._current_graph_task_id() >= 0 else "kept"] += 1

    loop.roles.policy.model.model.layers[0].self_attn.register_forward_hook(count)
    again = loop.iterate(0, kl_coef=0.1)
    assert calls["again"] > 0
    for name in ("loss/policy", "loss/value", "loss/ptx", "grad_norm/step", "grad_norm/critic"):
        assert again[name] == plain[name]
