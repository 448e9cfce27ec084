"""A client of a server that speaks OpenAI's language, of any make: streamed answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from stages.contracts import UserError
from stages.lm.rollout import Sampling
from stages.records.schemas import Message

CONNECT_S, PIECE_S = 10.0, 600.0  # a first piece may wait for those who asked before


class RemoteSpeaker:
    """Answers prompts with a model of the server at `url`, by default its first.

    Raises:
        UserError: nobody answers there, or not in OpenAI's language.
    """

    def __init__(self, url: str, token: str, model: str | None = None) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(PIECE_S, connect=CONNECT_S)
        self._client = httpx.Client(base_url=base, headers=headers, timeout=timeout)
        self.model = model or self._first_model()

    def reply(self, prompt: list[Message], sampling: Sampling, seed: int) -> Iterator[str]:
        """The response so far, after each piece."""
        text = ""
        body = {"model": self.model, "messages": prompt, "stream": True, "seed": seed}
        with (
            self._told(),
            self._client.stream(
                "POST", "/v1/chat/completions", json=body | _options(sampling)
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise _refusal(answer)
            for chunk in _chunks(answer.iter_lines()):
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
                yield text

    def unknown_words(self, text: str) -> list[str]:
        """None: a server does not say which words it cannot read."""
        del text
        return []

    def known_words(self) -> list[str]:
        """None, for the same reason."""
        return []

    def _first_model(self) -> str:
        with self._told():
            answer = self._client.get("/v1/models")
            if answer.status_code != httpx.codes.OK:
                raise _refusal(answer)
            return str(answer.json()["data"][0]["id"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        where = str(self._client.base_url)
        try:
            yield
        except httpx.HTTPError as error:
            do = "start one: python -m pipeline serve RUN"
            raise UserError(f"no server answers at {where}", got=str(error), do=do) from None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{where} does not speak OpenAI's language", got=repr(error), do="mend --url"
            ) from None


def _options(sampling: Sampling) -> dict[str, Any]:
    """How to sample; what is OpenAI's default is not said, nor is vLLM's top_k where it is off."""
    options: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
    }
    options |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    return options | ({"top_k": sampling.top_k} if sampling.top_k else {})


def _chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, up to its end."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            raise UserError("the server gave up", got=str(chunk["error"]), do="see its log")
        yield chunk


def _refusal(answer: httpx.Response) -> UserError:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200]
    do = "set its token: --token-env" if answer.status_code == httpx.codes.UNAUTHORIZED else ""
    return UserError(f"the server refuses: {answer.status_code}", got=message, do=do)
