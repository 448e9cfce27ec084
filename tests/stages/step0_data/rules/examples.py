"""Small records and settings for the tests of the rules."""

from pathlib import Path

from stages.records.schemas import Comparison, Demonstration, Prompt, Record
from stages.records.tables import read_table
from stages.step0_data.rules.config import ContaminationConfig, RulesConfig, SplitConfig
from stages.step0_data.rules.ledger import Ledger, Sourced
from stages.step0_data.rules.prepare import prepare


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def prompt(text: str, user: str | None = None) -> Prompt:
    return Prompt(prompt=says(text), user=user)


def demonstration(text: str, response: str, user: str | None = None) -> Demonstration:
    return Demonstration(prompt=says(text), response=response, user=user)


def comparison(text: str, completions: list[str], labeler: str | None = None) -> Comparison:
    k = len(completions)
    return Comparison(
        prompt=says(text),
        completions=completions,
        source=["a"] * k,
        finished=[True] * k,
        ranks=list(range(1, k + 1)),
        labeler=labeler,
    )


def rules(**changes: object) -> RulesConfig:
    """Nothing but what a test asks for: all other rules are off."""
    off: dict[str, object] = {
        "identical": False,
        "max_prompts_per_user": 0,
        "split": SplitConfig(validation=0),
        "contamination": ContaminationConfig(overlap=0, drop=False),
    }
    return RulesConfig(**(off | changes))


def prepared(
    records: list[Record], config: RulesConfig, out: Path, seed: int = 0
) -> tuple[Ledger, dict[str, list[Record]]]:
    """The ledger, and the records of each split."""
    kind = type(records[0])
    ledger = prepare([Sourced(record=record) for record in records], kind, config, seed, out)
    tables = {path.stem: read_table(path, kind) for path in sorted(out.glob("*.parquet"))}
    return ledger, tables
