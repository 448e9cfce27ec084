"""`report RUN`: draw its report.html again, from the run's files and its artifacts."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from pipeline.runs import find_run


def main(arguments: Sequence[str]) -> int:
    """Draw it and say where it lies."""
    parser = ArgumentParser(prog="python -m pipeline report", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of its id, or its folder")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    folder = find_run(asked.run, asked.runs_dir)

    from pipeline.reporting.page import write_report  # matplotlib: after the name was found right

    sys.stdout.write(f"{write_report(folder)}\n")
    return 0
