"""Asking a server for JSON with JSON: deadlines, retries with backoff, a token, answers in order.

What may pass by itself is tried again: a connection refused or broken, a request that took too
long, an answer that is no JSON, 408, 429 and 5xx. Any other status is raised at once. When nothing
helps the call ends in a RewardError that says what, how often, how long and why.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_exponential_jitter,
)

from reward.endpoint_config import EndpointConfig, secret_from
from reward.text_rewards import RewardError

Answer = TypeVar("Answer")
Json = Any
LONGEST_WAIT_S = 30.0  # between two tries, unless the server asks for more
PASSING = {408, 429}  # and 5xx


@dataclass(kw_only=True)
class Question:
    """What is asked, for which rows of the batch; and how it went so far."""

    rows: tuple[int, ...]
    body: Json
    tries: int = 0
    trouble: str = "no answer yet"
    answered: bool = field(default=False, init=False)


Ask = Callable[[Json], Awaitable[Json]]


class _PassingError(Exception):
    """Trouble that may be over at the next try. wait_s: what the server asks to wait at least."""

    def __init__(self, trouble: str, wait_s: float = 0.0) -> None:
        super().__init__(trouble)
        self.wait_s = wait_s


class _LastingError(Exception):
    """Trouble that another try would not end."""


class Endpoint:
    """One address of a server. name: of the reward in errors. secret_env: names the variable."""

    def __init__(self, name: str, url: str, secret_env: str, config: EndpointConfig) -> None:
        self._name, self._url, self._config = name, url, config
        self._secret = secret_from(secret_env)

    def ask_all(
        self,
        questions: Sequence[Question],
        answer: Callable[[Ask, Question], Awaitable[Answer]],
    ) -> list[Answer]:
        """The answers in the order of the questions.

        answer: makes one of a question; it may ask several times, and raises RewardError itself
        when what comes back is of no use.

        Raises:
            RewardError: the first question that failed, or all that the deadline left open.
        """
        return run_to_end(self._ask_all(questions, answer))

    async def _ask_all(
        self, questions: Sequence[Question], answer: Callable[[Ask, Question], Awaitable[Answer]]
    ) -> list[Answer]:
        gate = asyncio.Semaphore(self._config.concurrency)
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}

        async def one(question: Question) -> Answer:
            made = await answer(partial(self._patiently, client, gate, question), question)
            question.answered = True
            return made

        try:
            async with (
                asyncio.timeout(self._config.deadline_s),
                httpx.AsyncClient(headers=headers, timeout=None) as client,
                asyncio.TaskGroup() as group,
            ):
                tasks = [group.create_task(one(question)) for question in questions]
        except TimeoutError:
            raise self._too_late([q for q in questions if not q.answered]) from None
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _patiently(
        self, client: httpx.AsyncClient, gate: asyncio.Semaphore, question: Question, body: Json
    ) -> Json:
        """One request, tried again while there is hope; nothing is held between the tries."""
        began, before = time.monotonic(), question.tries
        try:
            async for attempt in self._retrying():
                with attempt:
                    async with gate:
                        question.tries += 1
                        return await self._request(client, body)
                error = attempt.retry_state.outcome.exception()
                if isinstance(error, _PassingError):  # not the deadline that cancels it
                    question.trouble = str(error)
        except (_PassingError, _LastingError) as error:
            count = question.tries - before
            took = f"{count} {'try' if count == 1 else 'tries'}, {time.monotonic() - began:.1f} s"
            cause = f"{took} at {self._url}, at last: {error}"
            raise RewardError(self._name, question.rows, cause) from None

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            wait=self._wait_s,
            stop=stop_any(
                stop_after_attempt(self._config.retries + 1),
                stop_before_delay(self._config.deadline_s),
            ),
            reraise=True,
        )

    async def _request(self, client: httpx.AsyncClient, body: Json) -> Json:
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                reply = await client.post(self._url, json=body)
        except TimeoutError:
            raise _PassingError(f"no answer within {timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _PassingError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if not reply.is_success:
            status = f"{reply.status_code} {reply.reason_phrase}: {self._without_secret(reply)}"
            if reply.status_code in PASSING or reply.is_server_error:
                raise _PassingError(status, retry_after_s(reply.headers.get("Retry-After", "")))
            raise _LastingError(status)
        try:
            return reply.json()
        except ValueError:
            raise _PassingError(f"no JSON: {self._without_secret(reply)!r}") from None

    def _wait_s(self, state: RetryCallState) -> float:
        backoff = wait_exponential_jitter(
            multiplier=self._config.backoff_s, max=LONGEST_WAIT_S, jitter=self._config.backoff_s
        )(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, _PassingError) else 0.0
        return max(backoff, asked)

    def _without_secret(self, reply: httpx.Response) -> str:
        """The beginning of what the server said; some repeat the key they were given."""
        text = " ".join(reply.text.split())
        text = text.replace(self._secret, "***") if self._secret else text
        return text if len(text) <= 300 else f"{text[:297]}..."

    def _too_late(self, left: Sequence[Question]) -> RewardError:
        rows = [row for question in left for row in question.rows]
        tries = sum(question.tries for question in left)
        cause = (
            f"the deadline of {self._config.deadline_s:g} s passed after {tries} tries "
            f"at {self._url}, the last trouble: {left[-1].trouble}"
        )
        return RewardError(self._name, rows, cause)


def retry_after_s(header: str) -> float:
    """Seconds to wait, from the two forms of Retry-After (RFC 9110, 10.2.3); 0 without one."""
    text = header.strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def run_to_end(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine here, or in a thread where a loop already runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
