"""Hydra behind the sub-commands: all of its flags work, its errors read like ours.

python -m pipeline run --cfg job | --info | --help | -m ... | key=value ...
pipeline -sc install=bash          # tab completion
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pipeline.composition import all_keys, register_schemas, typed
from pipeline.config import PipelineConfig
from pipeline.errors import nearest, raise_faults
from pipeline.runs import all_runs
from stages.contracts import InterruptedRunError, UserError

SWEEP = {"-m", "--multirun"}
TAKE_A_RUN = ("show", "report", "chat", "export", "serve", "evaluate-reward", "serve-reward")


Task = Callable[[PipelineConfig, DictConfig], None]


def with_config(arguments: Sequence[str], task: Task) -> None:
    """Let Hydra read `arguments`, then call `task` with the typed and the composed config.

    In a sweep (`-m`) the task is called once a combination, after all of them were found right.

    Raises:
        UserError: what Hydra or the dataclasses refuse.
    """
    register_schemas()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exception: else Hydra prints it and exits
    if SWEEP & set(arguments):
        with TemporaryDirectory() as folder:
            _through_hydra([*arguments, f"hydra.sweep.dir={folder}"], lambda *_: None)
    _through_hydra(arguments, task)


def _through_hydra(arguments: Sequence[str], task: Task) -> None:
    sys.argv = [sys.argv[0], *arguments]
    failures: list[Exception] = []

    def run_task(composed: DictConfig) -> None:
        if any(isinstance(failure, InterruptedRunError) for failure in failures):
            return
        try:
            task(typed(composed), composed)
        except Exception as error:  # noqa: BLE001  # raised below: Hydra would print a line of its own
            failures.append(error)

    entry = hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
    try:
        entry(run_task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise translate(error) from None
    _raise_first(failures)


def _raise_first(failures: Sequence[Exception]) -> None:
    """What went wrong in a job; mistakes in several jobs of a sweep are reported together."""
    for failure in failures:
        if not isinstance(failure, UserError):
            raise failure
    raise_faults([failure for failure in failures if isinstance(failure, UserError)])


def complete_shell(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Answer `-sc`: names of commands and runs from here, keys and options from Hydra.

    Hydra reads the line from COMP_LINE and must not see the sub-command in it.
    """
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    command, space, line = rest.partition(" ")
    if not any("query" in argument for argument in arguments):
        with_config(arguments, lambda *_: None)
    elif not space:
        _offer(commands, command)
    elif command in TAKE_A_RUN:
        _offer([folder.name for folder in all_runs(Path("runs"))], line)
    else:
        os.environ["COMP_LINE"] = f"{program} {line}"
        with_config(arguments, lambda *_: None)


def _offer(names: Sequence[str], begun: str) -> None:
    sys.stdout.write(" ".join(name for name in names if name.startswith(begun.strip())) + "\n")


def translate(error: Exception) -> UserError:
    """Hydra's composition errors as what, got and do, with the nearest valid name."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [name for name in error.options if not name.startswith("_")]
        return UserError(
            f"the group {group} has no option {option}",
            got=f"{group}={option}",
            do=nearest(option, options),
        )
    if isinstance(error, OverrideParseException):
        return UserError(
            "this override cannot be read", got=error.override, do="write KEY=VALUE or GROUP=OPTION"
        )
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        key = str(cause.full_key)
        same_depth = [known for known in all_keys() if known.count(".") == key.count(".")]
        return UserError("unknown config key", got=key, do=nearest(key, same_depth))
    lines = str(cause or error).strip().splitlines()
    return UserError(lines[0], do=" ".join(line.strip() for line in lines[1:]))
