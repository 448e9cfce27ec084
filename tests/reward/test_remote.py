"""The client of a reward server against one that fails in every way a server can."""

import asyncio
import logging
import math
import socket
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from reward.config import RewardConfig
from reward.endpoint import retry_after_s
from reward.endpoint_config import JudgeConfig, RemoteConfig, check_secrets
from reward.remote import RemoteReward
from reward.text_rewards import RewardError
from stages.contracts import UserError
from tests.reward.fake_endpoint import FakeEndpoint, Reply, Request, Script, answering, in_turn

SECRET = "s3cret-of-the-test"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", SECRET)


def lengths(request: Request, before: int) -> Reply:
    """A server that scores by length."""
    return Reply(body={"scores": [len(text) / 2 for text in request.body["responses"]]})


def config(url: str, **changes: Any) -> RemoteConfig:
    return RemoteConfig(url=url, **{"backoff_s": 0.01, "retries": 2, "timeout_s": 5, **changes})


def ask(server: FakeEndpoint, responses: list[str], **changes: Any) -> list[float]:
    prompts = [[{"role": "user", "content": f"about {text}"}] for text in responses]
    reward = RemoteReward(config(server.url, **changes))
    return reward(prompts, responses, [len(text) % 2 == 0 for text in responses])


def failure(script: Script, rows: int = 1, **changes: Any) -> tuple[RewardError, FakeEndpoint]:
    with answering(script) as server, pytest.raises(RewardError) as caught:
        ask(server, ["ab"] * rows, **changes)
    assert SECRET not in str(caught.value)
    return caught.value, server


def test_scores_come_back_in_order_whichever_request_ends_first() -> None:
    """Seven rows in threes; the first request is the slowest. Mutation: in order of arrival."""

    def first_is_slow(request: Request, before: int) -> Reply:
        return replace(
            lengths(request, before), delay_s=0.2 if "a" in request.body["responses"] else 0
        )

    responses = ["a" * n for n in range(1, 8)]
    with answering(first_is_slow) as server:
        assert ask(server, responses, batch_size=3) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
        assert sorted(len(request.body["responses"]) for request in server.requests) == [1, 3, 3]
        longest = max(server.requests, key=lambda request: len(request.body["responses"][-1]))
    assert longest.path == "/v1/scores"
    assert longest.headers["Authorization"] == f"Bearer {SECRET}"
    assert longest.body == {
        "prompts": [[{"role": "user", "content": "about aaaaaaa"}]],
        "responses": ["aaaaaaa"],
        "finished": [False],
    }


def test_no_more_requests_at_once_than_allowed() -> None:
    """Mutation: without the gate all six overlap."""

    def slow(request: Request, before: int) -> Reply:
        return replace(lengths(request, before), delay_s=0.05)

    with answering(slow) as server:
        ask(server, ["a"] * 6, batch_size=1, concurrency=2)
    at_once = [
        sum(other.began <= request.began < other.ended for other in server.requests)
        for request in server.requests
    ]
    assert max(at_once) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=500, body={"detail": "out of memory"}),
        Reply(status=503, headers={"Retry-After": "0"}, body={}),
        Reply(status=429, body={"error": {"message": "slow down"}}),
        Reply(hang_up=True),
        Reply(raw=b'{"scores": [1.'),
        Reply(delay_s=5, body={"scores": [9.0]}),
    ],
    ids=["500", "503", "429", "closed connection", "half a JSON", "too slow"],
)
def test_passing_trouble_is_tried_again(trouble: Reply) -> None:
    with answering(in_turn(trouble, Reply(body={"scores": [1.0]}))) as server:
        assert ask(server, ["ab"], timeout_s=1.5) == [1.0]
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            Reply(status=500, body={"detail": "out of memory"}),
            "500 Internal Server Error: .*out of",
        ),
        (Reply(hang_up=True), "RemoteProtocolError|ReadError"),
        (Reply(raw=b"<html>"), "no JSON: '<html>'"),
        (Reply(delay_s=5), "no answer within 0.5 s"),
    ],
)
def test_lasting_trouble_is_an_error_never_a_score(trouble: Reply, said: str) -> None:
    """What, how often, how long, the last cause. Mutation: one try fewer."""
    error, server = failure(in_turn(trouble), timeout_s=0.5)
    assert len(server.requests) == 3
    assert error.rows == (0,)
    assert pytest.approx(0, abs=9) == float(error.cause.split("3 tries, ")[1].split(" s")[0])
    assert f"{server.url}/v1/scores" in error.cause
    with pytest.raises(RewardError, match=said):
        raise error


@pytest.mark.parametrize("status", [400, 401, 404, 422, 307])
def test_what_waiting_will_not_mend_is_asked_once(status: int) -> None:
    reply = Reply(status=status, body={"detail": f"not with {SECRET}"}, headers={"Location": "/x"})
    error, server = failure(in_turn(reply))
    assert len(server.requests) == 1
    assert error.cause.startswith("1 try, ")
    assert f" s at {server.url}/v1/scores, at last: {status} " in error.cause
    assert "not with ***" in error.cause


