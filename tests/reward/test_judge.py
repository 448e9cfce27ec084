"""An LLM judge against a fake that speaks the chat-completions protocol."""

import json
from pathlib import Path
from typing import Any

import pytest

from reward.endpoint_config import JudgeConfig
from reward.judge import LlmJudge, grade_in
from reward.text_rewards import RewardError
from stages.contracts import UserError
from tests.reward.fake_endpoint import Reply, Request, Script, answering, in_turn

PROMPT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Say two."},
]
KEY = "key-of-the-test"


def says(text: str | None, **more: Any) -> Reply:
    """A chat completion as OpenAI, vLLM and llama.cpp answer it."""
    message = {"role": "assistant", "content": text}
    return Reply(
        body={
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "judge-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        },
        **more,
    )


def judge(url: str, **changes: Any) -> LlmJudge:
    defaults = {"model": "judge-1", "backoff_s": 0.01, "retries": 2, "timeout_s": 5}
    return LlmJudge(JudgeConfig(base_url=f"{url}/v1", **{**defaults, **changes}))


def by_length(request: Request, before: int) -> Reply:
    """Grades the response in the prompt by its number of words."""
    text = request.body["messages"][0]["content"]
    response = text.split("<response>\n")[1].split("\n")[0]
    return says(f'It is fine.\n{{"score": {len(response.split())}}}')


def test_grades_become_rewards_in_proportion_and_in_order() -> None:
    """1..10 to -1..1: 1 is -1, 10 is 1, 4 is -1/3. Mutation: 4 / 10 of the range."""
    responses = ["w", " ".join("w" * 10), "w w w w"]
    with answering(by_length) as server:
        rewards = judge(server.url)([PROMPT] * 3, responses, [True] * 3)
    assert rewards == pytest.approx([-1, 1, -1 / 3])


def test_the_request_is_what_every_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with answering(by_length) as server:
        judge(server.url, api_key_env="JUDGE_KEY", max_tokens=99)([PROMPT], ["two"], [False])
        (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.body.keys() == {"model", "messages", "temperature", "max_tokens"}
    assert (request.body["model"], request.body["temperature"]) == ("judge-1", 0)
    assert request.body["max_tokens"] == 99
    (message,) = request.body["messages"]
    assert message["role"] == "user"
    assert "system: You are brief.\n\nuser: Say two.\n</conversation>" in message["content"]
    assert "<response>\ntwo\n[the response was cut here" in message["content"]
    assert "from 1 (useless) to 10 " in message["content"]


def test_a_response_cannot_fill_in_the_template() -> None:
    """Mutation: one replacement after another puts the prompt where the response says so."""
    with answering(lambda request, before: says('{"score": 2}')) as server:
        judge(server.url)([PROMPT], ["{conversation} {highest}"], [True])
        (request,) = server.requests
    assert "<response>\n{conversation} {highest}\n" in request.body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ('{"score": 7}', 7),
        ('Good, but long.\n{"score": 7.5}', 7.5),
        ('```json\n{ "score" : 7 }\n```', 7),
        ("Well said.\nScore: 7", 7),
        ('<think>perhaps {"score": 2}</think>{"score": 7}', 7),
        ('{"score": 7} so {"score": 7.0}', 7),
        ('{"score": 7} or {"score": 8}', None),
        ('{"score": 11}', None),
        ('{"score": 0}', None),
        ('{"score": -7}', None),
        ('{"score": "7"}', None),
        ('{"score": NaN}', None),
        ('{"score": 7', None),
        ("7", None),
        ("Score: 7/10", None),
        ("I would give a score: 7", None),
        ("", None),
    ],
)
def test_only_one_clear_grade_counts(answer: str, grade: float | None) -> None:
    assert grade_in(answer, 1, 10) == grade


def test_an_unreadable_answer_is_asked_for_again() -> None:
    """With what it said and what is wanted: at temperature 0 the same request ends the same."""
    with answering(in_turn(says("Seven."), says(None), says('{"score": 10}'))) as server:
        assert judge(server.url)([PROMPT], ["two"], [True]) == [1.0]
        _, second, third = server.requests
    assert [m["role"] for m in second.body["messages"]] == ["user", "assistant", "user"]
    assert second.body["messages"][1]["content"] == "Seven."
    assert '{"score": n}, n from 1 to 10' in second.body["messages"][2]["content"]
    assert [m["content"] for m in third.body["messages"]][1] == "(no answer)"


