"""`serve RUN`: an OpenAI-compatible server of a run's policy. Ctrl-C or SIGTERM ends it.

RUN is a run, or a model's folder: one that `export` wrote, for one.
"""

import os
import signal
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.chat import TOKEN_ENV
from pipeline.exporting.source import find_exported
from pipeline.listening import HOME, caution, check_port, find_token, is_loopback, reached_at
from pipeline.progress import console
from pipeline.runs import find_run
from pipeline.summary import RUN_FILE
from stages.contracts import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

TOKEN_FILE = HOME / "serve_token"
DEFAULT_TOKENS = 256  # of an answer, where neither request nor folder says how many
ENDING_S = 5  # that answers may take after ctrl-C


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is served. max_length: tokens of prompt and answer."""

    folder: Path
    name: str
    max_length: int
    sampling: dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Serve until asked to stop."""
    asked = _parse(arguments)
    model = find_policy(asked)
    token, where = None, ""
    if os.environ.get(asked.token_env) or not is_loopback(asked.host):
        token, where = find_token(asked.token_env, asked.token_file)
    check_port(asked.host, asked.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # uvicorn ends by itself, loading does not
        _serve(asked, model, token, where)
    console().print("stopped")
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m pipeline serve", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's id or folder, or a model's folder")
    parser.add_argument("--asset", default="policy", help="policy (the default), sft, base ...")
    parser.add_argument("--model-name", metavar="NAME", help="for clients; by default the run's id")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--host", default="127.0.0.1", help="another address opens it to the network: with a token"
    )
    parser.add_argument(
        "--token-env",
        metavar="NAME",
        default=TOKEN_ENV,
        help="the environment variable with the token that clients must send",
    )
    parser.add_argument(
        "--token-file",
        metavar="PATH",
        type=Path,
        default=TOKEN_FILE,
        help="if that is not set and others reach it: where the token is kept",
    )
    parser.add_argument("--at-once", type=int, default=2, help="requests answered together")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    if min(asked.at_once, asked.threads) < 1:
        parser.error("--at-once and --threads are at least 1")
    return asked


def find_policy(asked: Namespace) -> Model:
    """The model that is meant.

    Raises:
        UserError: there is none, or it does not answer with text.
    """
    folder = Path(asked.run).expanduser()
    if (folder / "config.json").is_file() and not (folder / RUN_FILE).is_file():
        return _of_folder(folder, asked.model_name)
    exported = find_exported(find_run(asked.run, asked.runs_dir), asked.asset)
    sampling = exported.sampling
    if sampling is None:
        raise UserError(
            "a reward model answers with a score, not with text",
            got=f"--asset {asked.asset}",
            do="serve it with serve-reward",
        )
    return Model(
        folder=exported.model,
        name=asked.model_name or exported.record.run,
        max_length=int(exported.artifact.manifest.contract["max_length"]),
        sampling=sampling,
    )


def _of_folder(folder: Path, name: str | None) -> Model:
    """A folder of Hugging Face's layout, sampled as its generation_config.json says."""
    from transformers import GenerationConfig

    from stages.lm.loading import load_config

    said = GenerationConfig.from_pretrained(folder) if _has_generation(folder) else None
    known = said.to_dict() if said else {}
    return Model(
        folder=folder,
        name=name or folder.absolute().name,
        max_length=int(load_config(folder).get_text_config().max_position_embeddings),
        sampling={
            "temperature": known.get("temperature") or 1.0,
            "top_k": known.get("top_k") or 0,
            "top_p": known.get("top_p") or 1.0,
            "max_new_tokens": known.get("max_new_tokens") or DEFAULT_TOKENS,
        },
    )


def _has_generation(folder: Path) -> bool:
    return (folder / "generation_config.json").is_file()


def make_app(model: Model, token: str | None, at_once: int) -> "Starlette":
    """The application, its model loaded.

    Raises:
        UserError: the packages of a server are not installed.
    """
    try:
        from stages.lm.serving.service import Service
    except ModuleNotFoundError as error:
        raise UserError(
            "the packages of a server are not installed",
            got=str(error),
            do="pip install 'rlhf-pipeline[serve]'",
        ) from None
    from stages.lm.rollout import Sampling
    from stages.lm.serving.answering import Answerer

    return Service(
        answerer=Answerer(model.folder, max_length=model.max_length),
        name=model.name,
        sampling=Sampling(**model.sampling),
        token=token,
        at_once=at_once,
    ).app()


def _serve(asked: Namespace, model: Model, token: str | None, where: str) -> None:
    import torch
    import uvicorn
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(asked.threads)
    screen = console()
    screen.print(f"loading {model.folder} ...", soft_wrap=True)
    app = make_app(model, token, asked.at_once)
    url = f"http://{reached_at(asked.host)}:{asked.port}"
    screen.print(f"serving {model.name} at {url}/v1; ctrl-C ends it", soft_wrap=True)
    lines = [f"in a client's shell: {where}"] if where else []
    lines += [f"talk to it: python -m pipeline chat --url {url}", *caution(asked.host)]
    for line in lines:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    uvicorn.run(
        app,
        host=asked.host,
        port=asked.port,
        log_level="warning",
        timeout_graceful_shutdown=ENDING_S,
    )
