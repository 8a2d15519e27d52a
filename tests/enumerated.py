"""An objective's bound averaged over every mask, for a joint that is known.

Contents: JOINT, MASKS, PARAMS, CONTEXT, mask_law, rows, expected.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.utils import rng

import oracle

JOINT = oracle.random_joint()
MASKS = np.array(list(itertools.product([False, True], repeat=JOINT.length)))
PARAMS = {"model": {}}
CONTEXT = types.context(0)


def mask_law(mask_prob) -> np.ndarray:
  """Probability of each mask at mask probabilities [T] or [T, L]: float64 [T, 2^L]."""
  prob = np.broadcast_to(np.asarray(mask_prob, np.float64).reshape(len(mask_prob), 1, -1),
                         (len(mask_prob),) + MASKS.shape)
  return np.where(MASKS, prob, 1 - prob).prod(axis=2)


def rows(objective, tokens, times, params=None, **fields):
  """Rows' "nll" [..., T, 2^L] of texts [..., L] at given times with every mask; levels [T]."""
  tokens = np.asarray(tokens)
  shape = tokens.shape[:-1] + (len(times), len(MASKS))
  spread = lambda x: np.broadcast_to(x, shape + x.shape[-1:]).reshape(-1, x.shape[-1])
  batch = oracle.batch_of(JOINT, spread(tokens[..., None, None, :])) | fields | {
      "time": jnp.asarray(spread(np.asarray(times, np.float32)[:, None, None])[:, 0])}
  masks = jnp.asarray(spread(MASKS))

  def score(batch, masks):
    prepared, _ = objective.prepare(params or PARAMS, batch, rng.root(0), CONTEXT)
    prepared |= {"is_masked": masks,
                 "noisy_tokens": jnp.where(masks, objective.mask_id, batch["tokens"])}
    return (objective(params or PARAMS, prepared, CONTEXT)[1].rows["nll"],
            prepared["noise_level"])

  nll, level = jax.jit(score)(batch, masks)
  return np.asarray(nll, np.float64).reshape(shape), np.asarray(level).reshape(
      shape).reshape(-1, len(times), len(MASKS))[0, :, 0]


def expected(objective, tokens, times, **fields):
  """The bound of texts [..., L] at each time, float64 [..., T]."""
  nll, level = rows(objective, tokens, times, **fields)
  return (mask_law(objective.alpha.mask_prob(level)) * nll).sum(axis=-1)
