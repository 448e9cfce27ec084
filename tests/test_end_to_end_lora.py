"""The whole chain with `peft=lora`, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_end_to_end import made, run

ADAPTED = ("sft", "ppo_init", "reward_model", "policy")
LORA = ("peft=lora", "peft.rank=4", "executor=local")


def contracts(folder: Path) -> dict[str, dict]:
    paths = (folder / "store").glob("*/*/manifest.json")
    manifests = [json.loads(path.read_text()) for path in paths]
    return {manifest["kind"]: manifest["contract"] for manifest in manifests}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lora_from_text_to_evaluation(tmp_path: Path) -> None:
    """All that is trained says the same base, opens without PEFT, and DPO starts from it too."""
    assert len(made(run(tmp_path, *LORA))) == 11
    found = contracts(tmp_path)
    assert len({found[asset]["base_sha256"] for asset in ADAPTED}) == 1
    folders = [next((tmp_path / "store" / asset).iterdir()) / "model" for asset in ADAPTED]
    assert all((folder / "adapter" / "adapter_model.safetensors").is_file() for folder in folders)
    opened = (
        "import sys; sys.modules['peft'] = None\n"
        "import transformers as t\n"
        "A, C = t.AutoModelForCausalLM, t.AutoModelForSequenceClassification\n"
        "for f in sys.argv[1:]: (C if '/reward_model/' in f else A).from_pretrained(f)"
    )
    subprocess.run([sys.executable, "-c", opened, *map(str, folders)], check=True)
    chat = [sys.executable, "-m", "pipeline", "chat", str(tmp_path / "run"), "--prompt", "the"]
    assert b"policy:" in subprocess.run(chat, check=True, capture_output=True).stdout
    assert made(run(tmp_path, *LORA)) == []
    assert made(run(tmp_path, *LORA, "align=dpo")) == ["policy", "evaluation"]
