"""The engine that the config asks for."""

from pathlib import Path

from stages.contracts import Context
from stages.lm.engines.config import EngineKind
from stages.lm.engines.vllm_client import vllm_engine
from stages.lm.rollout import RolloutEngine
from stages.step3_policy.ppo.config import PpoConfig

LOG = "rollout_engine.log"


def load_engine(
    config: PpoConfig, own: RolloutEngine | None, start: Path, eos_token_id: int, context: Context
) -> RolloutEngine:
    """`own`, the one among the roles, or where there is none vLLM, from the folder `start`.

    Raises:
        UserError: the engine's environment is not there.
    """
    if config.rollout.kind is EngineKind.hf:
        assert own is not None
        return own
    return vllm_engine(
        config.rollout,
        start,
        eos_token_id=eos_token_id,
        max_length=config.max_prompt_tokens + config.max_response_tokens,
        max_sequences=config.sequences_per_batch,
        log=context.checkpoints / LOG,
    )
