"""The settings of AdamW that every stage with its optimizer has. No torch here."""

from dataclasses import dataclass

from stages.contracts import check_not_negative, check_positive, check_share


@dataclass(kw_only=True)
class AdamWConfig:
    """Betas as in App. C. Epsilon, decay and clipping are not printed there: epsilon as N+."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def check_adamw(self) -> None:
        """Refuse values it cannot step with; the error names the key."""
        check_positive(self, "eps", "max_grad_norm")
        check_share(self, "beta1", "beta2")
        check_not_negative(self, "weight_decay")
