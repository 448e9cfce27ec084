"""`serve-reward RUN`: serve a reward model over HTTP, for PPO elsewhere or for any other client.

RUN is a run, the folder of a reward_model artifact, or a model folder. Ctrl-C or SIGTERM ends it.
"""

import os
import signal
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster import LOOPBACK, start_cluster, stop_cluster
from pipeline.config import ClusterConfig
from pipeline.fingerprint import content_digest
from pipeline.listening import HOME, caution, check_port, find_token, reached_at
from pipeline.manifest import MANIFEST_FILE
from pipeline.planning import given_artifact
from pipeline.progress import console
from pipeline.summary import RUN_FILE
from reward.endpoint_config import TOKEN_ENV
from stages.contracts import UserError

if TYPE_CHECKING:
    from reward.server import Served

TOKEN_FILE = HOME / "reward_token"


def main(arguments: Sequence[str]) -> int:
    """Serve until asked to stop."""
    asked = _parse(arguments)
    folder, about = find_model(asked.run, asked.runs_dir)
    token, where = find_token(asked.token_env, asked.token_file)
    check_port(asked.host, asked.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(served_of(asked, folder, about, token), _how_to_ask(asked, about, where))
    except KeyboardInterrupt:
        console().print("stopped")
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m pipeline serve-reward", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's id or folder, or a model's folder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default=LOOPBACK, help="another address opens it to the network")
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
        help="if that is not set: where the token is kept",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="responses scored together")
    parser.add_argument(
        "--batch-wait-s", type=float, default=0.01, help="how long a response waits for others"
    )
    parser.add_argument(
        "--deadline-s", type=float, default=60.0, help="of a request; then it is 504"
    )
    parser.add_argument(
        "--queued-rows", type=int, default=4096, help="responses in hand; beyond them it is 503"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    return parser.parse_args(arguments)


def find_model(named: str, runs_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The reward model's folder, and what answers say of it: its name and fingerprint.

    Raises:
        UserError: there is none.
    """
    folder = Path(named).expanduser()
    is_artifact = any((folder / file).is_file() for file in (MANIFEST_FILE, RUN_FILE))
    if (folder / "config.json").is_file() and not is_artifact:
        return folder, {"name": folder.name, "fingerprint": content_digest(folder, "RUN")}
    artifact = given_artifact("reward_model", named, runs_dir)
    return artifact.folder / "model", {
        "name": named,
        "fingerprint": artifact.manifest.fingerprint,
    }


def served_of(asked: Namespace, folder: Path, about: dict[str, Any], token: str) -> "Served":
    """All that the server needs to know.

    Raises:
        UserError: Ray Serve is not installed, or a limit makes no sense.
    """
    try:
        from reward.server import Served
        from reward.serving import ServingLimits, sha256
    except ModuleNotFoundError as error:
        raise UserError(
            "Ray Serve is not installed", got=str(error), do="pip install -e '.[serve]'"
        ) from None
    limits = ServingLimits(
        batch_size=asked.batch_size,
        batch_wait_s=asked.batch_wait_s,
        deadline_s=asked.deadline_s,
        queued_rows=asked.queued_rows,
    )
    return Served(
        folder=folder.absolute(),
        about=about,
        token_sha256=sha256(token),
        host=asked.host,
        port=asked.port,
        threads=asked.threads,
        limits=limits,
    )


def _serve(served: "Served", how_to_ask: Sequence[str]) -> None:
    from reward.server import serving

    screen = console()
    screen.print("starting Ray and loading the model ...")
    start_cluster(ClusterConfig(num_cpus=max(1, served.threads), dashboard=False))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray puts its own there
    try:
        with serving(served) as url:
            screen.print(f"serving {served.about['name']} at {url}; ctrl-C ends it")
            for line in how_to_ask:
                screen.print(line, markup=False, highlight=False, soft_wrap=True)
            threading.Event().wait()
    finally:
        stop_cluster()


def _how_to_ask(asked: Namespace, about: dict[str, Any], where: str) -> list[str]:
    url = f"http://{reached_at(asked.host)}:{asked.port}"
    keys = f"reward.remote.url={url} reward.remote.model={about['fingerprint']}"
    lines = [f"in a client's shell: {where}"] if where else []
    lines.append(f"its run: python -m pipeline run ... reward=remote {keys}")
    return lines + caution(asked.host)
