"""How vLLM's process is started: its command, its environment, and what it is told."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.lm.engines.config import RolloutConfig, check_engine
from stages.lm.engines.remote import Launch, RemoteEngine

if TYPE_CHECKING:  # run by another Python, and yet a part of what makes a policy
    import stages.lm.engines.server.vllm_server  # noqa: F401

SERVER = Path(__file__).parent / "server" / "vllm_server.py"
GIB = 2**30
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # would lead it to this environment's packages


def vllm_engine(
    config: RolloutConfig,
    model: Path,
    *,
    eos_token_id: int,
    max_length: int,
    max_sequences: int,
    log: Path,
) -> RemoteEngine:
    """vLLM on the model in that folder, of which the weights are replaced later.

    max_length: tokens of prompt and response. max_sequences: decoded at once. log: takes what the
    process prints.

    Raises:
        UserError: the environment is not there.
    """
    check_engine(config)
    engine = {
        "model": str(model.absolute()),
        "dtype": config.dtype.value,
        "max_model_len": max_length,
        "max_num_seqs": max_sequences,
        "kv_cache_memory_bytes": int(config.cache_gib * GIB),
        "gpu_memory_utilization": 0.05,  # claimed before it starts: a GPU may be the trainer's too
        "enforce_eager": not torch.cuda.is_available(),  # compiling for a CPU takes minutes
    }
    launch = Launch(
        command=[str(Path(config.python).absolute()), str(SERVER)],
        environment=environment(config.threads),
        setup={"engine": engine, "eos_token_id": eos_token_id},
        log=log,
        deadlines_s={"start": config.start_s, "load": config.load_s, "generate": config.generate_s},
        restarts=config.restarts,
    )
    return RemoteEngine(launch, getattr(torch, config.dtype.value))


def environment(threads: int) -> dict[str, str]:
    """This process's variables without those that name our packages; vLLM's own set for us."""
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
