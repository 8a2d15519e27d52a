"""Draw, then score: terms with weights of their own accumulate exactly over microbatches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng

VOCAB, WIDTH = 7, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TwoTerms(types.Objective):
  """A token term on sampled tokens, and a term on pairs of rows that belong together."""
  unit: int = 2

  scales = {"token": 1.0, "pair": 50.0}

  @property
  def rows_per_unit(self):
    return self.unit

  def init(self, key):
    return {"model": {"embed": jax.random.normal(key, (VOCAB, WIDTH))}}

  def prepare(self, params, batch, key, context):
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    is_target = mask_lib.bernoulli(keys, 0.4, batch["loss_mask"])
    sampled = jax.vmap(jax.random.uniform)(
        rng.per_example(rng.stream(key, "rows"), batch["example_index"] // 2)) < 0.6
    return (batch | {"is_target": is_target, "sampled": sampled},
            {"token": is_target.sum(dtype=jnp.float32),
             "pair": sampled.sum(dtype=jnp.float32) / 2})

  def __call__(self, params, batch, context):
    embed = params["model"]["embed"]
    hidden = embed[batch["tokens"]] * batch["loss_mask"][..., None]
    logp = jax.nn.log_softmax(jnp.tanh(hidden) @ embed.T)
    losses = -jnp.take_along_axis(logp, batch["tokens"][..., None], axis=2)[..., 0]
    losses = jnp.where(batch["is_target"], losses, 0.0).sum(axis=1)
    pooled = hidden.sum(axis=1) / jnp.maximum(batch["loss_mask"].sum(axis=1), 1)[:, None]
    first, second = pooled[0::2], pooled[1::2]
    gap = jnp.square(first - second).sum(axis=1) * batch["sampled"][0::2]
    count = batch["is_target"].sum(axis=1, dtype=jnp.float32)
    return ({"token": losses.sum(), "pair": gap.sum()},
            types.Aux({"token": (losses.sum(), count.sum()),
                       "pair": (gap.sum(), batch["sampled"].sum(dtype=jnp.float32) / 2)},
                      {"nll": losses, "count": count}, {}))


def _batch(num_rows=16, length=12):
  draw = np.random.default_rng(0)
  lengths = draw.integers(1, length + 1, num_rows)
  return {"tokens": jnp.asarray(draw.integers(0, VOCAB, (num_rows, length)), jnp.int32),
          "loss_mask": jnp.asarray(np.arange(length)[None] < lengths[:, None]),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


def _two_steps(num_microbatches, unit=2):
  objective, optimizer = _TwoTerms(unit=unit), optax.sgd(0.01)
  state = state_lib.init_fn(objective, optimizer, keep_ema=False)(rng.root(0))
  step = jax.jit(step_lib.make_step(objective, optimizer, seed=4, rate=lambda step: 0.01,
                                    num_microbatches=num_microbatches))
  logged = []
  for _ in range(2):
    state, metrics = step(state, _batch(), {})
    logged.append(metrics)
  return jax.device_get((state.params, logged))


@functools.cache
def _whole():
  return _two_steps(1)


@pytest.mark.parametrize("num_microbatches", [2, 4, 8])
def test_microbatches_give_the_loss_metrics_and_parameters_of_the_whole_batch(num_microbatches):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6),
               _two_steps(num_microbatches), _whole())


def test_the_terms_have_unequal_weights_here_and_both_count():
  _, (metrics, _) = _whole()
  (token, num_tokens), (pair, num_pairs) = metrics["token"], metrics["pair"]
  assert num_tokens != num_pairs and min(token, pair) > 0
  np.testing.assert_allclose(metrics["loss"][0], token / num_tokens + 50 * pair / num_pairs,
                             rtol=1e-5)


def test_cutting_pairs_would_change_the_loss():
  _, (cut, _) = _two_steps(2, unit=1)
  assert abs(cut["loss"][0] - _whole()[1][0]["loss"][0]) > 1e-2
