"""Noise of the gradient: its variance over the draws of an objective.

Contents: check_draws, make_noise.

Convention: text and weights are fixed, only the draws of `prepare` vary: times and masks. An
objective that draws nothing has no such noise.
"""

from __future__ import annotations

from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from mdx import types
from mdx.train import step as step_lib
from mdx.utils import rng


def check_draws(num_draws: int) -> None:
  """Raises ValueError for a number of draws that has no variance."""
  if num_draws < 0 or num_draws == 1:
    raise ValueError(f"config.eval.gradient_draws must be 2 or more, or 0 for none, got "
                     f"{num_draws}.")


def make_noise(objective: types.Objective, *, num_draws: int, seed: int, step: int,
               num_microbatches: int = 1) -> Callable[..., dict[str, jax.Array]]:
  """Builds (params, batch, frozen, state) -> figures over `num_draws` draws of a batch; jit it.

  Args:
    objective: the loss.
    num_draws: 2 or more; each costs a training step.
    seed: of the draws.
    step: of the run, for the objective's schedules.
    num_microbatches: as in training.

  Returns:
    A function whose figures are, unbiased, float32: gradient_variance, the trace of the
    covariance of the gradient; gradient_square, the squared norm of its mean; loss_variance.
  """
  check_draws(num_draws)

  def noise(params: types.Params, batch: types.Batch, frozen: types.Params,
            state: Any) -> dict[str, jax.Array]:
    key = rng.stream(rng.root(seed), "noise")

    def add(carry, draw):
      mean, squares = carry  # Welford's recurrence: no difference of large numbers
      own = rng.stream(key, "draw", draw)
      context = types.context(step, frozen, state, key=own)
      seen = step_lib.look(objective, batch, context, num_microbatches)
      prepared, weights = objective.prepare(params, seen, own, context)
      loss, _, grads = step_lib.loss_and_grad(objective, params, prepared, weights, context,
                                              num_microbatches)
      new = {"gradient": grads, "loss": loss}
      off = jax.tree.map(jnp.subtract, new, mean)
      mean = jax.tree.map(lambda m, d: m + d / (draw + 1), mean, off)
      still_off = jax.tree.map(jnp.subtract, new, mean)
      return (mean, {k: squares[k] + optax.tree.vdot(off[k], still_off[k]) for k in squares}), None

    zeros = {"gradient": jax.tree.map(jnp.zeros_like, params), "loss": jnp.float32(0)}
    start = zeros, {"gradient": jnp.float32(0), "loss": jnp.float32(0)}
    (mean, squares), _ = jax.lax.scan(add, start, jnp.arange(num_draws))
    variance = {k: total / (num_draws - 1) for k, total in squares.items()}
    square = optax.tree.norm(mean["gradient"], squared=True) - variance["gradient"] / num_draws
    return {"gradient_variance": variance["gradient"], "gradient_square": square,
            "loss_variance": variance["loss"]}

  return noise