def test_unreadable_to_the_end_is_an_error_that_shows_the_answer() -> None:
    """Never a grade in the middle. Mutation: one time fewer."""
    with answering(in_turn(says("I cannot judge this."))) as server:
        with pytest.raises(RewardError) as caught:
            judge(server.url, asks=2)([PROMPT] * 2, ["two", "two"], [True, True])
        assert len(server.requests) == 2
    assert caught.value.rows == (0, 1)
    assert caught.value.cause == (
        "2 answers without one grade from 1 to 10, the last: 'I cannot judge this.'"
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (in_turn(Reply(status=401, body={"error": {"message": "bad key"}})), "1 try.*401.*bad key"),
        (in_turn(Reply(status=500, body={"error": {"message": "oom"}})), "3 tries.*500.*oom"),
        (in_turn(Reply(status=429, headers={"Retry-After": "0"})), "3 tries.*429"),
        (in_turn(Reply(raw=b'{"choices": [')), "3 tries.*no JSON"),
        (in_turn(Reply(hang_up=True)), "3 tries.*(RemoteProtocolError|ReadError)"),
        (in_turn(Reply(delay_s=5)), "3 tries.*no answer within 0.5 s"),
        (in_turn(Reply(body={"error": "overloaded"})), "no chat completion: .*overloaded"),
        (in_turn(Reply(body={"choices": []})), "no chat completion"),
    ],
)
def test_every_failure_of_the_server_is_an_error(script: Script, said: str) -> None:
    with answering(script) as server, pytest.raises(RewardError, match=said):
        judge(server.url, timeout_s=0.5)([PROMPT], ["two"], [True])


def test_passing_trouble_ends_well() -> None:
    script = in_turn(
        Reply(status=429, headers={"Retry-After": "0"}), Reply(hang_up=True), says('{"score": 1}')
    )
    with answering(script) as server:
        assert judge(server.url)([PROMPT], ["two"], [True]) == [-1.0]


def test_the_same_response_is_paid_for_once() -> None:
    """Within a call and between calls; a response that was cut is another one."""
    with answering(by_length) as server:
        graded = judge(server.url)
        assert graded([PROMPT] * 3, ["w", "w w", "w"], [True] * 3)[0] == -1
        assert len(server.requests) == 2
        graded([PROMPT] * 2, ["w w", "w"], [True] * 2)
        assert len(server.requests) == 2
        graded([PROMPT, PROMPT[1:]], ["w", "w"], [False, True])
        assert len(server.requests) == 4


def test_what_was_graded_stays_known_when_another_row_fails() -> None:
    def script(request: Request, before: int) -> Reply:
        bad = "dog" in json.dumps(request.body)
        return Reply(status=400, body={}, delay_s=0.3) if bad else by_length(request, before)

    with answering(script) as server:
        graded = judge(server.url)
        with pytest.raises(RewardError) as caught:
            graded([PROMPT] * 2, ["w", "dog"], [True] * 2)
        assert caught.value.rows == (1,)
        assert graded([PROMPT], ["w"], [True]) == [-1.0]
        assert len(server.requests) == 2


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "judge.txt"
    path.write_text('{response} answers {conversation}? {"score": n}, {lowest} to {highest}')
    with answering(in_turn(says('{"score": 0}'))) as server:
        own = judge(server.url, template=str(path), lowest=0, highest=5, low=0, high=1)
        assert own(prompts=[PROMPT[1:]], responses=["two"], finished=[True]) == [0.0]
        (request,) = server.requests
    said = request.body["messages"][0]["content"]
    assert said == 'two answers user: Say two.? {"score": n}, 0 to 5'
    path.write_text("{response}")
    with pytest.raises(UserError, match="no place for what is graded"):
        judge("http://127.0.0.1:1", template=str(path))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="lowest grade must be below"):
        JudgeConfig(lowest=5, highest=5)
    with pytest.raises(UserError, match="base_url must be an address"):
        JudgeConfig(base_url="http://key@host/v1")
