"""What lies in a model folder beside an adapter: its method, and which base it belongs to. No torch
here."""

import json
from pathlib import Path
from typing import Any

from stages.lm.peft.config import PeftKind

ADAPTER, BASE_FILE = "adapter", "base.json"


def write_base(adapter: Path, base_sha256: str, kind: PeftKind) -> None:
    """Write what the functions below read."""
    facts = {"model_sha256": base_sha256, "kind": kind.value}
    (adapter / BASE_FILE).write_text(json.dumps(facts) + "\n")


def base_of(adapter: Path) -> str | None:
    """The hash of the base that an adapter belongs to; None where there is no adapter."""
    sha256 = _facts(adapter).get("model_sha256")
    return None if sha256 is None else str(sha256)


def kind_of(adapter: Path) -> PeftKind:
    """The method by which an adapter was made; none where there is no adapter."""
    facts = _facts(adapter)
    return PeftKind(facts.get("kind", PeftKind.lora)) if facts else PeftKind.none


def is_merged(adapter: Path) -> bool:
    """Whether the weights beside it are those of base and adapter; True without an adapter."""
    return not kind_of(adapter).adds_tokens


def positions_taken(model: Path) -> int:
    """Positions that virtual tokens of the model in a folder stand at, before each text."""
    if is_merged(model / ADAPTER):
        return 0
    settings = json.loads((model / ADAPTER / "adapter_config.json").read_text())
    return int(settings["num_virtual_tokens"])


def _facts(adapter: Path) -> dict[str, Any]:
    file = adapter / BASE_FILE
    return dict(json.loads(file.read_text())) if file.is_file() else {}
