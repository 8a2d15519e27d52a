"""The step: gradient, average, metrics and untrained state of a loss known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdx import types
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Quadratic(types.Objective):
  """2 * mean over rows of (w - x)^2 / 2, with a drawn offset that is scaled by `noise`."""
  noise: float = 0.0

  scales = {"square": 2.0}
  rows_per_unit = 1

  def init(self, key):
    return {"model": {"w": jnp.full((1,), 3.0) + 0.0 * jax.random.uniform(key)}}

  def init_state(self):
    return {"seen": jnp.float32(0)}

  def prepare(self, params, batch, key, context):
    draws = jax.vmap(jax.random.normal)(rng.per_example(key, batch["example_index"]))
    return batch | {"draw": self.noise * draws}, {"square": jnp.float32(len(batch["tokens"]))}

  def __call__(self, params, batch, context):
    gaps = params["model"]["w"] - batch["tokens"][:, 0] - batch["draw"]
    total = 0.5 * jnp.square(gaps).sum()
    state = {"seen": jnp.float32(len(gaps))} if context.state else {}
    return {"square": total}, types.Aux({"gap": (gaps.sum(), jnp.float32(len(gaps)))}, {}, state)


BATCH = {"tokens": jnp.asarray([[1.0], [2.0], [6.0], [7.0]]), "example_index": jnp.arange(4)}


def _state(optimizer, objective=_Quadratic(), keep_ema=True, extra=None):
  state = state_lib.init_fn(objective, optimizer, keep_ema=keep_ema)(rng.root(0))
  return state._replace(extra=extra or {})


def _make(optimizer, objective=_Quadratic(), **options):
  return jax.jit(step_lib.make_step(objective, optimizer, seed=1, rate=lambda step: 0.25 + step,
                                    **options))


def test_loss_gradient_norm_rate_and_metrics_are_those_of_the_formula():
  # w = 3, mean x = 4: loss 2 * mean((3 - x)^2) / 2 = (4 + 1 + 9 + 16) / 4, gradient 2 * (3 - 4).
  optimizer = optax.sgd(0.1)
  state, metrics = _make(optimizer)(_state(optimizer), BATCH, {})
  expected = {"loss": (7.5, 1), "grad_norm": (2.0, 1), "learning_rate": (0.25, 1), "gap": (-4, 4)}
  assert set(metrics) == set(expected)
  for name, pair in expected.items():
    np.testing.assert_allclose(metrics[name], pair, rtol=1e-6, err_msg=name)
  np.testing.assert_allclose(state.params["model"]["w"], 3.2, rtol=1e-6)
  assert int(state.step) == 1


def test_the_average_moves_by_a_decay_that_is_ramped_up_to_its_limit():
  optimizer = optax.sgd(0.1)
  step, state = _make(optimizer, ema_decay=0.2), _state(optimizer)
  average = 3.0
  for count in range(4):
    state, _ = step(state, BATCH, {})
    decay = min(0.2, (1 + count) / (10 + count))  # 0.1, 0.18.., 0.2, 0.2
    average = decay * average + (1 - decay) * float(state.params["model"]["w"][0])
    np.testing.assert_allclose(state.ema["model"]["w"], average, rtol=1e-6)


def test_without_a_decay_no_average_is_kept():
  optimizer = optax.sgd(0.1)
  state, _ = _make(optimizer)(_state(optimizer, keep_ema=False), BATCH, {})
  assert state.ema == {}


@pytest.mark.parametrize("num_microbatches", [1, 2, 4])
def test_state_sums_are_applied_once_a_step(num_microbatches):
  optimizer = optax.sgd(0.1)
  step = _make(optimizer, num_microbatches=num_microbatches)
  state = _state(optimizer, extra={"seen": jnp.float32(10)})
  for _ in range(2):
    state, _ = step(state, BATCH, {})
  assert float(state.extra["seen"]) == 18


def test_draws_depend_on_the_seed_and_the_step_and_on_nothing_else():
  optimizer = optax.sgd(0.0)
  step, state = _make(optimizer, _Quadratic(noise=1.0)), _state(optimizer)
  state_1, first = step(state, BATCH, {})
  _, second = step(state_1, BATCH, {})
  assert first["loss"][0] != second["loss"][0]
  assert step(state, BATCH, {})[1]["loss"][0] == first["loss"][0]
  shuffled = {k: v[jnp.asarray([2, 0, 3, 1])] for k, v in BATCH.items()}
  np.testing.assert_allclose(step(state, shuffled, {})[1]["loss"][0], first["loss"][0], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_of_zero_gives_a_finite_loss_and_a_bad_token_is_not_hidden(value):
  optimizer = optax.sgd(0.1)
  bad = dict(BATCH, tokens=BATCH["tokens"].at[0, 0].set(value))
  _, metrics = _make(optimizer)(_state(optimizer), bad, {})
  assert not np.isfinite(metrics["loss"][0])

  class Empty(_Quadratic):

    def prepare(self, params, batch, key, context):
      del key
      return batch | {"draw": jnp.zeros(4)}, {"square": jnp.float32(0)}

    def __call__(self, params, batch, context):
      totals, aux = super().__call__(params, batch, context)
      return {k: 0.0 * v for k, v in totals.items()}, aux

  state, metrics = _make(optimizer, Empty())(_state(optimizer), BATCH, {})
  assert metrics["loss"][0] == 0 and np.isfinite(state.params["model"]["w"]).all()


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_what_is_not_trained_keeps_its_value_and_the_rest_trains_as_if_it_were_a_constant(
    num_microbatches):

  @dataclasses.dataclass(frozen=True)
  class _Product(_Quadratic):
    """0.5 * mean((w * v - x)^2), v a parameter of another part."""

    def init(self, key):
      return super().init(key) | {"other": {"v": jnp.asarray([2.0])}}

    def __call__(self, params, batch, context):
      seen = {"model": {"w": params["model"]["w"] * params["other"]["v"]}}
      return super().__call__(seen, batch, context)

  trains = lambda path: path.startswith("model/")
  optimizer = optax.adam(0.1)
  begin = state_lib.init_fn(_Product(), optimizer, keep_ema=True, trains=trains)
  state = begin(rng.root(0))
  assert set(jax.tree.leaves(jax.tree.map(lambda x: x.shape, state.opt_state[0].mu))) == {1}
  assert "other" not in state.opt_state[0].mu
  step = _make(optimizer, _Product(), num_microbatches=num_microbatches, ema_decay=0.5,
               trains=trains)
  alone, expected = optax.adam(0.1), jnp.asarray([3.0])
  moments = alone.init(expected)
  for _ in range(3):
    state, metrics = step(state, BATCH, {})
    gradient = jax.grad(lambda w: jnp.square(2 * w[0] - BATCH["tokens"]).mean())(
        expected)
    np.testing.assert_allclose(metrics["grad_norm"][0], jnp.abs(gradient[0]), rtol=1e-5)
    updates, moments = alone.update(gradient, moments)
    expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(state.params["model"]["w"], expected, rtol=1e-5)
  np.testing.assert_array_equal(state.params["other"]["v"], [2.0])
  assert "other" not in state.ema
  np.testing.assert_array_equal(state_lib.averaged(state)["other"]["v"], [2.0])