@pytest.mark.parametrize(
    ("body", "rows", "cause"),
    [
        ({"scores": [1.0, math.nan]}, (3,), "nan is no finite number"),
        ({"scores": [None, 1.0]}, (2,), "None is no finite number"),
        ({"scores": [1.0]}, (2, 3), "2 scores are wanted, got 1"),
        ({"rewards": [1.0, 2.0]}, (2, 3), "a list of 2 numbers is wanted, got None"),
        ([1.0, 2.0], (2, 3), "an answer without scores"),
    ],
)
def test_a_wrong_answer_names_the_rows_of_the_batch(
    body: Any, rows: tuple[int, ...], cause: str
) -> None:
    """The second request of two is the bad one. Mutation: rows counted within the request."""

    def script(request: Request, before: int) -> Reply:
        return Reply(body=body) if "d" in request.body["responses"] else lengths(request, before)

    with answering(script) as server, pytest.raises(RewardError) as caught:
        ask(server, ["a", "b", "c", "d"], batch_size=2)
    assert caught.value.rows == rows
    assert cause in caught.value.cause


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reward = RemoteReward(config(f"http://127.0.0.1:{port}"))
    with pytest.raises(RewardError, match=r"3 tries, .* ConnectError"):
        reward([[{"role": "user", "content": "x"}]], ["y"], [True])


def test_the_deadline_ends_all() -> None:
    """One request is answered, two never are. Mutation: the deadline of a request, not a call."""

    def script(request: Request, before: int) -> Reply:
        return replace(
            lengths(request, before), delay_s=0 if request.body["responses"] == ["a"] else 9
        )

    began = time.monotonic()
    with answering(script) as server, pytest.raises(RewardError) as caught:
        ask(server, ["a", "b", "c"], batch_size=1, deadline_s=2, timeout_s=0.8, retries=99)
    assert time.monotonic() - began < 8
    assert caught.value.rows == (1, 2)
    assert "the deadline of 2 s passed after" in caught.value.cause
    assert "no answer within 0.8 s" in caught.value.cause


def test_the_server_says_how_long_to_wait() -> None:
    """Mutation: without it the retry comes after 0.01 s."""
    busy = Reply(status=429, headers={"Retry-After": "1"}, body={})
    with answering(in_turn(busy, Reply(body={"scores": [1.0]}))) as server:
        assert ask(server, ["ab"]) == [1.0]
        first, second = server.requests
    assert second.began - first.ended >= 0.99
    error, server = failure(in_turn(replace(busy, headers={"Retry-After": "3600"})))
    assert len(server.requests) == 1  # it would be too late: the deadline is ten minutes
    assert "429" in error.cause


def test_both_forms_of_retry_after() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    assert retry_after_s(formatdate(time.time() - 60, usegmt=True)) == 0
    assert retry_after_s("") == retry_after_s("soon") == 0


def test_the_waits_grow() -> None:
    """0.1, 0.2, 0.4 s and up to 0.1 s more each. Mutation: 0.1 s each time."""
    _, server = failure(in_turn(Reply(status=500)), backoff_s=0.1, retries=3)
    pairs = zip(server.requests, server.requests[1:], strict=False)
    waits = [later.began - earlier.ended for earlier, later in pairs]
    for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert wait >= least - 0.01


def test_a_server_that_changes_its_model_is_refused() -> None:
    """A restarted server with another model would move the goal. Mutation: keep the newest."""

    def named(fingerprint: str) -> Reply:
        return Reply(body={"scores": [1.0], "model": {"fingerprint": fingerprint}})

    with answering(in_turn(named("aaaa"), named("aaaa"), named("bbbb"))) as server:
        reward = RemoteReward(config(server.url))
        for _ in range(2):
            assert reward([[{"role": "user", "content": "x"}]], ["y"], [True]) == [1.0]
        with pytest.raises(RewardError, match="bbbb answered, and aaaa is wanted"):
            reward([[{"role": "user", "content": "x"}]], ["y"], [True])
    error, _ = failure(in_turn(named("aaaa")), model="cccc")
    assert error.cause == "aaaa answered, and cccc is wanted"
    error, _ = failure(in_turn(Reply(body={"scores": [1.0]})), model="cccc")
    assert error.cause == "an unnamed model answered, and cccc is wanted"


def test_a_token_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_TOKEN")
    with pytest.raises(UserError, match="REWARD_TOKEN is not set"):
        RemoteReward(RemoteConfig())
    with answering(lengths) as server:
        assert ask(server, ["ab"], token_env="") == [1.0]
        assert "Authorization" not in server.requests[0].headers


def test_only_tokens_that_will_be_used_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work, by the key that names them. Mutation: those of components without weight."""
    monkeypatch.delenv("REWARD_TOKEN")
    assert RewardConfig().secrets == {}
    judge = JudgeConfig(weight=1, model="m", api_key_env="NO_SUCH_KEY")
    asked = RewardConfig(judge=judge, remote=RemoteConfig(weight=1)).secrets
    assert [fault.got for fault in check_secrets(asked)] == [
        "reward.judge.api_key_env=NO_SUCH_KEY",
        "reward.remote.token_env=REWARD_TOKEN",
    ]
    monkeypatch.setenv("NO_SUCH_KEY", "k")
    assert len(check_secrets(asked)) == 1


def test_the_token_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), answering(lengths) as server:
        ask(server, ["ab"])
    assert caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://me:pass@x", "http://x?key=1", "http://"]
)
def test_an_address_that_is_none_or_holds_a_secret(url: str) -> None:
    with pytest.raises(UserError, match="url must be an address") as caught:
        RemoteConfig(url=url)
    assert "pass" not in caught.value.got
    assert "key" not in caught.value.got


def test_it_works_where_a_loop_runs_already() -> None:
    """As in a notebook. Mutation: asyncio.run alone."""
    with answering(lengths) as server:

        async def notebook() -> list[float]:
            return ask(server, ["ab"])

        assert asyncio.run(notebook()) == [1.0]


def test_nothing_to_score() -> None:
    with answering(lengths) as server:
        assert ask(server, []) == []
