"""A reward that another machine computes: the client of `python -m pipeline serve-reward`.

The protocol: POST /v1/scores with `{"prompts": [[{role, content}, ...], ...], "responses": [...],
"finished": [...]}` gives `{"scores": [...], "model": {"fingerprint": ..., ...}}`, a finite number a
response. Other servers may speak it, too; `model` may be missing then.
"""

from typing import Any

from reward.endpoint import Ask, Endpoint, Question
from reward.endpoint_config import RemoteConfig
from reward.text_rewards import RewardError, check_scores
from stages.records.schemas import Message

SCORES_PATH, HEALTH_PATH = "/v1/scores", "/health"


class RemoteReward:
    """A `TextReward` by a reward server; the same model answers from the first call to the last."""

    def __init__(self, config: RemoteConfig, name: str = "remote") -> None:
        self._config, self._name = config, name
        self._model = config.model
        url = config.url.rstrip("/") + SCORES_PATH
        self._endpoint = Endpoint(name, url, config.token_env, config)

    def __call__(
        self, prompts: list[list[Message]], responses: list[str], finished: list[bool]
    ) -> list[float]:
        """Scores as the server gives them, asked for in requests of `batch_size` rows.

        Raises:
            RewardError: no usable answer in time, or one of another model than before.
        """
        size = self._config.batch_size
        parts = [slice(start, start + size) for start in range(0, len(responses), size)]
        questions = [
            Question(
                rows=tuple(range(len(responses))[part]),
                body={
                    "prompts": prompts[part],
                    "responses": responses[part],
                    "finished": finished[part],
                },
            )
            for part in parts
        ]
        answers = self._endpoint.ask_all(questions, self._scores)
        return [score for answer in answers for score in answer]

    async def _scores(self, ask: Ask, question: Question) -> list[float]:
        answer = await ask(question.body)
        if not isinstance(answer, dict):
            raise RewardError(self._name, question.rows, f"an answer without scores: {answer!r}")
        self._check_model(answer, question)
        try:
            return check_scores(self._name, answer.get("scores"), len(question.rows))
        except RewardError as error:  # counted within the request
            rows = [question.rows[row] for row in error.rows] or question.rows
            raise RewardError(self._name, rows, error.cause) from None

    def _check_model(self, answer: dict[str, Any], question: Question) -> None:
        """A server that was restarted with another model would move the goal during a run."""
        model = answer.get("model")
        found = str(model.get("fingerprint", "")) if isinstance(model, dict) else ""
        if not self._model:
            self._model = found
        elif found != self._model:
            cause = f"{found or 'an unnamed model'} answered, and {self._model} is wanted"
            raise RewardError(self._name, question.rows, cause)
