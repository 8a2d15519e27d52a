"""Policy gradients whose unit is the whole answer: a ratio of likelihood bounds.

Contents: SequencePolicy.

The score of an answer y is an estimate E of its evidence lower bound, in nats: the sum over all
canvases and positions of `mix` log p(y_i | canvas). New, old and reference policy read the same
canvases. Only tokens that the model wrote are masked and scored, ends of text among them; replies
between turns stay visible.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencePolicy(policy.Policy):
  """Base of the sequence-level losses.

  For an answer of L tokens, the mean over the answers of

    -min(ratio A, clip(ratio) A) + kl (E - E_ref)^2 / (2 L),   ratio = exp((E - E_old) / L).

  A token-level estimate of the divergence has no counterpart for sums of nats: k3 would explode.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
  """
  kl_form: str = dataclasses.field(init=False, repr=False, default="k2")
  advantage: str = "leave_one_out"

  needs_scores: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES})

  @abc.abstractmethod
  def canvases(self, key: jax.Array, index: jax.Array, is_answer: jax.Array
               ) -> tuple[jax.Array, jax.Array]:
    """Draws the canvases of answers.

    Args:
      key: typed key, only folded.
      index: int32 [N], example indices, which the draws depend on.
      is_answer: bool [N, G], the tokens that may be masked.

    Returns:
      hidden: bool [N, C, G]. mix: float32 [N, C, G], 0 where a token is not hidden; the expectation
      of the sum over canvases and positions of `mix` log p is the bound.
    """

  def rows(self, batch: types.Batch, key: jax.Array) -> tuple[types.Batch, jax.Array]:
    """Rows of answers to score, without advantages; float32 [N], 1 where there is an answer."""
    final, is_answer = policy.final_answer(batch)
    hidden, mix = self.canvases(key, batch["example_index"], is_answer)
    length = is_answer.sum(axis=1, dtype=jnp.float32)
    return policy.optional_fields(batch) | self.own_text(batch) | {
        "noisy_tokens": policy.joined(batch, jnp.where(hidden, self.mask_id, final[:, None])),
        "targets": final, "mix": mix, "length": jnp.maximum(length, 1)}, jnp.minimum(length, 1)

  def prepare(self, params, batch, key, context):
    """Draws the canvases."""
    del params, context
    prepared, is_live = self.rows(batch, key)
    is_live *= policy.kept(batch)
    prepared |= {"token_weight": is_live[:, None], "policy_scale": jnp.ones_like(is_live),
                 "advantage": policy.group_advantages(batch, self.group_size, self.advantage)}
    if "old_log_prob" in batch:
      prepared["old_log_prob"] = batch["old_log_prob"]
    return prepared, dict.fromkeys(self.scales, is_live.sum())

  def log_prob(self, params, batch):
    """E of every answer, float32 [R, 1]."""
    return super().log_prob(params, batch).sum(axis=1, keepdims=True)

  def log_ratio(self, change, batch):
    """Change of E over the length."""
    return change / batch["length"][:, None]

  def divergence(self, more, batch):
    """k2 of E over the length."""
    return super().divergence(more, batch) / batch["length"][:, None]
