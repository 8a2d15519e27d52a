"""Self-speculative decoding: a model of blocks drafts by diffusion and verifies what it drafted.

Contents: Speculative.

A step has two network calls. The first proposes a token for every masked position of the block;
the second reads the proposed block token by token (the causal reading) and draws again. Both draws
of a position use the same Gumbel noise, a function of (seed, row, position), so the second is a
draw of the causal reading wherever all proposals before it were equal to theirs: what is written
is, token by token, what the causal reading would have written alone with this noise, whatever was
proposed.

References: S2D2, arXiv:2603.25702 (a model of blocks verified with blocks of one token); Daliri et
al. 2025, arXiv:2408.07978 (draws coupled by their noise).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx.networks import heads
from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculative(decoder.Decoder):
  """Drafts a block in one call, and keeps what the causal reading would have drawn.

  Raises:
    ValueError: guidance, a cache, or a rule for ends of text that goes by the confidence.
  """

  counts_steps = False
  mixes = False
  drafts = True

  def __post_init__(self):
    super().__post_init__()
    for field, only in (("guidance_scale", 0.0), ("cache", "none")):
      if getattr(self, field) != only:
        raise ValueError(f"sampler speculative needs {field} {only}, got "
                         f"{getattr(self, field)!r}: its two calls read whole rows; leave it out.")
    if self.eos in ("last", "ramp"):
      raise ValueError(f"sampler.eos {self.eos} is a rule for orders by confidence, and sampler "
                       "speculative writes from left to right; use allow or forbid.")

  def extras(self, state, keys):
    """`noise`: data of the key that all draws of a row are made with, uint32 [B, n]."""
    del state
    return {"noise": jax.random.key_data(keys)}

  def draft(self, state, index, answer):
    """Proposed tokens int32 [B, W], drawn from the diffusion model's answer."""
    return self._draw(state, index, answer.logits)[0]

  def propose(self, params, state, index, answer, keys):
    """Draws from the causal reading, `answer`, with the noise of the draft."""
    del params, keys
    current, positions = decoder.at(state["canvas"], index), decoder.at(state["positions"], index)
    is_open = self._is_open(state, index)
    tokens, drawn = self._draw(state, index, answer.logits)
    differs = is_open & (tokens != answer.drafted)
    follows = jnp.cumsum(differs, axis=1) - differs == 0  # all proposals before it are right
    pick = lambda logits: jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_prob = pick(drawn) - jax.nn.logsumexp(drawn, axis=-1)
    probability = jnp.exp(pick(answer.logits) - jax.nn.logsumexp(answer.logits, axis=-1))
    return decoder.Proposal(index, positions, is_open & follows, current, tokens, probability,
                            probability, answer.logits, log_prob=log_prob, hidden=answer.hidden,
                            drawn_from=drawn)

  def commit(self, params, state, proposal, keys):
    """The draws whose past is settled: all up to the first that differs from its proposal."""
    del params, state, keys
    return decoder.Commit(proposal.is_open)

  def _is_open(self, state, index):
    exists = index < state["canvas"].shape[1]
    is_masked = decoder.at(state["canvas"], index) == self.mask_id
    return exists & is_masked & decoder.at(self.in_blocks(state), index)

  def _draw(self, state, index, logits):
    """Tokens [B, W], and the logits that they are drawn from."""
    blocked = (self.eos_id, *self.other_eos_ids) if self.eos == "forbid" else ()
    is_drawn = decoder.is_set(self.temperature)
    drawn = heads.block_columns(logits, self.mask_id, *blocked)
    drawn = drawn / (self.temperature if is_drawn else 1.0)
    drawn = logits_lib.keep_likely(drawn, self.top_k, self.top_p)
    keys = jax.random.wrap_key_data(state["noise"])
    return logits_lib.draw(keys, decoder.at(state["positions"], index), drawn,
                           is_greedy=not is_drawn), drawn
