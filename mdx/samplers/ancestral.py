"""Samplers whose order of revealing is drawn beforehand.

Contents: Ancestral, FirstHitting, LeftToRight.

In absorbing-state diffusion each position is revealed at a time of its own,
independent of all tokens: it is masked at time t with probability 1 - alpha(t),
so it is revealed when that falls below a uniform. Drawing the uniforms first and
visiting only the steps at which something is revealed has the distribution of
the process, without the fused categorical that loses rare tokens to float32 noise,
and without calls that change nothing.

References: Austin et al. 2021, arXiv:2107.03006; Shi et al. 2024,
arXiv:2406.04329; Zheng et al. 2024, arXiv:2409.02908 (first hitting).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstHitting(decoder.Decoder):
  """Reveals one position a step, at the times of the continuous process; exact."""

  counts_steps = False
  mixes = False

  def extras(self, state, keys):
    """`hit`: the mask probability at which a position is revealed."""
    return {"hit": logits_lib.uniforms(keys, state["positions"])}

  def commit(self, params, state, proposal, keys):
    """The position whose time comes next."""
    del params, keys
    return decoder.Commit(self._is_next(decoder.at(state["hit"], proposal.index),
                                        proposal.is_open))

  def noise_level(self, state):
    """The time of the event, float32 [B]."""
    hit = jnp.where(self.wanted(state), state["hit"], 0.0)
    return self.alpha.time(self._event(jnp.max(hit, axis=1)))

  def _is_next(self, hit, is_open):
    return decoder.best_of(hit, is_open, jnp.ones(len(hit), jnp.int32))

  def _event(self, hit):
    return hit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral(FirstHitting):
  """The D3PM posterior on a grid of `steps` equal times; the last reveals what is left."""

  counts_steps = True

  def _grid(self):
    """1 - alpha at the start of every step, float32 [block_steps], descending."""
    return self.alpha.mask_prob(1 - jnp.arange(self.block_steps) / self.block_steps)

  def _cell(self, hit):
    """The step of a position, int32 [...]: the last whose start is not below `hit`."""
    grid = self._grid()[1:].reshape((-1,) + (1,) * hit.ndim)
    return (grid > hit[None]).sum(axis=0)

  def _is_next(self, hit, is_open):
    cell = jnp.where(is_open, self._cell(hit), self.block_steps)
    return is_open & (cell == jnp.min(cell, axis=1, keepdims=True))

  def _event(self, hit):
    return self._grid()[self._cell(hit)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftToRight(decoder.Decoder):
  """Draws the first masked position of each row, one a step (autoregressive models)."""

  counts_steps = False
  mixes = False

  @property
  def block(self):
    """One position, whatever `block_length` says."""
    return 1

  def commit(self, params, state, proposal, keys):
    """The only position."""
    del params, state, keys
    return decoder.Commit(proposal.is_open)
