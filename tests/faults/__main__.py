"""`python -m tests.faults FOLDER`: the kills that the ledger in FOLDER does not hold yet."""

import argparse
import sys
from pathlib import Path

from tests.faults.harness import ledger, survive, write_line
from tests.faults.plan import Kill, plan


def main() -> int:
    """0 when all were survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the ledger, and what failed")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of kills")
    asked = parser.parse_args()
    folder, kills = asked.folder.absolute(), plan()
    for trial in kills:
        known = ledger(folder).get(trial.number, {})
        if not known.get("survived") and (not asked.only or trial.number in asked.only):
            attempt(trial, folder)
    survived = [line for line in ledger(folder).values() if line["survived"]]
    print(f"{len(survived)} of {len(kills)} kills survived")
    return int(len(survived) < len(kills))


def attempt(trial: Kill, folder: Path) -> None:
    """One kill, into the ledger whichever way it ends."""
    told = f"{trial.number:2d} {trial.scenario}: {trial.victim} in {trial.phase}"
    try:
        line = survive(trial, folder)
        told += f": weights differ by {line['difference']:.0e}, {line['s']:.0f} s"
    except AssertionError as error:
        line = {"number": trial.number, "survived": False, "error": str(error)}
        told += f": LOST, {error}"
    write_line(folder, line)
    print(told, flush=True)


if __name__ == "__main__":
    sys.exit(main())
