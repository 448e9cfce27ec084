"""OpenAI's shapes: what may be asked for a completion, and what is answered. No torch here.

What would change the answer and is not done here (`n`, `logprobs`, `tools`, ...) is refused by its
name, never ignored.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MOST_STOPS = 4


class RequestError(Exception):
    """A request that is refused: the HTTP status and what OpenAI's clients show."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message, param, code)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI says it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class StreamOptions(_Asked):
    """include_usage: one more chunk at the end, with the numbers of tokens."""

    include_usage: bool = False


class CompletionRequest(_Asked):
    """Fields of both kinds; None: as the server was told. temperature 0: the likeliest token.

    top_k is vLLM's; user, store and metadata change nothing.
    """

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: int | None = None
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, stop: Any) -> Any:
        stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and (len(stops) > MOST_STOPS or "" in stops):
            raise ValueError(f"at most {MOST_STOPS} texts, none of them empty")
        return stops

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


Asked = TypeVar("Asked", bound=CompletionRequest)


class TextRequest(CompletionRequest):
    """POST /v1/completions: a text to go on with; nothing is put before it."""

    prompt: str

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, prompt: Any) -> Any:
        return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


class TextPart(_Asked):
    """A part of a message; images and sounds are refused."""

    type: Literal["text"]
    text: str


class ChatMessage(_Asked):
    """One turn; `developer` is OpenAI's newer word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": role, "content": text}


class ChatRequest(CompletionRequest):
    """POST /v1/chat/completions: a conversation that ends with the user."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


def parse(kind: type[Asked], body: bytes) -> Asked:
    """The request.

    Raises:
        RequestError: what is wrong with it, and where.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = f"{where} is not supported by this server"
        elif where:
            message = f"{where}: {message}"
        raise RequestError(400, message, param=where) from None


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The numbers of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Shape:
    """How one kind of completion is answered: whole, and piece by piece."""

    def __init__(self, *, chat: bool, completion_id: str, created: int, model: str) -> None:
        self._chat = chat
        self._common = {"id": completion_id, "created": created, "model": model}

    def whole(self, text: str, finish: str, used: dict[str, int]) -> dict[str, Any]:
        """The answer in one."""
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return self._object("") | {"choices": [_choice(said, finish)], "usage": used}

    def start(self) -> list[dict[str, Any]]:
        """The chunk before all others: who speaks."""
        if not self._chat:
            return []
        return [self._chunk({"delta": {"role": "assistant", "content": ""}}, None)]

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"delta": {"content": text}} if self._chat else {"text": text}, None)

    def end(self, finish: str) -> dict[str, Any]:
        """The last chunk of the answer."""
        return self._chunk({"delta": {}} if self._chat else {"text": ""}, finish)

    def used(self, used: dict[str, int]) -> dict[str, Any]:
        """The chunk after the last."""
        return self._object(".chunk") | {"choices": [], "usage": used}

    def _chunk(self, said: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return self._object(".chunk") | {"choices": [_choice(said, finish)]}

    def _object(self, part: str) -> dict[str, Any]:
        kind = f"chat.completion{part}" if self._chat else "text_completion"
        return {**self._common, "object": kind}


def _choice(said: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}
