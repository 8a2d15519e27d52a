"""Rules that revise: what is written may be masked again or replaced.

Contents: RunningConfidence (RCR), Remdm, TokenEditing.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import schedule as schedule_lib
from mdx.samplers import confidence
from mdx.samplers import counts
from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningConfidence(decoder.Decoder):
  """Running confidence remasking: all decoded tokens compete at every step.

  A step writes all masked positions of the blocks so far, records the confidence of each
  (the latest, or the maximum over time), and masks the R least confident ones again, where R
  is what the schedule leaves for later steps. As many network calls as `Confidence`.
  Only decoded positions compete: no tie can mask a prompt or a later block.

  Attributes:
    schedule: tokens left to later steps: one of counts.SCHEDULES.
    rcr_stat: "latest" or "max", the confidence that tokens compete with.

  Reference: He et al. 2025, arXiv:2508.13148 (MDPO).
  """
  schedule: str = "even"
  rcr_stat: str = "latest"

  revises = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", choices={"schedule": counts.SCHEDULES,
                                             "rcr_stat": ("latest", "max")})

  def extras(self, state, keys):
    """The confidence each token competes with."""
    del keys
    return {"running": jnp.full(state["canvas"].shape, -jnp.inf, jnp.float32)}

  def commit(self, params, state, proposal, keys):
    """All open positions."""
    del params, keys
    new = proposal.confidence
    if self.rcr_stat == "max":
      new = jnp.maximum(new, decoder.at(state["running"], proposal.index))
    return decoder.Commit(proposal.is_open, {
        "running": decoder.put(state["running"], proposal.index, proposal.is_open, new)})

  def revoke(self, state, proposal, is_written, keys):
    """Masks the least confident positions again."""
    del proposal, is_written, keys
    _, left = confidence.scheduled_counts(self, state)
    again = decoder.best_of(-state["running"], self.in_blocks(state), left)
    return state | {"canvas": jnp.where(again, self.mask_id, state["canvas"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remdm(decoder.Decoder):
  """Remasking diffusion: a process with the marginals of masked diffusion that revises.

  From t to s a committed token is masked with probability sigma, and a masked one is
  revealed with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), where sigma
  is at most min(1, (1 - alpha_s) / alpha_t). "cap": min(eta, max); "rescale": eta * max;
  "confidence": max, shared out over the committed tokens by softmax(-probability when
  written); "loop": alpha rises to `loop_alpha` until t = `loop_on`, stays there with "cap"
  until `loop_off`, and then goes on to 1. The last step reveals everything.

  Attributes:
    remdm: "cap", "rescale", "confidence" or "loop".
    eta: remasking strength.
    loop_on, loop_off, loop_alpha: times between which "loop" holds alpha, and its value.

  Reference: Wang et al. 2025, arXiv:2503.00307.
  """
  remdm: str = "cap"
  eta: float = 0.02
  loop_on: float = 0.55
  loop_off: float = 0.05
  loop_alpha: float = 0.9

  revises = True
  mixes = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler",
                     choices={"remdm": ("cap", "rescale", "confidence", "loop")},
                     between=dict.fromkeys(("eta", "loop_on", "loop_off", "loop_alpha"), "[0, 1]"))
    if self.remdm == "loop" and self.loop_off >= self.loop_on:
      raise ValueError(f"sampler.loop_off {self.loop_off} must lie below loop_on {self.loop_on}.")

  def extras(self, state, keys):
    """Probability of each token when it was written; what this step masks again."""
    del keys
    shape = state["canvas"].shape
    return {"running": jnp.zeros(shape, jnp.float32), "again": jnp.zeros(shape, bool)}

  def commit(self, params, state, proposal, keys):
    """Reveals masked positions at random, and chooses what is masked again."""
    del params
    now, then, sigma, again = self._transition(state)
    reveal = (then - (1 - sigma) * now) / jnp.maximum(1 - now, schedule_lib.TINY)
    is_last = state["step"][:, None] >= self.block_steps - 1
    draw = logits_lib.uniforms(keys, state["positions"])  # of either kind, no position is both
    is_written = proposal.is_open & (
        (decoder.at(draw, proposal.index) < reveal) | is_last)
    return decoder.Commit(is_written, {
        "again": (draw < again) & ~is_last,
        "running": decoder.put(state["running"], proposal.index, is_written,
                               proposal.probability)})

  def revoke(self, state, proposal, is_written, keys):
    """Masks the chosen positions."""
    del proposal, is_written, keys
    return state | {"canvas": jnp.where(state["again"], self.mask_id, state["canvas"])}

  def block_done(self, state, old_canvas):
    """Returns whether this was the last step."""
    del old_canvas
    return state["step"] >= self.block_steps

  def _transition(self, state):
    """alpha before and after, sigma of masked positions [B, 1], and of committed ones [B, S]."""
    time = [1 - (state["step"][:, None] + i) / self.block_steps for i in (0, 1)]
    now, then = (self._alpha(t) for t in time)
    limit = jnp.minimum(1.0, (1 - then) / jnp.maximum(now, schedule_lib.TINY))
    in_block = state["free"] & (state["block_of"] == state["block"][:, None])
    committed = in_block & (state["canvas"] != self.mask_id)
    if self.remdm == "confidence":
      unsure = jnp.where(committed, jnp.exp(-state["running"]), 0.0)
      shares = unsure / jnp.maximum(unsure.sum(axis=1, keepdims=True), schedule_lib.TINY)
      return now, then, jnp.zeros_like(now), limit * shares
    sigma = self.eta * limit if self.remdm == "rescale" else jnp.minimum(self.eta, limit)
    if self.remdm == "loop":
      sigma = jnp.where((time[0] <= self.loop_on) & (time[0] > self.loop_off), sigma, 0.0)
    return now, then, sigma, jnp.where(committed, sigma, 0.0)

  def _alpha(self, t):
    if self.remdm != "loop":
      return self.alpha.alpha(t)
    rising = (1 - t) / max(1 - self.loop_on, schedule_lib.TINY) * self.loop_alpha
    final = 1 - t / max(self.loop_off, schedule_lib.TINY) * (1 - self.loop_alpha)
    return jnp.where(t > self.loop_on, rising, jnp.where(t > self.loop_off, self.loop_alpha, final))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenEditing(decoder.Decoder):
  """Commits by threshold, and replaces committed tokens the model is sure are wrong.

  A token of the active block is replaced if the one proposed in its place has more than
  `edit_threshold`. Once a block has no masks left, up to `edit_steps` steps go on
  replacing until one changes nothing.

  Attributes:
    threshold: confidence from which a token is committed.
    edit_threshold: probability above which a committed token is replaced.
    edit_steps: most steps spent on replacing after a block has no masks.

  Reference: LLaDA 2.1 technical report (Bie et al. 2026).
  """
  threshold: float = 0.9
  edit_threshold: float = 0.9
  edit_steps: int = 16

  told = {**decoder.Decoder.told, "threshold": None, "edit_threshold": None}
  counts_steps = False
  revises = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"edit_steps": 0},
                     between={"threshold": "[0, 1]", "edit_threshold": "[0, 1]"})

  def max_steps(self, num_free):
    """A step a token, and the steps that only replace."""
    blocks = max(-(-num_free // block_length) for block_length, _ in self.components)
    return num_free + (blocks + (self.cache == "block")) * self.edit_steps

  def wanted(self, state):
    """The active block, masked or not."""
    return state["free"] & (state["block_of"] == state["block"][:, None])

  def extras(self, state, keys):
    """Steps since the active block had masks, and whether the last one changed it."""
    del keys
    rows = len(state["canvas"])
    return {"idle": jnp.zeros(rows, jnp.int32), "edited": jnp.zeros(rows, bool)}

  def commit(self, params, state, proposal, keys):
    """Confident positions, and tokens to replace."""
    del params, keys
    sure = proposal.is_open & (proposal.confidence >= self.threshold)
    exists = proposal.index < state["canvas"].shape[1]
    replaced = (exists & decoder.at(self.wanted(state), proposal.index)
                & (proposal.current != self.mask_id) & (proposal.tokens != proposal.current)
                & (proposal.probability > self.edit_threshold))
    has_masks = jnp.any(proposal.is_open, axis=1)
    return decoder.Commit(sure | confidence.most_confident(proposal) | replaced, {
        "idle": jnp.where(has_masks, 0, state["idle"] + 1), "edited": jnp.any(replaced, axis=1)})

  def block_done(self, state, old_canvas):
    """Returns whether no masks are left, and nothing to replace."""
    full = super().block_done(state, old_canvas)
    settled = (state["idle"] > 0) & ~state["edited"]
    return full & (settled | (state["idle"] >= self.edit_steps))
