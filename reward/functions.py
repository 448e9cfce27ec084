"""Python functions as rewards: found by import path, called with a deadline."""

import importlib
import inspect
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

from reward.text_rewards import RewardError, TextReward
from stages.contracts import UserError
from stages.records.schemas import Message

SIGNATURE = "(prompts, responses, finished) -> list[float]"


def load_function(path: str) -> TextReward:
    """The function that `module.function` names.

    Raises:
        UserError: no such module or name, an import that fails, another signature.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the reward function {path} cannot be imported",
            got=str(error),
            do=f"put {module}.py into this folder or on PYTHONPATH",
        ) from None
    except AttributeError:
        raise UserError(
            f"the reward function {path} is not there",
            got=f"the module {module} has no {name}",
            do=f"define {name}{SIGNATURE} there, or name another",
        ) from None
    except Exception as error:
        raise UserError(
            f"the reward function {path} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            do=f"mend {module}",
        ) from error
    _check_signature(path, found)
    function: TextReward = found
    return function


def check_functions(paths: Iterable[str]) -> list[UserError]:
    """What is wrong with them: nothing else should find out later."""
    faults = []
    for path in paths:
        try:
            load_function(path)
        except UserError as fault:
            faults.append(fault)
    return faults


def _check_signature(path: str, found: Any) -> None:
    try:
        inspect.signature(found).bind([], [], [])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the reward function {path} cannot be called with three arguments",
            got=str(error),
            do=f"its signature is {SIGNATURE}",
        ) from None


class TimedReward:
    """A reward whose call may take so long, and whose failure names it."""

    def __init__(self, name: str, reward: TextReward, timeout_s: float) -> None:
        self.name, self.reward, self.timeout_s = name, reward, timeout_s

    def __call__(
        self, prompts: list[list[Message]], responses: list[str], finished: list[bool]
    ) -> list[float]:
        """What the reward gives.

        Raises:
            RewardError: it raised, or gave nothing in time.
        """
        try:
            return within(self.timeout_s, lambda: self.reward(prompts, responses, finished))
        except TimeoutError:
            cause = f"no answer within {self.timeout_s:g} s (reward.timeout_s)"
            raise RewardError(self.name, (), cause) from None
        except RewardError:
            raise
        except BaseException as error:
            raise RewardError(self.name, (), f"{type(error).__name__}: {error}") from error


def within(timeout_s: float, call: Callable[[], list[float]]) -> list[float]:
    """The call's result. A call that is late is left alone: its thread dies with the process.

    Raises:
        TimeoutError: it is late. Whatever the call raises.
    """
    answers: queue.Queue[tuple[list[float], BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001  # a thread must hand on all, sys.exit too
            answers.put(([], error))

    threading.Thread(target=work, daemon=True).start()
    try:
        scores, failure = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return scores
