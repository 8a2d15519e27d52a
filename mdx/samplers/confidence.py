"""Rules that commit the most confident positions; what is committed stays.

Contents: Confidence, Threshold, Factor, EntropyBounded, Klass, Hierarchical.
Every rule commits at least one position a step.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx.corruption import schedule as schedule_lib
from mdx.samplers import counts
from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib


def scheduled_counts(sampler, state):
  """Tokens the schedule commits at this step, and those it leaves for later, int32 [B]."""
  most, width = sampler.block, sampler.block_steps
  table = np.zeros((len(sampler.components), most + 1, width), np.int32)
  for i, component in enumerate(sampler.components):
    steps = sampler.block_steps_of(component)
    table[i, :, :steps] = counts.count_table(sampler.schedule, most, steps)
  left = np.arange(most + 1)[:, None] - np.cumsum(table, axis=2)
  at = state["component"], state["count"], jnp.minimum(state["step"], width - 1)
  return jnp.asarray(table)[at], jnp.asarray(left.astype(np.int32))[at]


def most_confident(proposal):
  """The most confident open position of each row, bool [B, W]."""
  return decoder.best_of(proposal.confidence, proposal.is_open,
                         jnp.ones(len(proposal.index), jnp.int32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confidence(decoder.Decoder):
  """Commits the most confident positions, as many as the schedule says.

  Called low-confidence remasking where it comes from: "remasked" are the positions that
  are not committed. References: Nie et al. 2025, arXiv:2502.09992; Chang et al. 2022,
  arXiv:2202.04200.

  Attributes:
    schedule: tokens committed a step: one of counts.SCHEDULES.
    order_temperature: the positions are drawn one after another, without replacement, from
      softmax(confidence / it); 0 = the most confident ones. `alg_temp` of Dream (Ye et al. 2025,
      arXiv:2508.15487).
    eos_penalty: nats taken from the logits of ends of text while all is masked, less in proportion
      to the share of masks that is left, so that texts do not end early (Dream-Coder, Xie et al.
      2025, whose annealing is not published in words; this one is linear).
  """
  schedule: str = "even"
  order_temperature: float = 0.0
  eos_penalty: float = 0.0

  told = {**decoder.Decoder.told, "order_temperature": 0.0, "eos_penalty": 0.0}

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", choices={"schedule": counts.SCHEDULES},
                     at_least={"order_temperature": 0, "eos_penalty": 0})
    if self.eos_penalty and self.eos_id < 0:
      raise ValueError("sampler.eos_penalty needs a tokenizer with an end-of-text id.")

  def propose(self, params, state, index, answer, keys):
    """Tokens of the model, of which ends of text are made less likely."""
    if decoder.is_set(self.eos_penalty):
      is_masked = state["free"] & (state["canvas"] == self.mask_id)
      share = is_masked.sum(axis=1) / jnp.maximum(state["free"].sum(axis=1), 1)
      is_end = self.ends(jnp.arange(answer.logits.shape[-1]))[None, None]
      penalty = (self.eos_penalty * share)[:, None, None]
      answer = answer._replace(logits=answer.logits - jnp.where(is_end, penalty, 0.0))
    return super().propose(params, state, index, answer, keys)

  def commit(self, params, state, proposal, keys):
    """The n most confident positions, or n drawn by their confidence."""
    del params
    score = proposal.confidence
    # The largest of noisy scores are a draw without replacement.
    if decoder.is_set(self.order_temperature):
      score = score / self.order_temperature + logits_lib.gumbels(keys, proposal.positions)
    count, _ = scheduled_counts(self, state)
    return decoder.Commit(decoder.best_of(score, proposal.is_open, count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold(decoder.Decoder):
  """Commits every position of at least `threshold`, and the most confident (arXiv:2505.22618).

  Attributes:
    threshold: confidence from which a token is committed.
  """
  threshold: float = 0.9

  told = {**decoder.Decoder.told, "threshold": None}
  counts_steps = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", between={"threshold": "[0, 1]"})

  def commit(self, params, state, proposal, keys):
    """All confident positions."""
    del params, state, keys
    sure = proposal.is_open & (proposal.confidence >= self.threshold)
    return decoder.Commit(sure | most_confident(proposal))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor(decoder.Decoder):
  """Commits the n most confident positions, with the largest n: (n + 1)(1 - c_n) < factor.

  With factor 1, greedy tokens that agree with decoding one by one (arXiv:2505.22618).

  Attributes:
    factor: bound of (n + 1)(1 - c_n).
  """
  factor: float = 1.0

  told = {**decoder.Decoder.told, "factor": None}
  counts_steps = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", between={"factor": "(0, inf)"})

  def commit(self, params, state, proposal, keys):
    """The longest prefix of the positions, most confident first, that keeps the bound."""
    del params, state, keys
    ranked, _, rank = _ranked(proposal)
    number = jnp.arange(1, ranked.shape[1] + 1)[None]
    passes = (number + 1) * (1 - ranked) < self.factor
    count = jnp.max(jnp.where(passes, number, 1), axis=1)
    return decoder.Commit(proposal.is_open & (rank < count[:, None]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyBounded(decoder.Decoder):
  """Commits the longest prefix whose positions share at most `entropy_bound` nats.

  Most confident first, sum of H - max of H <= bound: the left side bounds the joint mutual
  information of the set. Reference: Ben-Hamu et al. 2025, arXiv:2505.24857.

  Attributes:
    entropy_bound: nats that tokens committed together may share.
  """
  entropy_bound: float = 0.1

  told = {**decoder.Decoder.told, "entropy_bound": None}
  counts_steps = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"entropy_bound": 0})

  def commit(self, params, state, proposal, keys):
    """The longest prefix within the bound."""
    del params, state, keys
    ranked, order, rank = _ranked(proposal)
    entropy = jnp.where(proposal.is_open, logits_lib.entropy(proposal.logits), 0.0)
    entropy = jnp.take_along_axis(entropy, order, axis=1)
    shared = jnp.cumsum(entropy, axis=1) - jax.lax.cummax(entropy, axis=1)
    within = (shared <= self.entropy_bound) & (ranked > -decoder.LAST / 2)  # a prefix of both
    count = 1 + within[:, 1:].sum(axis=1)
    return decoder.Commit(proposal.is_open & (rank < count[:, None]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Klass(decoder.Decoder):
  """Commits confident positions whose prediction has been stable.

  Stable: KL(p_t || p_{t-1}) < kl_threshold for `kl_steps` steps. Of a prediction the
  `kl_top_k` likeliest tokens are remembered and the rest as one event, which bounds the
  divergence from below. If no position qualifies, the most confident is committed.

  Attributes:
    threshold: confidence from which a token is committed.
    kl_threshold: nats below which a prediction counts as stable.
    kl_steps: steps for which it must have been stable.
    kl_top_k: tokens remembered to measure this.

  Reference: Kim et al. 2025, arXiv:2511.05664.
  """
  threshold: float = 0.9
  kl_threshold: float = 0.01
  kl_steps: int = 2
  kl_top_k: int = 32

  told = {**decoder.Decoder.told, "threshold": None, "kl_threshold": None}
  counts_steps = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"kl_threshold": 0, "kl_steps": 1, "kl_top_k": 1},
                     between={"threshold": "[0, 1]"})

  def extras(self, state, keys):
    """The last prediction of each position, and for how long it has been stable."""
    del keys
    rows, length = state["canvas"].shape
    return {"known": jnp.full((rows, length, self.kl_top_k), -1, jnp.int32),
            "known_probs": jnp.zeros((rows, length, self.kl_top_k), jnp.float32),
            "stable": jnp.full((rows, length), -1, jnp.int32)}

  def commit(self, params, state, proposal, keys):
    """Confident and stable positions."""
    del params, keys
    index = jnp.minimum(proposal.index, state["canvas"].shape[1] - 1)
    at_index = lambda x: jnp.take_along_axis(x, index[..., None], axis=1)
    known, before = at_index(state["known"]), at_index(state["known_probs"])
    stable = decoder.at(state["stable"], index)
    probs = jax.nn.softmax(proposal.logits, axis=-1)
    now = jnp.take_along_axis(probs, jnp.maximum(known, 0), axis=-1) * (known >= 0)
    rest = lambda p: jnp.maximum(1 - p.sum(axis=-1, keepdims=True), schedule_lib.TINY)
    now, before = (jnp.concatenate([p, rest(p)], axis=-1) for p in (now, before))
    log = lambda p: jnp.log(jnp.maximum(p, schedule_lib.TINY))
    terms = now * (log(now) - log(before))
    moved = terms.sum(axis=-1)
    # The first sight has moved nothing, all being "the rest": from -1 to 0.
    stable = jnp.where(moved >= self.kl_threshold, 0, stable + 1)
    sure = proposal.is_open & (proposal.confidence >= self.threshold) & (stable >= self.kl_steps)
    none = ~jnp.any(sure, axis=1, keepdims=True)
    kept, ids = jax.lax.top_k(probs, min(self.kl_top_k, probs.shape[-1]))
    pad = ((0, 0), (0, 0), (0, self.kl_top_k - kept.shape[-1]))
    ids, kept = jnp.pad(ids, pad, constant_values=-1), jnp.pad(kept, pad)
    put = lambda name, new: decoder.put(state[name], proposal.index, proposal.is_open, new)
    return decoder.Commit(sure | (none & most_confident(proposal)), {
        "known": put("known", ids.astype(jnp.int32)), "known_probs": put("known_probs", kept),
        "stable": put("stable", stable)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchical(decoder.Decoder):
  """Commits also the best position of every run of masks, if above `low_threshold`.

  Committed tokens so lie apart, and the chains that depend on one another are shorter.
  Reference: Ma et al. 2025, arXiv:2510.08666 (dInfer).

  Attributes:
    threshold: confidence from which a token is committed.
    low_threshold: confidence above which a run of masks commits its best token.
  """
  threshold: float = 0.9
  low_threshold: float = 0.4

  told = {**decoder.Decoder.told, "threshold": None, "low_threshold": None}
  counts_steps = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", between={"threshold": "[0, 1]", "low_threshold": "[0, 1]"})

  def commit(self, params, state, proposal, keys):
    """Confident positions, the best of each run, and the best of all."""
    del params, state, keys
    score, is_open = proposal.confidence, proposal.is_open
    follows = jnp.pad(is_open[:, :-1] & (jnp.diff(proposal.index, axis=1) == 1), ((0, 0), (1, 0)))
    run = jnp.cumsum(~(follows & is_open), axis=1)
    same = (run[:, :, None] == run[:, None, :]) & is_open[:, None, :]
    index = jnp.arange(score.shape[1])
    better = (score[:, None, :] > score[:, :, None]) | (
        (score[:, None, :] == score[:, :, None]) & (index[None, :] < index[:, None])[None])
    best = is_open & ~jnp.any(same & better, axis=2)
    high = (is_open & (score >= self.threshold)) | (best & (score > self.low_threshold))
    return decoder.Commit(high | most_confident(proposal))


def _ranked(proposal):
  """Confidences in descending order [B, W], then -inf; that order; the rank of each position."""
  rank = decoder.ranks(proposal.confidence, proposal.is_open)
  order = jnp.argsort(rank, axis=1)
  score = jnp.where(proposal.is_open, proposal.confidence, -jnp.inf)
  return jnp.take_along_axis(score, order, axis=1), order, rank
