"""AdamW, clipping and schedules against hand computation; the decay rules cover everything."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import presets
from mdx.networks import transformer
from mdx.train import optimizer as optimizer_lib
from mdx.utils import rng
from mdx.utils import tree

NETWORKS = [presets.preset(name) for name in presets.PRESETS] + [
    dict(num_layers=1, width=8, num_heads=2, use_bias=True, norm="layer", position="learned",
         tied=False, head_bias=True, time_conditioning=True)]


def _params():
  return {"model": {"layers": {"mlp": {"up": {"kernel": jnp.asarray([[[3.0, -1.0]]]),
                                              "bias": jnp.asarray([[0.5, 2.0]])}}}}}


def _grads():
  return {"model": {"layers": {"mlp": {"up": {"kernel": jnp.asarray([[[0.3, -2.0]]]),
                                              "bias": jnp.asarray([[1.0, 0.0]])}}}}}


def _rates(steps, **fields):
  rate = optimizer_lib.Optimizer(**fields).rate(steps)
  return np.asarray(jax.vmap(rate)(jnp.arange(steps)))


@pytest.mark.parametrize("fields", NETWORKS)
def test_exactly_one_decay_rule_covers_each_parameter_and_matrices_alone_decay(fields):
  spec = transformer.Transformer(**fields, vocab_size=16)
  params = {"model": jax.eval_shape(spec.network().init, rng.root(0))}
  for path, decayed in tree.flatten(optimizer_lib.decay_mask(params)).items():
    assert decayed == (path.endswith("kernel") or path == "model/embed/embedding"), path


def test_a_parameter_that_no_rule_or_two_rules_cover_is_refused_in_one_line(monkeypatch):
  with pytest.raises(ValueError, match="parameter model/gain matches 0 rules") as error:
    optimizer_lib.decay_mask({"model": {"gain": jnp.ones(2)}})
  assert "\n" not in str(error.value)
  monkeypatch.setattr(optimizer_lib, "DECAY_RULES",
                      optimizer_lib.DECAY_RULES + ((r".*/up/kernel", False),))
  with pytest.raises(ValueError, match="mlp/up/kernel matches 2 rules"):
    optimizer_lib.decay_mask(_params())


def test_the_rate_warms_up_linearly_and_ends_at_the_final_rate():
  for schedule, middle in (("linear", 0.6), ("cosine", 0.6), ("constant", 1.0)):
    rates = _rates(111, schedule=schedule, learning_rate=0.5, warmup_steps=10, final_rate=0.2)
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(rates[60], 0.5 * middle, rtol=1e-5)
    final = 1.0 if schedule == "constant" else 0.2
    np.testing.assert_allclose(rates[110], 0.5 * final, rtol=1e-5)
  quarter = _rates(111, schedule="cosine", learning_rate=1.0, warmup_steps=10, final_rate=0.0)[35]
  np.testing.assert_allclose(quarter, (1 + np.cos(np.pi / 4)) / 2, rtol=1e-5)


def test_the_warm_up_is_at_most_a_fifth_of_the_run():
  rates = _rates(50, learning_rate=1.0, warmup_steps=1000)
  np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert rates[9] == rates.max() and (np.diff(rates[10:]) < 0).all()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_positive_finite_rates_and_start_at_the_peak(schedule, steps):
  rates = _rates(steps, schedule=schedule, learning_rate=0.5, final_rate=0.1, warmup_steps=100)
  assert (rates > 0).all() and rates[0] == 0.5 and rates.dtype == np.float32


def test_one_step_of_adamw_is_the_formula_with_decay_of_matrices_only():
  spec = optimizer_lib.Optimizer(learning_rate=0.1, schedule="constant", warmup_steps=0, b1=0.8,
                                 b2=0.9, eps=1e-3, weight_decay=0.5, clip_norm=0)
  optimizer, params, grads = spec.build(10), _params(), _grads()
  state = optimizer.init(params)
  second = jax.tree.map(lambda g: 0.5 * g, grads)
  moments = jax.tree.map(lambda p: np.zeros((2,) + p.shape), params)
  for count, grad in ((1, grads), (2, second)):
    updates, state = optimizer.update(grad, state, params)
    moments = jax.tree.map(lambda m, g: np.stack([0.8 * m[0] + 0.2 * g, 0.9 * m[1] + 0.1 * g ** 2]),
                           moments, grad)

    flat, flat_moments = tree.flatten(params), tree.flatten(moments)
    for path, update in tree.flatten(updates).items():
      mean, square = flat_moments[path]
      mean, square = mean / (1 - 0.8 ** count), square / (1 - 0.9 ** count)
      decay = 0.5 * flat[path] if path.endswith("kernel") else 0.0
      np.testing.assert_allclose(update, -0.1 * (mean / (np.sqrt(square) + 1e-3) + decay),
                                 rtol=1e-5)


@pytest.mark.parametrize("clip_norm,factor", [(0.5, 0.5 / np.sqrt(5.09)), (3.0, 1.0), (0, 1.0)])
def test_gradients_are_clipped_by_their_global_norm(clip_norm, factor):
  # The norm of all gradients is sqrt(0.09 + 4 + 1). Adam's first moment shows what was passed on.
  optimizer = optimizer_lib.Optimizer(b1=0.0, clip_norm=clip_norm).build(10)
  _, state = optimizer.update(_grads(), optimizer.init(_params()), _params())
  moments = {p: x for p, x in tree.flatten(state).items() if "/mu/" in p}
  assert len(moments) == 2
  for path, moment in moments.items():
    grad = tree.flatten(_grads())[path.split("/mu/")[1]]
    np.testing.assert_allclose(moment, factor * grad, rtol=1e-5)


@pytest.mark.parametrize("fields,message", [
    (dict(schedule="step"), "optimizer.schedule is 'step'; choose from constant, linear, cosine"),
    (dict(learning_rate=0.0), "learning_rate must be positive, got 0.0"),
    (dict(b2=1.0), "must lie in [0, 1), got 0.9, 1.0"),
    (dict(clip_norm=-1.0), "optimizer.clip_norm must not be negative, got -1.0"),
    (dict(warmup_steps=-5), "optimizer.warmup_steps must not be negative, got -5"),
])
def test_a_wrong_field_is_refused_in_one_line(fields, message):
  with pytest.raises(ValueError, match=re.escape(message)) as error:
    optimizer_lib.Optimizer(**fields)
  assert "\n" not in str(error.value)
