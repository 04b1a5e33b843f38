"""LoRA: small matrices are trained beside frozen weights."""

from dataclasses import dataclass

from raft_fast.run.options.check import check, listed


@dataclass
class AdapterOptions:
    """LoRA (peft)"""

    use_peft: bool = False
    """Train a LoRA adapter instead of all weights. The teacher is then the same model with the adapter
    off: one copy of the weights. A learning rate about ten times higher is usual."""
    lora_r: int = 16
    """Rank of the adapter's matrices."""
    lora_alpha: int = 32
    """The adapter's output is scaled by lora_alpha / lora_r."""
    lora_dropout: float = 0.0
    """Dropout before the adapter while it is trained; never while the model teaches or generates."""
    lora_target_modules: str = listed("all-linear")
    """Which layers get an adapter: all-linear (all but the head), names separated by commas, as in
    q_proj,v_proj, or a regular expression for whole names, as in peft."""

    def __post_init__(self) -> None:
        for name in ("lora_r", "lora_alpha"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        check(0 <= self.lora_dropout < 1, "--lora_dropout", self.lora_dropout, "in [0, 1)")
        check(bool(self.lora_target_modules.strip(", ")), "--lora_target_modules",
              repr(self.lora_target_modules), "all-linear or names separated by commas")
