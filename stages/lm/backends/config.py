"""How a model in training is spread over the processes of its group. No torch here."""

from enum import StrEnum


class BackendKind(StrEnum):
    """What keeps the copies, or the shards, of a model on several processes in step.

    none: one process. ddp: a whole copy a process, gradients summed. deepspeed: ZeRO 1, 2 or 3, by
    `placement.deepspeed`. fsdp2: torch's own sharding of weights, gradients and optimizer.
    """

    none = "none"
    ddp = "ddp"
    deepspeed = "deepspeed"
    fsdp2 = "fsdp2"
