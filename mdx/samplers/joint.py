"""Several tokens a network call, one after another, by a trained head on the model's states.

Contents: Joint.

Reference: Bansal & Sanghavi 2025, arXiv:2509.22738 (ADJUST).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.samplers import confidence
from mdx.samplers import decoder
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(decoder.Decoder):
  """Draws `tokens_per_call` tokens a call, each given those before it (arXiv:2509.22738).

  The first is drawn from the model's own logits; after each, the head reads the canvas with the new
  token and scores the open positions again. The most confident position is always the next; the
  paper's order is `confidence="entropy"`.

  Attributes:
    tokens_per_call: tokens drawn a network call, at most; a call does not go beyond its block.
    candidates: positions that the head scores, those of which the model itself is most confident;
      0 = all open ones.
    head: a `networks.drafter.Head`, given by the model that it was trained on.
  """
  tokens_per_call: int = 2
  candidates: int = 0
  head: Any = dataclasses.field(default=None, repr=False)

  counts_steps = False
  mixes = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"tokens_per_call": 1, "candidates": 0})
    if 0 < self.candidates < self.tokens_per_call:
      raise ValueError(f"sampler.candidates {self.candidates} is below tokens_per_call "
                       f"{self.tokens_per_call}; use at least as many, or 0 for all positions.")
    if self.cache != "none" or self.guidance_scale:
      raise ValueError("sampler joint reads the states of whole rows, which cache "
                       f"{self.cache} with guidance_scale {self.guidance_scale:g} does not give; "
                       "use cache none and guidance_scale 0.")

  def check_reader(self, reader):
    """The model has a head."""
    if self.head is None:
      raise ValueError("sampler joint needs a model with a trained joint head, and this one has "
                       "none; train one with configs/joint.py and give that run as the checkpoint.")

  def parts(self) -> Mapping[str, types.Part]:
    """The head, and the model, whose embeddings and output layer it uses."""
    own = self.head.network
    return {"joint": self.head.part, "model": own.part or types.Part(own.init)}

  def max_steps(self, num_free):
    """As many calls as the blocks need."""
    return -(-num_free // self.block) * -(-min(self.block, num_free) // self.tokens_per_call)

  def propose(self, params, state, index, answer, keys):
    """The tokens that are drawn, which alone are open, and what else was proposed with them."""
    one = super().propose
    whole = one(params, state, index, answer, keys)
    is_written = confidence.most_confident(whole)
    if self.tokens_per_call == 1:
      return whole._replace(is_open=is_written)
    self.head.check(params["joint"], answer.states)
    self.head.check_logits(answer.logits)
    column, near = self._candidates(whole, is_written, state["canvas"].shape[1])

    def write(canvas, at, chosen, found):
      return decoder.put(canvas, at, chosen, found.tokens)

    def draw(number, carry):
      canvas, states, is_written, drawn = carry
      states = self.head.step(params["joint"], params["model"], states, canvas,
                              state["positions"], state.get("segment_ids"))
      own = jnp.take_along_axis(states, near[..., None], axis=1, mode="clip")
      step_keys = jax.vmap(lambda key: rng.stream(key, "joint", number))(keys)
      found = one(params, state | {"canvas": canvas}, near,
                  types.Answer(self.head.logits(params["model"], own)), step_keys)
      chosen = confidence.most_confident(found)
      merge = lambda old, new: decoder.put(old, column, found.is_open, new)
      return (write(canvas, near, chosen, found), states,
              decoder.put(is_written, column, chosen, chosen),
              jax.tree.map(merge, drawn, _kept(found)))

    carry = (write(state["canvas"], index, is_written, whole), answer.states, is_written,
             _kept(whole))
    _, _, is_written, drawn = jax.lax.fori_loop(1, self.tokens_per_call, draw, carry)
    return whole._replace(is_open=is_written, **drawn)

  def commit(self, params, state, proposal, keys):
    """All that was drawn."""
    del params, state, keys
    return decoder.Commit(proposal.is_open)

  def _candidates(self, whole, is_written, length):
    """Columns [B, M] of a proposal that the head scores, and the positions there, [B, M]."""
    rows, width = whole.index.shape
    if not self.candidates or self.candidates >= width:
      return jnp.broadcast_to(jnp.arange(width)[None], (rows, width)), whole.index
    # One of them is the position that is written first, and is not open any more.
    chosen = decoder.best_of(whole.confidence, whole.is_open, jnp.full(rows, self.candidates))
    column = jnp.where(chosen & ~is_written, jnp.arange(width)[None], width)
    column = jnp.sort(column, axis=1)[:, :self.candidates - 1]
    return column, jnp.where(column < width, decoder.at(whole.index, column), length)


def _kept(proposal: decoder.Proposal) -> dict[str, jax.Array]:
  """Fields of a proposal that say how each token was drawn."""
  return {name: getattr(proposal, name) for name in (
      "tokens", "confidence", "probability", "certainty", "log_prob", "drawn_from")}
