"""The HTTP side of a reward server: who may ask, what may be asked, how it fails. No Ray, no torch.

    GET  /health      200 while the model is loaded; open to everybody, says nothing but that
    POST /v1/scores   the protocol of `reward/remote.py`; wants the token

A score that is no finite number is status 500 and the row, never a number.
"""

import asyncio
import hashlib
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from reward.remote import HEALTH_PATH, SCORES_PATH
from stages.contracts import check_not_negative, check_positive
from stages.records.schemas import Message, RecordError, check_prompt

LOG = logging.getLogger(__name__)
RETRY_AFTER_S = 1
Tokens = tuple[list[int], list[int]]  # of a prompt and its response
Encode = Callable[[list[Message], str, bool], Tokens]
Score = Callable[[Tokens], Awaitable[float]]


@dataclass(frozen=True, kw_only=True)
class ServingLimits:
    """batch_size: responses scored together, gathered for up to batch_wait_s. deadline_s: of a
    request. queued_rows: responses that may wait or be scored at once."""

    batch_size: int = 64
    batch_wait_s: float = 0.01
    deadline_s: float = 60.0
    queued_rows: int = 4096

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "deadline_s", "queued_rows")
        check_not_negative(self, "batch_wait_s")


class Asked(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(strict=True, extra="forbid")
    prompts: list[list[dict[str, str]]]
    responses: list[str]
    finished: list[bool]


class RefusedError(Exception):
    """A request that gets no scores: the status, why, and where in the request if that is known."""

    def __init__(
        self, status: int, message: str, *, field: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(status, message, field, row)
        self.status, self.message, self.field, self.row = status, message, field, row


class ScoringService:
    """What the routes do.

    encode: tokens of a row, RecordError for one that the model cannot read. score: of one row; rows
    that wait are gathered into batches behind it. model: what an answer says of the model.
    token_sha256: the token itself is not kept.
    """

    def __init__(
        self,
        encode: Encode,
        score: Score,
        *,
        model: Mapping[str, Any],
        token_sha256: str,
        limits: ServingLimits,
    ) -> None:
        self._encode, self._score = encode, score
        self._model, self._token_sha256, self._limits = dict(model), token_sha256, limits
        self._rows = 0  # in hand

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route(HEALTH_PATH, self._health, methods=["GET"]),
                Route(SCORES_PATH, self._answer, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> JSONResponse:
        del request
        return JSONResponse({"status": "ok"})

    async def _answer(self, request: Request) -> JSONResponse:
        try:
            self._check_token(request.headers.get("Authorization", ""))
            asked = read(await request.body())
            scores = await self._scores(asked)
        except RefusedError as error:
            return refusal(error)
        return JSONResponse({"scores": scores, "model": self._model})

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        right = hmac.compare_digest(sha256(token.strip()), self._token_sha256)
        if scheme.lower() != "bearer" or not right:
            raise RefusedError(401, "no valid token: send Authorization: Bearer TOKEN")

    async def _scores(self, asked: Asked) -> list[float]:
        """In the order of the request."""
        count = len(asked.responses)
        if count > self._limits.queued_rows:
            message = f"{count} rows, at most {self._limits.queued_rows} are taken at once"
            raise RefusedError(413, message)
        if self._rows + count > self._limits.queued_rows:
            raise RefusedError(503, f"busy: {self._rows} rows wait")
        self._rows += count
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                scores = await self._score_all(await asyncio.to_thread(self._tokens, asked))
        except TimeoutError:
            message = f"not scored within {self._limits.deadline_s:g} s"
            raise RefusedError(504, message) from None
        finally:
            self._rows -= count
        for row, score in enumerate(scores):
            if not math.isfinite(score):
                raise RefusedError(500, f"the score is {score}", row=row)
        return scores

    def _tokens(self, asked: Asked) -> list[Tokens]:
        rows = zip(asked.prompts, asked.responses, asked.finished, strict=True)
        tokens = []
        for row, values in enumerate(rows):
            try:
                tokens.append(self._encode(*values))
            except RecordError as error:
                raise refused_row(row, error) from None
        return tokens

    async def _score_all(self, tokens: list[Tokens]) -> list[float]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(row)) for row in tokens]
        except ExceptionGroup as failed:
            LOG.exception("scoring failed")
            cause = failed.exceptions[0]
            raise RefusedError(500, f"scoring failed: {type(cause).__name__}: {cause}") from None
        return [task.result() for task in tasks]

    async def _one(self, tokens: Tokens) -> float:
        return await self._score(tokens)


def read(body: bytes) -> Asked:
    """The request in `body`, checked as far as that needs no model.

    Raises:
        RefusedError: 422, with field and row.
    """
    try:
        asked = Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise RefusedError(
            422, first["msg"], field=_path(first["loc"]), row=_row(first["loc"])
        ) from None
    for name in ("prompts", "finished"):
        given, wanted = len(getattr(asked, name)), len(asked.responses)
        if given != wanted:
            message = f"{given} entries, one for each of the {wanted} responses is wanted"
            raise RefusedError(422, message, field=name, row=min(given, wanted))
    for row, prompt in enumerate(asked.prompts):
        try:
            check_prompt(prompt)
        except RecordError as error:
            raise refused_row(row, error) from None
    return asked


def refused_row(row: int, error: RecordError) -> RefusedError:
    """A row that breaks the schema, or that the model cannot read."""
    name, _, rest = error.field.partition("[")
    field = f"{name}s[{row}]" + (f"[{rest}" if rest else "")
    return RefusedError(422, f"{error.got}: {error.hint}", field=field, row=row)


def refusal(error: RefusedError) -> JSONResponse:
    """What a client is told."""
    told = {"message": error.message, "field": error.field, "row": error.row}
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(RETRY_AFTER_S)}}
    return JSONResponse(
        {"error": {name: value for name, value in told.items() if value is not None}},
        status_code=error.status,
        headers=headers.get(error.status),
    )


def sha256(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _path(place: tuple[int | str, ...]) -> str | None:
    """("prompts", 3, 0, "role") as prompts[3][0].role."""
    if not place:
        return None
    first, *rest = place
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest]
    return f"{first}{''.join(steps)}"


def _row(place: tuple[int | str, ...]) -> int | None:
    return place[1] if len(place) > 1 and isinstance(place[1], int) else None
