"""The config group `tracking`: where a run's curves go besides its own `metrics.parquet`."""

from dataclasses import dataclass
from enum import StrEnum


class WandbMode(StrEnum):
    """How Weights & Biases is used. `auto`: online when the user is logged in, else offline."""

    AUTO = "auto"
    OFFLINE = "offline"
    ONLINE = "online"
    DISABLED = "disabled"


@dataclass(kw_only=True)
class TrackingConfig:
    """Which trackers a run feeds. None of it can change a result, so none is in a fingerprint."""

    wandb: WandbMode = WandbMode.AUTO
    project: str = "rlhf-pipeline"
    tensorboard: bool = True
