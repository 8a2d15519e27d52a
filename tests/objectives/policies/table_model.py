"""A model that is its own table, for problems small enough to enumerate.

Contents: REAL, Table.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types

REAL = 3  # tokens of the problems; also the id of the mask


class Table:
  """Logits [(REAL + 1)^L, L, REAL + 1] of every canvas of L tokens."""

  mask_id = REAL

  def __init__(self, length):
    self.length = length

  def init(self, seed):
    size = (REAL + 1) ** self.length
    draw = np.random.default_rng(seed).normal(size=(size, self.length, REAL + 1))
    return {"table": jnp.asarray(draw, jnp.float32)}

  def reader(self):
    return types.Reader(answer=self.answer, attention=None)

  def answer(self, params, request):
    index = (request.tokens * (REAL + 1) ** jnp.arange(self.length)[None]).sum(axis=1)
    return types.Answer(jnp.take_along_axis(params["table"][index], request.targets[..., None], axis=1))

  def law(self, params, canvas, temperature):
    """Log-probabilities at one canvas [L], float32 [L, REAL + 1]."""
    logits = params["table"][sum(int(x) * (REAL + 1) ** i for i, x in enumerate(canvas))]
    return jax.nn.log_softmax(logits.at[..., REAL].set(-1e30) / temperature, axis=-1)
