"""Optimizers and learning-rate schedules, as optax chains.

Contents: Optimizer, decay_mask.

Convention: whether a parameter is decayed is decided by path rules that must
cover every parameter exactly once.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from mdx.utils import tree

# (path regex, decayed). Matrices are decayed; norms, biases, positions and schedules are not.
DECAY_RULES = (
    (r".*/kernel", True),
    (r"(.*/)?embed/embedding", True),
    (r"(.*/)?position_embed/embedding", False),
    (r".*/(scale|bias)", False),
    (r"schedule/exponent", False),
)


def decay_mask(params: Any) -> Any:
  """Tree of bools: which parameters weight decay applies to.

  Raises:
    ValueError: a parameter that no rule, or more than one, covers.
  """

  def decide(path, _):
    found = [decayed for pattern, decayed in DECAY_RULES if re.fullmatch(pattern, path)]
    if len(found) != 1:
      raise ValueError(f"parameter {path} matches {len(found)} rules of optimizer.DECAY_RULES; "
                       "add or narrow a rule so that exactly one matches.")
    return found[0]

  return tree.map_with_path(decide, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """AdamW with global-norm clipping, warm-up and a decay.

  Attributes:
    learning_rate: peak value.
    schedule: "constant", "linear" or "cosine" after the warm-up.
    warmup_steps: linear warm-up, at most a fifth of the run.
    final_rate: learning rate of the last step as a share of the peak.
    weight_decay: decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101).
    b1: decay rate of the first moment.
    b2: decay rate of the second moment.
    eps: Adam's epsilon.
    clip_norm: global gradient norm; 0 = no clipping.
  """
  learning_rate: float = 3e-4
  schedule: str = "cosine"
  warmup_steps: int = 1000
  final_rate: float = 0.1
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  clip_norm: float = 1.0

  def __post_init__(self):
    if self.schedule not in ("constant", "linear", "cosine"):
      raise ValueError(f"optimizer.schedule is {self.schedule!r}; choose from constant, linear, "
                       "cosine.")
    if self.learning_rate <= 0:
      raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}.")
    for name in ("warmup_steps", "final_rate", "weight_decay", "eps", "clip_norm"):
      if getattr(self, name) < 0:
        raise ValueError(f"optimizer.{name} must not be negative, got {getattr(self, name)}.")
    if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
      raise ValueError(f"optimizer.b1 and b2 must lie in [0, 1), got {self.b1}, {self.b2}.")

  def rate(self, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step, for a run of `steps`."""
    warmup = min(self.warmup_steps, max(steps // 5, 0))
    rest = max(steps - warmup - 1, 1)  # so that the last step has the final rate
    end = self.learning_rate * self.final_rate
    after = {
        "constant": optax.constant_schedule(self.learning_rate),
        "linear": optax.linear_schedule(self.learning_rate, end, rest),
        "cosine": optax.cosine_decay_schedule(self.learning_rate, rest, alpha=self.final_rate),
    }[self.schedule]

    def value(step):
      ramp = self.learning_rate * (step + 1) / max(warmup, 1)
      return jnp.where(step < warmup, ramp, after(step - warmup)).astype(jnp.float32)

    return value

  def build(self, steps: int) -> optax.GradientTransformation:
    """The gradient transformation of a run of `steps`."""
    clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
    return optax.chain(*clip, optax.adamw(
        self.rate(steps), b1=self.b1, b2=self.b2, eps=self.eps,
        weight_decay=self.weight_decay, mask=decay_mask))


OPTIMIZERS = {"adamw": Optimizer}
