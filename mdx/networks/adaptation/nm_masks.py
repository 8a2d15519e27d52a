"""Learned N:M sparsity: of every m weights along the inputs of a kernel, n are kept.

Contents: NMMask, candidates.

Convention: the groups of a kernel [in, out] are m consecutive inputs of one output; scores
`mask_logits` [in / m, patterns, out] float32 choose one of the binom(m, n) patterns of each. The
weights themselves are not trained.

Reference: Fang et al. 2024, arXiv:2409.17481 (MaskLLM).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.networks.adaptation import pruning
from mdx.networks.adaptation import sites


def candidates(n: int, m: int) -> np.ndarray:
  """Returns the patterns with n of m kept, float32 [binom(m, n), m]."""
  return np.array([[i in kept for i in range(m)] for kept in itertools.combinations(range(m), n)],
                  np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NMMask(types.Adaptation):
  """W * M, with a pattern of each group drawn in training and the likeliest one otherwise.

  In training M is the mean of the patterns under softmax((kappa s + g) / tau), of scores s and
  Gumbel noise g; tau falls and kappa rises linearly over the run. The loss is lowered by `reward`
  times the expected squared size of the weights that are kept, less and less during the run. The
  merged kernel is the masked one. binom(m, n) / m parameters a weight.

  Attributes:
    n: weights that are kept of a group.
    m: size of a group, which divides the inputs of the projections.
    steps: of the run, which the schedules are of.
    temperature: tau at first and at last.
    kappa: scale of the scores at first and at last.
    reward: of the squared size.
    prior: mask that the scores begin at: of one of `pruning.METHODS`; or "none": by chance.
    strength: alpha of the prior.
    updates_weights: whether kept weights take the values that SparseGPT gives them.
    calibration_rows: rows of training that Wanda and SparseGPT read.
    hard: whether the forward pass has the likeliest pattern of the draw (straight through).
    targets: projections that have one.
  """
  n: int = 2
  m: int = 4
  steps: int = 2000
  temperature: tuple[float, float] = (4.0, 0.05)
  kappa: tuple[float, float] = (1e2, 5e2)
  reward: float = 1e-5
  prior: str = "magnitude"
  strength: float = 3.0
  updates_weights: bool = False
  calibration_rows: int = 128
  hard: bool = False
  targets: tuple[str, ...] = tuple(sites.PROJECTIONS)
  has_noise: ClassVar[bool] = True
  has_upkeep: ClassVar[bool] = True

  def __post_init__(self):
    config_lib.check(self, "nm_mask", choices=dict(prior=(*pruning.METHODS, "none")),
                     at_least=dict(n=1, m=2, steps=1, reward=0, strength=0, calibration_rows=1))
    if self.updates_weights and self.prior != "sparsegpt":
      raise ValueError(f"nm_mask.updates_weights is of prior sparsegpt, got {self.prior!r}; leave "
                       "it out.")
    if self.n >= self.m or self.m > 8:
      raise ValueError(f"nm_mask keeps {self.n} of {self.m} weights; n is below m, and m at most "
                       "8.")
    for name in ("temperature", "kappa"):
      pair = getattr(self, name)
      if len(pair) != 2 or not all(value > 0 for value in pair):
        raise ValueError(f"nm_mask.{name} is {pair}; expected two positive numbers, the first and "
                         "the last.")

  @property
  def reads_kernel(self):
    """Whether the prior is that of the weights alone."""
    return self.prior == "magnitude"

  @property
  def reads_inputs(self):
    """Whether the prior needs activations."""
    return self.prior in ("wanda", "sparsegpt")

  def check(self, name, shape):
    """Groups divide the inputs."""
    if shape[0] % self.m:
      raise ValueError(f"nm_mask.m {self.m} does not divide the {shape[0]} inputs of {name}; use a "
                       "divisor, or other targets.")

  def leaves(self, shape, axes):
    """Scores, and the share of the run that is done."""
    draw = lambda key, shape, dtype: 0.01 * jax.random.normal(key, shape, dtype)
    zeros = lambda key, shape, dtype: jnp.zeros(shape, dtype)
    size = (shape[0] // self.m, len(candidates(self.n, self.m)), shape[1])
    return {"mask_logits": types.Leaf(size, draw, (axes[0], None, axes[1])),
            "mask_progress": types.Leaf((), zeros, (), decays=False, is_state=True)}

  def started(self, own, kernel):
    """Scores that prefer the patterns which keep the largest weights."""
    kept = pruning.magnitude(kernel.astype(jnp.float32), self.n, self.m)
    return self._preferring(own, kept), kernel

  def calibrated(self, own, kernel, moments):
    """Scores that prefer the patterns of Wanda or SparseGPT."""
    if self.prior == "wanda":
      kept, updated = pruning.wanda(np.float32(kernel), moments, self.n, self.m), kernel
    else:
      kept, updated = pruning.sparse_gpt(kernel, moments, self.n, self.m)
      # What the mask leaves out keeps its weight, so that the mask can still choose it.
      updated = np.where(kept, updated, kernel) if self.updates_weights else kernel
    return jax.device_get(self._preferring(own, jnp.asarray(kept))), updated

  def _preferring(self, own, kept):
    """Scores raised by the overlap of each pattern with a mask."""
    groups = kept.astype(jnp.float32).reshape(-1, self.m, kept.shape[1])
    overlap = jnp.einsum("gio,ci->gco", groups, candidates(self.n, self.m))
    logits = own["mask_logits"]
    raised = self.strength * logits.std() * (overlap - self.n ** 2 / self.m)
    return {**own, "mask_logits": logits + raised}

  def _at(self, pair, progress):
    return pair[0] + (pair[1] - pair[0]) * progress

  def kernel(self, own, kernel, noise):
    """The masked kernel."""
    logits, progress = own["mask_logits"], own["mask_progress"]
    choice = jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1], axis=1)
    if noise is not None:
      drawn = self._at(self.kappa, progress) * logits + jax.random.gumbel(noise, logits.shape)
      soft = jax.nn.softmax(drawn / self._at(self.temperature, progress), axis=1)
      likeliest = jax.nn.one_hot(drawn.argmax(axis=1), logits.shape[1], axis=1)
      choice = soft + jax.lax.stop_gradient(likeliest - soft) if self.hard else soft
    mask = jnp.einsum("gco,ci->gio", choice, candidates(self.n, self.m)).reshape(kernel.shape)
    return kernel * mask.astype(kernel.dtype)

  def penalty(self, own, kernel):
    """Less the expected squared size of what is kept, [layers]."""
    progress = own["mask_progress"]
    scores = self._at(self.kappa, progress)[:, None, None, None] * own["mask_logits"]
    kept = jnp.einsum("lgco,ci->lgio", jax.nn.softmax(scores, axis=2),
                      candidates(self.n, self.m)).reshape(kernel.shape)
    sizes = jnp.square(jax.lax.stop_gradient(kernel.astype(jnp.float32)))
    return -self.reward * (1 - progress) * (sizes * kept).sum(axis=(1, 2))

  def stepped(self, owned, grads, step):
    """The share of the run that is done."""
    done = jnp.clip((step + 1) / self.steps, 0.0, 1.0)
    return {path: {"mask_progress": jnp.full_like(own["mask_progress"], done)}
            for path, own in owned.items()}
