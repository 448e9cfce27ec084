"""A reward model served by Ray Serve: one replica, requests gathered into batches.

The replica answers /health beside a batch that is being scored, so it tells busy from dead. It gets
the token's hash: Ray keeps the arguments of a deployment.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from reward.serving import ScoringService, ServingLimits, Tokens
from stages.contracts import UserError
from stages.records.schemas import Message, RecordError

APP, DEPLOYMENT = "reward", "RewardModel"
LATER_S = 5.0  # than our own deadline comes Ray Serve's
MANY = 10_000  # requests that Ray lets into the replica: our own bound counts rows, not requests


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, to whom and where.

    folder: of the reward model. about: what answers say of it. threads: compute threads.
    """

    folder: Path
    about: dict[str, Any]
    token_sha256: str
    host: str
    port: int
    threads: int
    limits: ServingLimits = field(default_factory=ServingLimits)


class Replica:
    """The reward model in a process of its own."""

    def __init__(self, served: Served) -> None:
        from stages.lm.process import prepare_process

        prepare_process(served.threads, seed=0)
        self._scorer = Scorer(served.folder)
        self._service = ScoringService(
            self._scorer.encode,
            gathered(self._scorer, served.limits),
            model={**served.about, "reward_bias": self._scorer.model.reward_bias},
            token_sha256=served.token_sha256,
            limits=served.limits,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """Ray Serve asks for the routes here."""
        return self._service.app()


class Scorer:
    """Text to scores, with the reward model's own tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        import torch

        from reward.ensemble import first_member, load_scorer, single_models
        from reward.model import load_reward_tokenizer

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_scorer(folder).to(self.device)
        self.tokenizer = load_reward_tokenizer(first_member(folder))
        config = single_models(self.model)[0].network.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        self.max_length: int | None = limit

    def encode(self, prompt: list[Message], response: str, finished: bool) -> Tokens:
        """Token ids of prompt and response.

        Raises:
            RecordError: the chat template refuses the prompt, or both together are too long.
        """
        from jinja2 import TemplateError

        from stages.lm.tokens import encode_prompt, encode_response

        try:
            tokens = encode_prompt(self.tokenizer, prompt)
        except TemplateError as error:
            raise RecordError("prompt", str(error), "the chat template does not take it") from None
        answer = encode_response(self.tokenizer, response, finished=finished)
        length = len(tokens) + len(answer)
        if self.max_length is not None and length > self.max_length:
            hint = f"prompt and response together have at most {self.max_length}"
            raise RecordError("response", f"{length} tokens", hint)
        return tokens, answer

    def scores(self, rows: list[Tokens]) -> list[float]:
        """One a row."""
        from reward.scoring import score_responses
        from stages.lm.rank import moved

        def score(batch: Any) -> Any:
            return self.model.scores(moved(batch, self.device))

        prompts, responses = [prompt for prompt, _ in rows], [response for _, response in rows]
        pad = self.tokenizer.pad_token_id
        scores: list[float] = score_responses(score, prompts, responses, pad).tolist()
        return scores


def gathered(scorer: Scorer, limits: ServingLimits) -> Any:
    """The score of one row, computed with the others that wait; off the event loop."""

    async def score_together(rows: list[Tokens]) -> list[float]:
        return await asyncio.to_thread(scorer.scores, rows)

    return serve.batch(max_batch_size=limits.batch_size, batch_wait_timeout_s=limits.batch_wait_s)(
        score_together
    )


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """Serve on the cluster this process is connected to until the block ends; gives the address.

    What is under way at the end is answered. Ray Serve's own processes end with the cluster.

    Raises:
        UserError: the model does not load.
    """
    quiet = LoggingConfig(log_level=logging.WARNING, enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    timeout_s = served.limits.deadline_s + LATER_S
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=served.host, port=served.port, request_timeout_s=timeout_s),
        logging_config=quiet,
    )
    try:
        serve.run(application(served), name=APP, route_prefix="/", logging_config=quiet)
    except RuntimeError:
        raise UserError(f"{served.folder} cannot be served", got=_why(), do="mend it") from None
    yield f"http://{served.host}:{served.port}"
    serve.delete(APP)


def _why() -> str:
    """The error at the end of the replica's traceback: the last line that is not indented."""
    lines = serve.status().applications[APP].deployments[DEPLOYMENT].message.splitlines()
    last = max(number for number, line in enumerate(lines) if line[:1].strip())
    return " ".join(line.strip() for line in lines[last:])


def application(served: Served) -> Any:
    """The deployment with the resources that it needs."""
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        num_replicas=1,
        ray_actor_options={"num_cpus": served.threads, "num_gpus": gpus},
        max_ongoing_requests=MANY,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=5,
        health_check_timeout_s=60,
    )
    return deployment.bind(served)
