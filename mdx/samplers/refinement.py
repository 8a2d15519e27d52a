"""A rule that writes the whole text anew at every step.

Contents: Refinement.

References: Savinov et al. 2022, arXiv:2112.06749 (SUNDAE); Yoshida 2024, "Making the Most of your
Model" (the same from masked language models).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.samplers import decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement(decoder.Decoder):
  """The first step writes all positions; each later one draws anew those the model doubts most.

  It doubts a token by the probability that it gives it, with the others in sight.

  Attributes:
    refined_share: share of the free positions, rounded up, that a later step draws anew.
  """
  refined_share: float = 1.0

  revises = True
  mixes = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", between={"refined_share": "(0, 1]"})

  def wanted(self, state):
    """The active block, written or not."""
    return state["free"] & (state["block_of"] == state["block"][:, None])

  def commit(self, params, state, proposal, keys):
    """All masks, and the least probable of the tokens that stand there."""
    del params, keys
    exists = proposal.index < state["canvas"].shape[1]
    among = exists & decoder.at(self.wanted(state), proposal.index)
    is_first = state["step"][:, None] == 0
    logits = proposal.logits
    standing = jnp.take_along_axis(logits, proposal.current[..., None], axis=-1)[..., 0]
    doubt = jax.nn.logsumexp(logits, axis=-1) - standing
    count = jnp.ceil(self.refined_share * among.sum(axis=1) - 1e-4).astype(jnp.int32)
    chosen = decoder.best_of(doubt, among, count)
    return decoder.Commit(jnp.where(is_first, among, chosen | proposal.is_open))

  def block_done(self, state, old_canvas):
    """Returns whether this was the last step."""
    del old_canvas
    return state["step"] >= self.block_steps
