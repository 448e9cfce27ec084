"""What the group `peft` refuses."""

from typing import Any

import pytest

from stages.contracts import UserError
from stages.lm.backends.config import BackendKind
from stages.lm.engines.config import EngineKind
from stages.lm.peft.config import (
    PeftConfig,
    PeftKind,
    check_adapter_backend,
    check_adapter_engine,
    check_library,
)
from stages.step1_sft.config import Packing, SftConfig


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PeftKind.none, {"rank": 4}),
        (PeftKind.ia3, {"rank": 4}),
        (PeftKind.ia3, {"dropout": 0.1}),
        (PeftKind.lora, {"num_virtual_tokens": 5}),
        (PeftKind.prompt, {"target_modules": ["q_proj"]}),
        (PeftKind.p_tuning, {"encoder_hidden_size": 8}),
    ],
)
def test_a_key_that_the_method_ignores_is_refused(kind: PeftKind, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no effect"):
        PeftConfig(kind=kind, **values)


def test_backends_that_split_weights_are_refused() -> None:
    for kind in PeftKind:
        check_adapter_backend(kind, "policy", BackendKind.ddp)
        if kind is not PeftKind.none:
            with pytest.raises(UserError, match="cannot be trained with"):
                check_adapter_backend(kind, "policy", BackendKind.fsdp2)


def test_vllm_is_refused_where_it_would_leave_the_adapter_out() -> None:
    check_adapter_engine(PeftKind.lora, EngineKind.vllm)
    check_adapter_engine(PeftKind.prefix, EngineKind.hf)
    with pytest.raises(UserError, match="no virtual tokens"):
        check_adapter_engine(PeftKind.prefix, EngineKind.vllm)


@pytest.mark.parametrize("asked", [{"packing": Packing.bfd}, {"gradient_checkpointing": True}])
def test_what_hides_virtual_tokens_is_refused(asked: dict[str, Any]) -> None:
    SftConfig(peft=PeftConfig(kind=PeftKind.ia3), **asked)
    with pytest.raises(UserError, match="virtual tokens stand before one text"):
        SftConfig(peft=PeftConfig(kind=PeftKind.prompt), **asked)


def test_qlora_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lm.peft.config.find_spec", lambda _: None)
    check_library(PeftKind.lora)
    with pytest.raises(UserError, match="needs bitsandbytes"):
        check_library(PeftKind.qlora)
