"""Likelihood of texts under a model that fills one mask a call.

Contents: nll.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.networks import heads
from mdx.objectives import reading


def nll(objective: types.Objective, params: types.Params, tokens: jax.Array, mask_id: int
        ) -> jax.Array:
  """Exact -log-likelihood of rows under decoding one position a call, float32 [B], in nats.

  The order is that of rule `confidence` with `confidence="entropy"` and a token a step, at
  temperature 1: the position of least entropy is always next. It depends on the tokens written
  alone, so the chain rule gives the likelihood of the joint that decoding one by one samples.

  Args:
    objective: of a model that fills masks.
    params: of the model.
    tokens: int32 [B, L], without masks.
    mask_id: id of the mask token.
  """
  reader = objective.reader()
  assert reader is not None  # it fills masks
  answer = reading.answerer(objective, params)
  alpha = config_lib.build(schedule_lib.SCHEDULES, dict(reader.noise or {"name": "linear"}),
                           what="schedule")
  rows, length = jnp.arange(len(tokens)), tokens.shape[1]

  def one(number, carry):
    canvas, total = carry
    time = jnp.broadcast_to(alpha.time(1 - number / length), rows.shape)
    logits = answer(types.Request(canvas, time)).logits
    order = jnp.where(canvas == mask_id, heads.entropy(logits), jnp.inf)
    best = jnp.argmin(order, axis=1)
    total -= heads.log_probs(logits[rows, best], mask_id)[rows, tokens[rows, best]]
    return canvas.at[rows, best].set(tokens[rows, best]), total

  begin = jnp.full_like(tokens, mask_id), jnp.zeros(len(tokens), jnp.float32)
  return jax.lax.fori_loop(0, length, one, begin)[1]
