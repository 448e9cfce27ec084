"""What is killed, and when: every victim in every phase of the loop."""

from dataclasses import dataclass
from itertools import product
from random import Random

ITERATIONS = 24
PHASES = {
    "generation": ("generate",),
    "scoring": ("logprobs_and_entropies", "logprobs", "values", "scores"),
    "update": ("policy_gradient", "ptx_gradient", "step", "update", "update_average"),
    "sync": ("engine_weights", "load_weights"),
    "checkpoint": ("save",),
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Where the roles live. nodes: of a cluster that is there before the run; 0: the run's own."""

    overrides: tuple[str, ...]
    victims: tuple[str, ...]
    ranks: int
    nodes: int = 0


SPLIT = ("placement=split", "placement.cpus=0.1")
SCENARIOS = {
    "split": Scenario(
        overrides=SPLIT,
        victims=("driver", "stage", "policy[0]", "ref_policy[0]", "engine[0]"),
        ranks=5,
    ),
    "two_policy_workers": Scenario(
        overrides=(*SPLIT, "placement.policy.processes=2"),
        victims=("policy[0]", "policy[1]"),
        ranks=6,
    ),
    "two_nodes": Scenario(overrides=SPLIT, victims=("node",), ranks=5, nodes=2),
}


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One trial. iteration: from when on the phase is waited for; delay_s: after it was seen."""

    number: int
    scenario: str
    victim: str
    phase: str
    iteration: int
    delay_s: float


def plan(seed: int = 0) -> list[Kill]:
    """40 kills: five phases of the five victims, of two policy workers, and of a node."""
    kills = []
    for name, scenario in SCENARIOS.items():
        for victim, phase in product(scenario.victims, PHASES):
            rng = Random(f"{seed} {name} {victim} {phase}")
            kills.append(
                Kill(
                    number=len(kills) + 1,
                    scenario=name,
                    victim=victim,
                    phase=phase,
                    iteration=rng.randrange(2, ITERATIONS - 6),
                    delay_s=rng.uniform(0, 0.02),
                )
            )
    return kills
