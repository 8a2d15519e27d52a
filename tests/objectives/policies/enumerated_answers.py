"""Every mask of an answer of the rollouts' model, and its exact bound by the orders of its tokens.

Contents: MASKS, table, order_bound, uniform_counts.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np

import rollouts
from rollouts import ANSWER, MASK_ID, PROMPT

MASKS = np.array(list(itertools.product([False, True], repeat=ANSWER)))


def table(params, row):
  """Log-probability of the answer's tokens under every mask, [2^G, G]; 0 where not masked."""
  row = jnp.asarray(row)
  prompt = jnp.broadcast_to(row[:PROMPT], (len(MASKS), PROMPT))
  log_probs = rollouts.masked_log_probs(params, jnp.where(MASKS, MASK_ID, row[PROMPT:]), prompt)
  picked = jnp.take_along_axis(
      log_probs, jnp.broadcast_to(row[PROMPT:], MASKS.shape)[..., None], axis=2)[..., 0]
  return jnp.where(MASKS, picked, 0.0)


def order_bound(log_probs):
  """The bound of a table: the mean over all orders of the sum of each token after those before."""
  length = log_probs.shape[1]
  bits = 2 ** np.arange(length)[::-1]
  masks, places = [], []
  for order in itertools.permutations(range(length)):
    hidden = np.ones(length, int)
    for i in order:
      masks.append(int(hidden @ bits))
      places.append(i)
      hidden[i] = 0
  return log_probs[np.array(masks), np.array(places)].sum() / math.factorial(length)


def uniform_counts(masks, counts):
  """Probability of each mask if its count is uniform on `counts`, and the mask given it."""
  length = masks.shape[1]
  return np.array([(m.sum() in counts) / math.comb(length, m.sum()) / len(counts) for m in masks])
