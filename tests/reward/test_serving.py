"""The reward server's routes without Ray: who may ask, what may be asked, how it fails."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from reward.serving import RefusedError, Score, ScoringService, ServingLimits, Tokens, read, sha256
from stages.contracts import UserError
from stages.records.schemas import Message, RecordError

TOKEN = "the-right-token"
MODEL = {"name": "tiny", "fingerprint": "abcd", "reward_bias": 0.5}
PROMPT = [{"role": "user", "content": "Say two."}]


def encode(prompt: list[Message], response: str, finished: bool) -> Tokens:
    """A letter is a token; the context has room for twenty."""
    if len(response) > 20:
        raise RecordError("response", f"{len(response)} tokens", "at most 20")
    return [len(prompt)], [ord(letter) for letter in response] + [0] * finished


async def by_length(tokens: Tokens) -> float:
    return float(len(tokens[1]))


def service(score: Score = by_length, **limits: Any) -> ScoringService:
    return ScoringService(
        encode,
        score,
        model=MODEL,
        token_sha256=sha256(TOKEN),
        limits=ServingLimits(**limits),
    )


def body(*responses: str, **changes: Any) -> dict[str, Any]:
    full = {
        "prompts": [PROMPT] * len(responses),
        "responses": list(responses),
        "finished": [False] * len(responses),
    }
    return {**full, **changes}


Post = Callable[..., Awaitable[httpx.Response]]


def talk(server: ScoringService, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(server.app())
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", headers=headers
        ) as client:
            return await work(client)

    return asyncio.run(run())


def post(server: ScoringService, asked: Any, **headers: str) -> httpx.Response:
    answer: httpx.Response = talk(
        server, lambda client: client.post("/v1/scores", json=asked, headers=headers)
    )
    return answer


def test_scores_in_order_and_who_gave_them() -> None:
    """The later rows are ready first. Mutation: in the order in which they end."""

    async def later_first(tokens: Tokens) -> float:
        await asyncio.sleep(0.05 / (1 + len(tokens[1])))
        return float(len(tokens[1]))

    asked = body("", "a", "aaaa", finished=[False, False, True])
    answer = post(service(later_first), asked)
    assert answer.status_code == 200
    assert answer.json() == {"scores": [0.0, 1.0, 5.0], "model": MODEL}
    assert post(service(), body()).json()["scores"] == []


@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer the-right-toke"]
)
def test_without_the_token_nothing_is_read(header: str) -> None:
    """401 before the body is looked at. Mutation: the token checked after `read`."""
    answer = post(service(), {"no": "request"}, Authorization=header)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_health_is_open_and_only_read() -> None:
    async def ask(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        del client.headers["Authorization"]
        return await client.get("/health"), await client.post("/health")

    health, posted = talk(service(), ask)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert posted.status_code == 405


@pytest.mark.parametrize(
    ("asked", "field", "row"),
    [
        (body("a", "b", responses=["a", 7]), "responses[1]", 1),
        (body("a", "b", finished=[True, "no"]), "finished[1]", 1),
        (body("a", prompts=[[{"role": "user", "content": None}]]), "prompts[0][0].content", 0),
        (body("a", "b", prompts=[PROMPT, []]), "prompts[1]", 1),
        (body("a", "b", prompts=[PROMPT, [{"role": "user"}]]), "prompts[1][0]", 1),
        (body("a", prompts=[[{"role": "pirate", "content": "x"}]]), "prompts[0][0].role", 0),
        (body("a", prompts=[[*PROMPT, {"role": "assistant", "content": "x"}]]), "prompts[0]", 0),
        (body("a", "b", prompts=[PROMPT]), "prompts", 1),
        (body("a", finished=[True, True]), "finished", 1),
        (body("a", "b" * 21), "responses[1]", 1),
        (body("a", temperature=1), "temperature", None),
        ({"prompts": [], "responses": []}, "finished", None),
        ([1, 2], None, None),
    ],
)
def test_bad_input_is_422_with_field_and_row(
    asked: Any, field: str | None, row: int | None
) -> None:
    answer = post(service(), asked)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert (error.get("field"), error.get("row")) == (field, row)
    assert error["message"]


def test_no_json_is_422() -> None:
    with pytest.raises(RefusedError, match="Invalid JSON") as caught:
        read(b'{"prompts": [')
    assert caught.value.status == 422


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_none_is_500_with_the_row(score: float) -> None:
    """Mutation: without the check the answer holds NaN."""

    async def bad_on_two(tokens: Tokens) -> float:
        return score if len(tokens[1]) == 2 else 1.0

    answer = post(service(bad_on_two), body("a", "b", "cc"))
    assert answer.status_code == 500
    assert answer.json() == {"error": {"message": f"the score is {score}", "row": 2}}


def test_a_model_that_fails_is_500_with_the_cause() -> None:
    async def breaks(tokens: Tokens) -> float:
        raise MemoryError("no memory left")

    answer = post(service(breaks), body("a", "b"))
    assert answer.status_code == 500
    assert "MemoryError: no memory left" in answer.json()["error"]["message"]


def test_a_late_answer_is_504_and_its_rows_are_let_go() -> None:
    """Mutation: rows in hand not counted down: the next request would find the server full."""
    ended: list[str] = []

    async def slow_on_two(tokens: Tokens) -> float:
        try:
            await asyncio.sleep(60 if len(tokens[1]) == 2 else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return 1.0

    server = service(slow_on_two, deadline_s=0.3, queued_rows=2)
    late = post(server, body("aa", "bb"))
    assert late.status_code == 504
    assert "not scored within 0.3 s" in late.json()["error"]["message"]
    assert ended == ["cancelled"] * 2
    assert post(server, body("a", "b")).status_code == 200


def test_beyond_the_bound_it_is_503_with_retry_after() -> None:
    """Three rows in hand of four: two more are too many, one is not; five never fit."""
    gate = asyncio.Event()

    async def waits(tokens: Tokens) -> float:
        await gate.wait()
        return 1.0

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        async def send(count: int) -> httpx.Response:
            return await client.post("/v1/scores", json=body(*["a"] * count))

        first = asyncio.create_task(send(3))
        await asyncio.sleep(0.2)
        refused, too_large = await send(2), await send(5)
        health = await client.get("/health")
        fits = asyncio.create_task(send(1))
        await asyncio.sleep(0.05)
        gate.set()
        return [refused, too_large, health, await first, await fits]

    answers = talk(service(waits, queued_rows=4), ask)
    assert [answer.status_code for answer in answers] == [503, 413, 200, 200, 200]
    assert answers[0].headers["Retry-After"] == "1"


def test_limits_that_make_no_sense() -> None:
    for name in ("batch_size", "deadline_s", "queued_rows"):
        with pytest.raises(UserError, match=f"{name} must be positive"):
            ServingLimits(**{name: 0})
