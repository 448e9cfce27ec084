"""The HTTP side: an OpenAI-compatible server of one model.

GET  /health                 200; open to everybody
GET  /v1/models              the one model
POST /v1/chat/completions    whole, or as server-sent events
POST /v1/completions         the same of a plain text
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stages.lm.rollout import Sampling
from stages.lm.serving.answering import Answer, Answerer, Task
from stages.lm.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    RequestError,
    Shape,
    TextRequest,
    parse,
    usage,
)

LOG = logging.getLogger(__name__)
Handler = Callable[[Request, ThreadPoolExecutor], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes do.

    name: the model's. sampling: where a request says nothing. token: that clients must send; None:
    none. at_once: requests that are answered together; others wait for their turn.
    """

    answerer: Answerer
    name: str
    sampling: Sampling
    token: str | None
    at_once: int = 2

    def app(self) -> Starlette:
        """The routes."""
        threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="answer")

        def closed(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
            async def handle(request: Request) -> Response:
                self._check_token(request.headers.get("Authorization", ""))
                return await handler(request, threads)

            return handle

        return Starlette(
            routes=[
                Route("/health", _health),
                Route("/v1/models", closed(self._models)),
                Route("/v1/models/{model:path}", closed(self._model)),
                Route("/v1/chat/completions", closed(self._chat), methods=["POST"]),
                Route("/v1/completions", closed(self._text), methods=["POST"]),
            ],
            exception_handlers={
                RequestError: _refused,
                HTTPException: _unknown,
                Exception: _broken,
            },
        )

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if self.token is None:
            return
        right = hmac.compare_digest(_sha256(token.strip()), _sha256(self.token))
        if scheme.lower() != "bearer" or not right:
            message = "no valid token: send Authorization: Bearer TOKEN"
            raise RequestError(401, message, code="invalid_api_key")

    async def _models(self, request: Request, threads: ThreadPoolExecutor) -> Response:
        del request, threads
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def _model(self, request: Request, threads: ThreadPoolExecutor) -> Response:
        del threads
        self._check_model(request.path_params["model"])
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "rlhf-pipeline"}

    def _check_model(self, named: str) -> None:
        if named != self.name:
            message = f"there is no model {named}; this server has {self.name}"
            raise RequestError(404, message, param="model", code="model_not_found")

    async def _chat(self, request: Request, threads: ThreadPoolExecutor) -> Response:
        asked = parse(ChatRequest, await request.body())
        self._check_model(asked.model)
        prompt = self.answerer.encode_chat([message.plain() for message in asked.messages])
        limit = asked.max_completion_tokens or asked.max_tokens
        return await self._answer(asked, self._task(asked, prompt, limit), threads)

    async def _text(self, request: Request, threads: ThreadPoolExecutor) -> Response:
        asked = parse(TextRequest, await request.body())
        self._check_model(asked.model)
        prompt = self.answerer.encode_text(asked.prompt)
        return await self._answer(asked, self._task(asked, prompt, asked.max_tokens), threads)

    def _task(self, asked: CompletionRequest, prompt: list[int], limit: int | None) -> Task:
        """The request's own sampling, the server's where it says nothing."""
        default, cold = self.sampling, asked.temperature == 0
        sampling = Sampling(
            max_new_tokens=self.answerer.room(prompt, limit, default.max_new_tokens),
            temperature=asked.temperature or default.temperature,
            greedy=default.greedy if asked.temperature is None else cold,
            top_k=default.top_k if asked.top_k is None else asked.top_k,
            top_p=default.top_p if asked.top_p is None else asked.top_p,
        )
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return Task(prompt=prompt, sampling=sampling, stops=asked.stop, seed=seed % 2**63)

    async def _answer(
        self, asked: CompletionRequest, task: Task, threads: ThreadPoolExecutor
    ) -> Response:
        chat = isinstance(asked, ChatRequest)
        prefix = "chatcmpl" if chat else "cmpl"
        shape = Shape(
            chat=chat,
            completion_id=f"{prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=self.name,
        )
        answer = Answer()
        pieces = _from_thread(self.answerer, task, answer, threads)
        if asked.stream:
            events = _events(shape, pieces, task, answer, with_usage=asked.with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        async for _ in pieces:
            pass
        used = usage(len(task.prompt), answer.tokens)
        return JSONResponse(shape.whole(answer.text, answer.finish, used))


async def _from_thread(
    answerer: Answerer, task: Task, answer: Answer, threads: ThreadPoolExecutor
) -> AsyncIterator[str]:
    """The pieces of a task that runs on a thread; it ends early when nobody listens any more."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | Exception | None] = asyncio.Queue()
    gone = False

    def tell(item: str | Exception | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            for piece in answerer.pieces(task, answer):
                if gone:
                    return
                tell(piece)
            tell(None)
        except Exception as error:  # noqa: BLE001  # raised below, where the request is
            tell(error)

    threads.submit(work)
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        gone = True


async def _events(
    shape: Shape, pieces: AsyncIterator[str], task: Task, answer: Answer, *, with_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events, as OpenAI's clients read them; an error is the last of them."""
    try:
        for chunk in shape.start():
            yield _event(chunk)
        async for piece in pieces:
            yield _event(shape.piece(piece))
        yield _event(shape.end(answer.finish))
        if with_usage:
            yield _event(shape.used(usage(len(task.prompt), answer.tokens)))
        yield "data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001  # the status was sent already
        yield _event(_told(error).body())


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _health(request: Request) -> Response:
    del request
    return JSONResponse({"status": "ok"})


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse(RequestError(error.status_code, message).body(), error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse(_told(error).body(), 500)


def _told(error: Exception) -> RequestError:
    """What a client learns of a fault of ours: that there is one; the log says which."""
    LOG.error("a request failed", exc_info=error)
    return RequestError(500, "the server failed; its log says why")


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
