"""Settings of rewards asked for over HTTP: a reward server, an LLM judge. No torch here."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from stages.contracts import (
    UserError,
    check_not_negative,
    check_positive,
    external_input,
    no_effect,
)

TOKEN_ENV = "REWARD_TOKEN"  # where server and client look for their token


@dataclass(kw_only=True)
class EndpointConfig:
    """How long to wait, how often to try again, how much at once.

    timeout_s: of one request. deadline_s: of one call with all its requests, retries and waits.
    retries: of one request, after a refused or broken connection, 408, 429 or 5xx. backoff_s: the
    wait before the first retry; it doubles each time up to 30 s, with jitter, and is never less
    than the server's Retry-After. concurrency: requests under way at once.
    """

    timeout_s: float = no_effect(60.0)
    deadline_s: float = no_effect(600.0)
    retries: int = no_effect(6)
    backoff_s: float = no_effect(0.5)
    concurrency: int = no_effect(8)

    def __post_init__(self) -> None:
        check_positive(self, "timeout_s", "deadline_s", "backoff_s", "concurrency")
        check_not_negative(self, "retries")


@dataclass(kw_only=True)
class RemoteConfig(EndpointConfig):
    """A reward server: `python -m pipeline serve-reward`, or another that speaks its protocol.

    url: where it listens, without a path. token_env: the environment variable that holds its token,
    never the token itself; empty: it wants none. model: the fingerprint of the model that must
    answer; empty: any, but the same one all the time. batch_size: responses a request.
    """

    weight: float = 0.0
    url: str = "http://127.0.0.1:8000"
    token_env: str = no_effect(TOKEN_ENV)
    model: str = ""
    batch_size: int = no_effect(64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("url", self.url)
        check_positive(self, "batch_size")


@dataclass(kw_only=True)
class JudgeConfig(EndpointConfig):
    """An LLM that grades responses, behind an OpenAI-compatible endpoint.

    base_url: it is asked at base_url/chat/completions. api_key_env: the environment variable that
    holds the key, never the key itself; empty: it wants none. template: a file with the places
    {conversation} and {response}, and {lowest} and {highest} if it likes; None: the one in
    `reward/judge.py`. lowest, highest: the grades asked for. low, high: the rewards that they
    become, in proportion. asks: how often in all, when an answer has no grade in it.
    """

    weight: float = 0.0
    model: str = ""
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str = no_effect("")
    template: str | None = external_input(None)
    lowest: int = 1
    highest: int = 10
    low: float = -1.0
    high: float = 1.0
    temperature: float = 0.0
    max_tokens: int = 512
    asks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("base_url", self.base_url)
        if self.weight and not self.model:
            raise UserError(
                "a judge needs the name of its model",
                got="an empty text",
                do="set reward.judge.model to a name that its endpoint knows",
            )
        check_positive(self, "max_tokens", "asks")
        check_not_negative(self, "temperature")
        if not self.lowest < self.highest:
            raise UserError(
                "a judge's lowest grade must be below its highest",
                got=f"{self.lowest} to {self.highest}",
                do="mend lowest and highest",
            )


def check_url(name: str, url: str) -> None:
    """Refuse what is no plain http address; a password in it would end up in logs."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", url):
        shown = re.sub(r"//.*@", "//...@", url.partition("?")[0])
        raise UserError(
            f"{name} must be an address like http://HOST:PORT, without password and query",
            got=shown,
            do=f"mend {name}; a token goes into an environment variable that the config names",
        )


def secret_from(variable: str) -> str:
    """The value of an environment variable; empty if none is named.

    Raises:
        UserError: the named variable is not set.
    """
    if not variable:
        return ""
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise UserError(
            f"the environment variable {variable} is not set",
            got="a config that reads a token from it",
            do=f"export {variable}=..., or name none if the server wants none",
        )
    return secret


def check_secrets(named: Mapping[str, str]) -> list[UserError]:
    """One fault a variable that is not set; named: variable by the key that names it."""
    faults = []
    for key, variable in named.items():
        try:
            secret_from(variable)
        except UserError as fault:
            faults.append(UserError(fault.what, got=f"{key}={variable}", do=fault.do))
    return faults
