"""The command line: light imports, Hydra's flags, sweeps, exit codes, no stray files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import COMMANDS, dispatch
from pipeline.errors import exit_code
from pipeline.runs import locked

HEAVY = "{'torch', 'ray', 'transformers', 'wandb', 'pandas', 'datasets', 'pyarrow', 'matplotlib'}"
DATA_ONLY = ("+experiment=tiny", "executor=local", "to_stage=prompts")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pipeline"])


Call = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        code: int | str | None
        try:
            code = exit_code(lambda: dispatch(arguments))
        except SystemExit as ended:  # Hydra ends the process after --help
            code = ended.code
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("arguments", ["--help", "plan +experiment=tiny", "runs", "gc --dry-run"])
def test_nothing_heavy_is_imported(arguments: str) -> None:
    code = (
        "import sys; from pipeline.__main__ import dispatch;"
        f"dispatch({arguments.split()!r}); sys.exit(' '.join({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert done.stderr.strip() == ""


def test_help_names_every_command(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert call()[0] == 2


def test_unknown_command_names_the_nearest(call: Call) -> None:
    code, _, err = call("rum")
    assert code == 2
    assert "did you mean run?" in err


# Hydra's own composition errors in our words
MISTAKES = [
    ("align=dpoo", "the group align has no option dpoo", "did you mean dpo?"),
    ("+experiment=ppo_pxt", "the group experiment has no option", "did you mean ppo_ptx?"),
    ("align.klcoef=1", "unknown config key", "did you mean align.kl_coef?"),
    ("alignn=dpo", "unknown config key", "did you mean align?"),
    ("experiment=ppo", "Could not override 'experiment'", "+experiment=ppo"),
    ("scale=5", "Config group override must be a string", ""),
    ("nonsense", "this override cannot be read", "KEY=VALUE"),
    ("align.policy_lr=-1", "align.policy_lr must be positive", "above 0"),
]


@pytest.mark.parametrize(("override", "what", "do"), MISTAKES)
def test_mistakes_end_at_once_without_a_traceback(
    call: Call, override: str, what: str, do: str
) -> None:
    code, _, err = call("run", override)
    assert code == 2
    assert what in err
    assert do in err
    assert "Traceback" not in err
    assert "Error executing job" not in err
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--cfg", "job", "-p", "align", "align=dpo"), "kind: dpo"),
        (("--cfg", "job", "--resolve"), "name: run"),
        (("--info", "defaults-tree"), "schema/run"),
        (("--help",), "align: best_of_n, cdpo, dpo, grpo, hinge, ipo, kto, "),
    ],
)
def test_hydras_flags_work_behind_the_command(
    call: Call, flags: tuple[str, ...], expected: str
) -> None:
    _, out, _ = call("run", *flags)
    assert expected in out
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pipeline pl", "plan"),
        ("pipeline run align=d", "align=dpo"),
        ("pipeline run align.kl_c", "align.kl_coef= align.kl_controller="),
        ("pipeline plan +experiment=ti", "+experiment=tiny"),
        ("pipeline show ", ""),
    ],
)
def test_tab_completion(
    call: Call, monkeypatch: pytest.MonkeyPatch, line: str, offered: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    code, out, _ = call("-sc", "query=bash")
    assert (code, out.strip()) == (0, offered)


def test_plan_shows_why_arithmetic_and_departures(call: Call) -> None:
    code, out, _ = call("plan", "+experiment=tiny", "align.kl_coef=0.7")
    assert code == 0
    for expected in ("not made yet", "minibatches an iteration", "align.kl_coef", "0.7"):
        assert expected in out
    assert os.listdir() == []


def test_a_run_again_shown_listed_and_collected(call: Call, tmp_path: Path) -> None:
    assert call("run", *DATA_ONLY)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    first = json.loads((folder / "summary.json").read_text())
    code, out, _ = call("run", *DATA_ONLY)
    assert code == 0
    assert "0 of 1 stages to execute" in out
    assert json.loads((folder / "summary.json").read_text()) == first | {"cached": True}
    assert sorted(os.listdir()) == ["artifacts", "runs"]
    check_the_other_commands(call, folder)


def check_the_other_commands(call: Call, folder: Path) -> None:
    assert folder.name in call("runs")[1]
    assert "prompts" in call("show", "tiny")[1]
    shown: dict[str, Any] = json.loads(call("show", folder.name, "--json")[1])
    assert shown["config"]["name"] == "tiny"
    assert shown["stages"]["prompts"]["status"] == "cached"
    assert call("report", str(folder))[1].strip().endswith("report.html")
    assert "has no policy model" in call("chat", folder.name, "--prompt", "x")[2]
    assert "freed 0.0 MB" in call("gc")[1]
    for file in folder.iterdir():
        file.unlink()
    assert "prompts" in call("gc", "--dry-run")[1]
    assert list(Path("artifacts/prompts").iterdir())
    call("gc")
    assert not list(Path("artifacts/prompts").iterdir())


def test_no_such_run_names_the_nearest(call: Call) -> None:
    Path("runs/tiny-0123abcd").mkdir(parents=True)
    Path("runs/tiny-0123abcd/run.json").write_text("{}")
    code, _, err = call("show", "tinny-0123abcd")
    assert code == 2
    assert "did you mean tiny-0123abcd?" in err


def test_a_sweep_makes_a_run_a_combination_and_leaves_nothing_else(call: Call) -> None:
    assert call("run", "-m", *DATA_ONLY, "seed=1,2")[0] == 0
    assert len(list(Path("runs").glob("tiny-*/summary.json"))) == 2
    assert sorted(os.listdir()) == ["artifacts", "runs"]


def test_a_wrong_combination_stops_a_sweep_before_any_work(call: Call) -> None:
    code, _, err = call("run", "-m", *DATA_ONLY, "data.prompts.num_train=16,-1")
    assert code == 2
    assert err.count("num_train must be at least 1") == 1
    assert os.listdir() == []


def test_two_commands_in_one_run_folder_are_refused(call: Call, tmp_path: Path) -> None:
    with locked(tmp_path / "mine"):
        code, _, err = call("run", *DATA_ONLY, "run_dir=mine")
    assert code == 2
    assert "in use by another run" in err
    assert f"process {os.getpid()}" in err


def test_every_folder_that_cannot_be_written_is_named(call: Call) -> None:
    Path("file").touch()
    code, _, err = call("run", *DATA_ONLY, "runs_dir=file/runs", "store=file/store")
    assert code == 2
    assert "the store cannot be written" in err
    assert "the run folder cannot be written" in err


def test_interrupts_have_their_own_code() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_code(interrupted) == 130
