"""What may be asked, in OpenAI's shape, and how it is refused."""

import json
from typing import Any

import pytest

from stages.lm.serving.answering import first_stop, held_back
from stages.lm.serving.protocol import ChatRequest, RequestError, TextRequest, parse

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def read(**changes: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps(CHAT | changes).encode())


def test_what_clients_send() -> None:
    asked = read(
        max_completion_tokens=5, temperature=0.5, top_p=0.9, seed=-3, stop="x", stream=True, n=1,
        user="me", stream_options={"include_usage": True},
    )  # fmt: skip
    assert (asked.max_completion_tokens, asked.temperature, asked.seed) == (5, 0.5, -3)
    assert asked.stop == ["x"]
    assert asked.with_usage
    assert read(stop=None).stop == []
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    (message,) = read(messages=[{"role": "developer", "content": parts}]).messages
    assert message.plain() == {"role": "system", "content": "a b"}
    text = parse(TextRequest, b'{"model": "m", "prompt": ["once"]}')
    assert text.prompt == "once"


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"tools": []}, "tools", "tools is not supported"),
        ({"n": 2}, "n", "Input should be 1"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "judge", "content": ""}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, ""),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    changes: dict[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        read(**changes)
    error = caught.value.body()["error"]
    assert caught.value.status == 400
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"model": "m"}'])
def test_what_is_no_request_at_all(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse(ChatRequest, body)


def test_stops_by_hand() -> None:
    assert first_stop("one two three", ["two", "three"]) == 4
    assert first_stop("one two", ["x"]) is None
    assert held_back("one t", ["two", "three"]) == 1
    assert held_back("one th", ["two", "three"]) == 2
    assert held_back("one\ufffd\ufffd", []) == 2
    assert held_back("one", ["two"]) == 0
