"""The executors: `ray` (stages as Ray tasks) and `local` (in this process)."""

from pipeline.config import ExecutorKind, PipelineConfig
from pipeline.executors.protocol import Executor


def executor_for(config: PipelineConfig) -> Executor:
    """The executor a config asks for, to be entered before use; only here Ray is imported."""
    if config.executor.kind is ExecutorKind.local:
        from pipeline.executors.local import LocalExecutor

        return LocalExecutor(config.executor.gpus)
    from pipeline.executors.ray import RayExecutor

    return RayExecutor(config.cluster, config.executor.retries, config.executor.gpus)
