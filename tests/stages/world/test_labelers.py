from itertools import combinations
from random import Random

import pytest

from reward.labelers import LabelerConfig, LabelerKind
from stages.contracts import UserError
from stages.world.instructions import careless_answer, draw_instruction
from stages.world.labelers import TASTES, GoldLabeler, make_labelers, ranks_of

PROMPT = [{"role": "user", "content": "say kite two times ."}]
COMPLETIONS = ["kite kite .", "kite kite kite .", "hat .", "kite kite ."]
FINISHED = [True] * 4


def test_ranks_tie_within_the_margin_of_the_best_of_their_rank():
    assert ranks_of([0.9, 1.0, 0.5, 0.55], margin=0.2) == [1, 1, 3, 3]
    assert ranks_of([0.0, 0.1, 0.2], margin=0.1) == [3, 1, 1]
    assert ranks_of([0.3, 0.3, 0.2], margin=0) == [1, 1, 3]


def test_the_exact_labeler_ranks_by_gold_whatever_the_seed():
    """Gold 1, 3/5, 1/5 and 1: red when ranks are turned round."""
    for seed in range(3):
        assert GoldLabeler().rank(PROMPT, COMPLETIONS, FINISHED, seed) == [1, 3, 4, 1]


def test_without_noise_and_taste_a_simulated_labeler_ranks_by_gold():
    config = LabelerConfig(noise=0, taste=0, tie_margin=0.05)
    for labeler in make_labelers(config):
        assert labeler.rank(PROMPT, COMPLETIONS, FINISHED, 0) == [1, 3, 4, 1]


def test_the_same_judgement_is_repeated_and_another_seed_gives_another():
    labeler = make_labelers(LabelerConfig(noise=1.0))[0]
    judged = [labeler.rank(PROMPT, COMPLETIONS[:3], FINISHED[:3], seed) for seed in range(20)]
    again = [labeler.rank(PROMPT, COMPLETIONS[:3], FINISHED[:3], seed) for seed in range(20)]
    assert judged == again
    assert len({tuple(ranks) for ranks in judged}) > 3


def test_the_same_text_twice_is_judged_once():
    labeler = make_labelers(LabelerConfig(noise=1.0, tie_margin=0))[0]
    for seed in range(20):
        ranks = labeler.rank(PROMPT, COMPLETIONS, FINISHED, seed)
        assert ranks[0] == ranks[3]


def test_the_pool_has_groups_of_people_with_names_of_their_own():
    pool = make_labelers(LabelerConfig(groups=3, labelers_per_group=4))
    assert len({labeler.name for labeler in pool}) == 12
    assert [labeler.group for labeler in pool] == [g for g in list(TASTES)[:3] for _ in range(4)]
    assert [x.name for x in make_labelers(LabelerConfig(kind=LabelerKind.exact))] == ["gold"]


def test_more_groups_than_tastes_is_refused():
    with pytest.raises(UserError, match="tastes"):
        make_labelers(LabelerConfig(groups=len(TASTES) + 1))


def test_groups_disagree_about_what_they_like():
    texts = ["the fox saw the kite .", "one day the fox saw a tiny kite ."]
    prompt = [{"role": "user", "content": "write about the fox and the kite ."}]
    config = LabelerConfig(noise=0, tie_margin=0, taste=0.3, labelers_per_group=1)
    ranks = {x.group: x.rank(prompt, texts, [True, True], 0) for x in make_labelers(config)}
    assert ranks["brief"] == [1, 2] == ranks["plain"]
    assert ranks["generous"] == [2, 1] == ranks["colourful"]


def test_people_of_one_group_agree_more_than_people_of_two():
    """The world's own noise and tastes, on answers of mixed quality."""
    pool = make_labelers(LabelerConfig())
    rng = Random(0)
    same, different = [0, 0], [0, 0]
    for number in range(400):
        instruction = draw_instruction(rng, held_out=False)
        prompt = [{"role": "user", "content": instruction.ask(rng)}]
        texts = [" ".join(_write(rng, instruction)) for _ in range(5)]
        one = rng.choice(pool)
        for counts, is_same in ((same, True), (different, False)):
            others = [x for x in pool if x is not one and (x.group == one.group) == is_same]
            ranks = [x.rank(prompt, texts, [True] * 5, number) for x in (one, rng.choice(others))]
            _count_agreement(counts, *ranks)
    assert same[0] / same[1] > different[0] / different[1] + 0.02
    assert 0.6 < different[0] / different[1] < 0.85


def _write(rng, instruction):
    return instruction.answer(rng) if rng.random() < 0.35 else careless_answer(rng, instruction)


def _count_agreement(counts, a, b):
    for i, j in combinations(range(len(a)), 2):
        if a[i] != a[j] and b[i] != b[j]:
            counts[0] += (a[i] < a[j]) == (b[i] < b[j])
            counts[1] += 1
