"""Rules that commit what is more confident than the mean, in a few steps.

Contents: MeanConfidence, Rewriting.

Reference: MDiff4STR, arXiv:2512.01422 (called low-confidence and block low-confidence remasking;
its decoding does not rewrite, which its text says that training with replaced tokens allows).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx.samplers import decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanConfidence(decoder.Decoder):
  """Commits positions above the mean confidence of all open ones, and at the last step the rest.

  Positions behind the first end of text, of those committed and those that would be, are left to
  the last step (or to `eos_stop`). Every step commits at least one position before it, also where
  all are equally confident. With one step it decodes all positions at once.

  Attributes:
    blockwise: a step looks at a window of the block alone: in K steps of S positions, with parts of
      S // K, step i = 0, 1, 2 at the first i + 1 parts, later ones at two parts from i - 1 on, and
      the last two at all that follows. The published rule leaves the order of these open for small
      K: here the end comes first.
  """
  blockwise: bool = False

  mixes = False

  def commit(self, params, state, proposal, keys):
    """Open positions above the mean."""
    del params, keys
    index, length = proposal.index, state["canvas"].shape[1]
    text = decoder.put(state["canvas"], index, self._shown(state, proposal), proposal.tokens)
    is_end = state["free"] & self.ends(text)
    first = jnp.where(is_end.any(axis=1), jnp.argmax(is_end, axis=1), length)
    candidates = proposal.is_open & (index <= first[:, None])
    rest = candidates if self.eos_stop == "row" else proposal.is_open
    if self.blockwise:
      candidates &= self._in_window(state, index)
    number = candidates.sum(axis=1, keepdims=True)
    mean = jnp.where(candidates, proposal.confidence, 0.0).sum(axis=1, keepdims=True)
    above = candidates & (proposal.confidence * number > mean)
    best = decoder.best_of(proposal.confidence, candidates, jnp.ones(len(index), jnp.int32))
    above |= best & ~above.any(axis=1, keepdims=True)
    is_last = state["step"][:, None] >= self.block_steps - 1
    return decoder.Commit(jnp.where(is_last, rest, above))

  def _shown(self, state, proposal):
    """Positions whose proposed token is taken for the text, bool [B, W]."""
    del state
    return proposal.is_open

  def _in_window(self, state, index):
    """Positions of the window of this step, bool [B, W]."""
    in_block = state["free"] & (state["block_of"] == state["block"][:, None])
    number = decoder.at(jnp.cumsum(in_block, axis=1) - 1, index)
    step, part = state["step"][:, None], max(1, self.block // self.block_steps)
    low = jnp.where(step >= 3, (step - 1) * part, 0)
    high = jnp.where(step >= self.block_steps - 2, self.block, (step + 1) * part)
    return (number >= low) & (number < high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewriting(MeanConfidence):
  """As `MeanConfidence`, and every step writes the likeliest token over those committed before.

  It takes all its steps, in which nothing is settled: `eos_stop` is never.
  """

  revises = True

  def __post_init__(self):
    super().__post_init__()
    if self.eos_stop != "never":
      raise ValueError(f"sampler rewriting rewrites to its last step, so eos_stop "
                       f"{self.eos_stop!r} has nothing to stop; leave it at never.")

  def wanted(self, state):
    """The active block, masked or not."""
    return state["free"] & (state["block_of"] == state["block"][:, None])

  def _shown(self, state, proposal):
    exists = proposal.index < state["canvas"].shape[1]
    return exists & decoder.at(self.wanted(state), proposal.index)

  def commit(self, params, state, proposal, keys):
    """Open positions above the mean, and committed ones that the model would write otherwise."""
    written = super().commit(params, state, proposal, keys).is_written
    is_other = (proposal.current != self.mask_id) & (proposal.tokens != proposal.current)
    return decoder.Commit(written | (self._shown(state, proposal) & is_other))

  def block_done(self, state, old_canvas):
    """Returns whether this was the last step."""
    del old_canvas
    return state["step"] >= self.block_steps
