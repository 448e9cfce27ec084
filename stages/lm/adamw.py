"""The settings of AdamW that every stage with its optimizer has. No torch here."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from stages.contracts import UserError, check_not_negative, check_positive, check_share


class AdamWKind(StrEnum):
    """How AdamW keeps its two moments: float32, or 8 bits each by bitsandbytes, block by block."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


@dataclass(kw_only=True)
class AdamWConfig:
    """Betas as in App. C. Epsilon, decay and clipping are not printed there: epsilon as N+."""

    optimizer: AdamWKind = AdamWKind.adamw
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def check_adamw(self) -> None:
        """Refuse values it cannot step with; the error names the key."""
        check_eight_bits(self.optimizer)
        check_positive(self, "eps", "max_grad_norm")
        check_share(self, "beta1", "beta2")
        check_not_negative(self, "weight_decay")


def check_eight_bits(optimizer: str) -> None:
    """Refuse 8 bits where bitsandbytes is not installed."""
    if optimizer == AdamWKind.adamw_8bit and find_spec("bitsandbytes") is None:
        raise UserError(
            "optimizer=adamw_8bit needs bitsandbytes",
            got="it is not installed",
            do="pip install -e '.[quantise]', or leave optimizer out",
        )
