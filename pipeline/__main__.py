"""python -m pipeline COMMAND [hydra overrides]: nothing heavy is imported before it is needed."""

import importlib
import sys
from collections.abc import Sequence

from pipeline.errors import USER_FAULT, exit_code, nearest
from stages.contracts import UserError

COMMANDS = {
    "run": "run the workflow; only what is missing is executed",
    "data": "print and draw the data that a run would train on",
    "plan": "show what a run would do and why, without doing it",
    "runs": "list the runs",
    "show": "show one run: config, stages, figures, lineage",
    "report": "draw report.html of a run again",
    "chat": "talk to a run's trained policy, its SFT policy beside it",
    "export": "write a run's model as a Hugging Face folder with a model card",
    "serve": "answer OpenAI's clients with a run's policy",
    "serve-reward": "serve a run's reward model over HTTP",
    "evaluate-reward": "examine a reward model on a file of comparisons",
    "gc": "free what no kept run needs",
}
EXAMPLES = """\
  python -m pipeline run +experiment=ppo_ptx            the main job
  python -m pipeline run +experiment=ppo_ptx align=dpo  swap a stage
  python -m pipeline plan +experiment=ppo_ptx align.kl_coef=0.05
  python -m pipeline run -m +experiment=ppo_ptx align.kl_coef=0.01,0.02,0.05
  python -m pipeline run --help                         groups, options and every config key
"""


def main() -> None:
    """The console script `pipeline`."""
    sys.exit(exit_code(lambda: dispatch(sys.argv[1:])))


def dispatch(arguments: Sequence[str]) -> int:
    """Call the command's module; its `main` takes the arguments behind the command's name."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if arguments else USER_FAULT
    name, *rest = arguments
    if name.startswith(("-sc", "--shell")):
        from pipeline.commandline import complete_shell

        complete_shell(arguments, list(COMMANDS))
        return 0
    if name not in COMMANDS:
        raise UserError("unknown command", got=name, do=nearest(name, COMMANDS))
    command = importlib.import_module(f"pipeline.commands.{name.replace('-', '_')}")
    status: int = command.main(rest)
    return status


def usage() -> str:
    """What `--help` prints."""
    lines = [f"  {name:16}{what}" for name, what in COMMANDS.items()]
    head = "usage: python -m pipeline COMMAND [options | hydra overrides]"
    return "\n".join([head, "", "commands:", *lines, "", "examples:", EXAMPLES])


if __name__ == "__main__":
    main()
