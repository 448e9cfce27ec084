"""Who ranks what, and how agreement is measured; the figures are worked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from reward.labelers import LabelerConfig, LabelerKind
from stages.contracts import Context
from stages.records.schemas import Comparison, Completions, Prompt
from stages.records.tables import read_table, write_table
from stages.step2_reward.comparisons import compare, describe, measure_agreement, run
from stages.step2_reward.config import ComparisonsConfig
from stages.world.gold import gold_reward


@dataclass(frozen=True)
class FixedLabeler:
    """Ranks in the order given, or the other way round."""

    name: str
    group: str
    reverse: bool = False

    def rank(
        self, prompt: list, completions: Sequence[str], finished: Sequence[bool], seed: int
    ) -> list[int]:
        ranks = list(range(1, len(completions) + 1))
        return ranks[::-1] if self.reverse else ranks


def records(world: Path, number: int, size: int = 3) -> list[Completions]:
    prompts = read_table(world / "prompts" / "train.parquet", Prompt)
    return [
        Completions(
            prompt=prompts[n % len(prompts)].prompt,
            completions=[f"one {k}" for k in range(size)],
            source=["sft"] * size,
            finished=[True] * size,
            user=f"user-{n}",
        )
        for n in range(number)
    ]


def test_one_labeler_a_prompt_drawn_from_the_whole_pool(world: Path) -> None:
    pool = [FixedLabeler(f"p{n}", f"g{n % 2}") for n in range(4)]
    made = compare(records(world, 200), pool, seed=0, split="train")
    named = {comparison.labeler for comparison in made}
    assert named == {"p0", "p1", "p2", "p3"}
    assert all(c.labeler_group == f"g{int(c.labeler[1]) % 2}" for c in made if c.labeler)
    assert [c.user for c in made] == [f"user-{n}" for n in range(200)]


def test_scores_are_gold(world: Path) -> None:
    (made,) = compare(records(world, 1), [FixedLabeler("p", "g")], seed=0, split="train")
    assert made.scores == [gold_reward(made.prompt, text, True) for text in made.completions]


def test_agreement_within_and_across_groups(world: Path) -> None:
    """Each group is of one mind, the groups of opposite minds: 1 within, 0 across.

    Two of four people drawn without replacement share the group one time in three. Mutation: `==`
    and `!=` of the groups exchanged.
    """
    pool = [FixedLabeler(f"p{n}", f"g{n % 2}", reverse=n % 2 == 1) for n in range(4)]
    measured = measure_agreement(records(world, 600), pool, seed=0)
    assert measured["agreement_within_group"] == 1.0
    assert measured["agreement_across_groups"] == 0.0
    assert measured["agreement_of_any_two"] == pytest.approx(1 / 3, abs=0.06)


def test_one_labeler_agrees_with_nobody(world: Path) -> None:
    assert measure_agreement(records(world, 3), [FixedLabeler("p", "g")], seed=0) == {}


def test_description_by_hand() -> None:
    """Pairs: (a,b) tied by label, (a,c) and (b,c) labelled; gold agrees with one, ties none."""
    made = [_comparison([1, 1, 2], [0.9, 0.1, 0.5]), _comparison([1, 1], [0.2, 0.3])]
    described = describe(made)
    assert described["prompts"] == 2
    assert described["pairs"] == 2
    assert described["tie_share"] == pytest.approx(2 / 4)
    assert described["label_ceiling"] == pytest.approx(1 / 2)
    assert described["prompts_all_tied"] == 1
    assert (described["prompts_k_2"], described["prompts_k_3"]) == (1, 1)


def _comparison(ranks: list[int], scores: list[float]) -> Comparison:
    size = len(ranks)
    return Comparison(
        prompt=[{"role": "user", "content": "x"}],
        completions=[f"y {k}" for k in range(size)],
        source=["sft"] * size,
        finished=[True] * size,
        ranks=ranks,
        scores=scores,
    )


def test_exact_labels_are_in_gold_order(world: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / "completions" / f"{split}.parquet", records(world, 6, size=4))
    report = run(
        ComparisonsConfig(labeler=LabelerConfig(kind=LabelerKind.exact)),
        completions=tmp_path / "completions",
        out=tmp_path / "out",
        context=Context.at(tmp_path / "work"),
    )
    for row in read_table(tmp_path / "out" / "train.parquet", Comparison):
        assert row.scores is not None
        gold = row.scores
        for i in range(4):
            for j in range(4):
                assert (row.ranks[i] < row.ranks[j]) == (gold[i] > gold[j])
    assert report.metrics["train_prompts"] == 6


def test_the_seed_decides_the_labels(world: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / "completions" / f"{split}.parquet", records(world, 20))
    tables = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        out = tmp_path / name
        run(
            ComparisonsConfig(seed=seed),
            completions=tmp_path / "completions",
            out=out,
            context=Context.at(out / "work"),
        )
        tables.append(read_table(out / "train.parquet", Comparison))
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
