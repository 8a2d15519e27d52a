"""A joint distribution small enough to enumerate, and networks that know it.

Contents: Joint, random_joint, batch_of, z_score, chi_square.

Convention: ids are 0..vocab_size-1; `mask_id` and `pad_id` are not real tokens
and lie between real ids or behind them. Both networks give those two columns a
large logit, so an objective that forgets to block the mask id is found out.
Any id that is not real counts as unknown and is summed out.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from scipy import stats

from mdx import types
from mdx.networks import attention as attention_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint:
  """p(x) over all sequences of real tokens, by table.

  Attributes:
    sequences: int32 [N, L], all of them, in lexicographic order.
    probs: float64 [N].
    real: the real ids.
    mask_id: written at corrupted positions.
    vocab_size: number of ids, mask and padding included.
  """
  sequences: np.ndarray
  probs: np.ndarray
  real: tuple[int, ...]
  mask_id: int
  pad_id: int
  vocab_size: int

  @property
  def length(self) -> int:
    """L."""
    return self.sequences.shape[1]

  @property
  def nll(self) -> np.ndarray:
    """-log p of every sequence, float64 [N]."""
    return -np.log(self.probs)

  def index(self, tokens: np.ndarray) -> np.ndarray:
    """Row of `sequences` of each row of tokens [B, L]; -1 for ids that are not real."""
    lookup = np.full(self.vocab_size, -1)
    lookup[list(self.real)] = np.arange(len(self.real))
    digits = lookup[np.asarray(tokens)]
    number = digits @ len(self.real) ** np.arange(self.length)[::-1]
    return np.where((digits >= 0).all(axis=1), number, -1)

  def conditionals(self, tokens: np.ndarray) -> np.ndarray:
    """p(x_i | the real tokens of a row), float64 [B, L, V], by enumeration."""
    tokens = np.asarray(tokens)
    known = np.isin(tokens, self.real)
    agrees = ((tokens[:, None] == self.sequences) | ~known[:, None]).all(axis=2)
    one_hot = np.eye(self.vocab_size)[self.sequences]
    mass = np.einsum("bn,n,nlv->blv", agrees, self.probs, one_hot)
    return mass / mass.sum(axis=2, keepdims=True)

  def network(self) -> types.Network:
    """Bidirectional: logits of x_i given every real token of the row."""

    def encode(params, inputs, *, attention, time=None, noise=None):
      del params, time, noise
      if attention != attention_lib.Full():
        raise AssertionError(f"a bidirectional model was read with {attention}")
      agrees = self._agrees(inputs.tokens)
      return types.Hidden(self._logits(jnp.einsum("bn,nlv->blv", agrees.all(axis=2) * 1.0, self._table())))

    return types.Network(lambda key: {"unused": jnp.zeros(())}, encode, _read, self.vocab_size)

  def causal_network(self) -> types.Network:
    """Causal: logits of x_i given tokens [start, x_0 .. x_{i-1}] up to place i.

    The start token is the mask id; a row that begins with another gets NaN.
    """

    def encode(params, inputs, *, attention, time=None, noise=None):
      del params, time, noise
      if attention != attention_lib.Causal():
        raise AssertionError(f"a causal model was read with {attention}")
      tokens = inputs.tokens
      known = jnp.concatenate([tokens[:, 1:], jnp.full_like(tokens[:, :1], self.mask_id)], axis=1)
      agrees = jnp.cumprod(self._agrees(known), axis=2)  # [B, N, L]: up to and with place i
      before = jnp.pad(agrees[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=1)
      before *= (tokens[:, :1] == self.mask_id)[..., None]
      return types.Hidden(self._logits(jnp.einsum("bnl,nlv->blv", before * 1.0, self._table())))

    return types.Network(lambda key: {"unused": jnp.zeros(())}, encode, _read, self.vocab_size)

  def _agrees(self, tokens):
    known = jnp.isin(tokens, jnp.asarray(self.real))
    same = tokens[:, None, :] == jnp.asarray(self.sequences)[None]
    return same | ~known[:, None, :]

  def _table(self):
    return jnp.asarray(self.probs[:, None, None] * np.eye(self.vocab_size)[self.sequences],
                       jnp.float32)

  def _logits(self, mass):
    logits = jnp.log(jnp.maximum(mass / mass.sum(axis=-1, keepdims=True), 1e-30))
    return jnp.where(jnp.arange(self.vocab_size) == self.mask_id, 5.0, logits)


def _read(params, hidden, name):
  """The head: hidden already holds the logits, gathered or not."""
  del params, name
  return hidden.astype(jnp.float32)


def random_joint(seed: int = 0, length: int = 4, real: tuple[int, ...] = (0, 2, 3),
                 mask_id: int = 1, vocab_size: int = 5) -> Joint:
  """A joint without structure; the last id is padding."""
  sequences = np.array(list(itertools.product(real, repeat=length)), np.int32)
  weights = np.random.default_rng(seed).exponential(size=len(sequences)) + 0.05
  return Joint(sequences=sequences, probs=weights / weights.sum(), real=real, mask_id=mask_id,
               pad_id=vocab_size - 1, vocab_size=vocab_size)


def batch_of(joint: Joint, tokens: np.ndarray, first: int = 0) -> types.Batch:
  """A batch of rows, all supervised, with consecutive example indices."""
  tokens = jnp.asarray(tokens, jnp.int32)
  return {"tokens": tokens, "loss_mask": tokens != joint.pad_id,
          "example_index": first + jnp.arange(len(tokens), dtype=jnp.int32)}


def z_score(values: np.ndarray, expected: float) -> float:
  """Deviation of a mean from its expectation, in standard errors."""
  values = np.asarray(values, np.float64)
  return float((values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values))))


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
  """p-value of counts under a law; cells of small expectation are pooled."""
  counts, probs = np.asarray(counts, np.float64), np.asarray(probs, np.float64)
  expected = probs / probs.sum() * counts.sum()
  small = expected < 8
  if small.any():
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
  return float(stats.chisquare(counts, expected).pvalue)
