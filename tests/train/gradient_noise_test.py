"""The variance of the gradient over draws, against what numpy says of the gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.train import noise
from mdx.utils import rng


@dataclasses.dataclass(frozen=True)
class _Noisy(types.Objective):
  """Loss sum_b u_b <w, x_b> / B: the gradient is the mean of u_b x_b, with u drawn a row."""
  offset: float = 0.0
  scale: float = 1.0
  network = None

  @property
  def scales(self):
    return {"dot": 1.0}

  def prepare(self, params, batch, key, context):
    u = jax.vmap(jax.random.normal)(rng.per_example(key, batch["example_index"]))
    return batch | {"u": self.offset + self.scale * u}, {"dot": jnp.float32(len(u))}

  def __call__(self, params, batch, context):
    dots = batch["x"] @ params["model"]["w"] + params["model"]["b"]
    return {"dot": (batch["u"] * dots).sum()}, types.Aux({}, {}, {})


_PARAMS = {"model": {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.float32(3.0)}}
_BATCH = {"x": jnp.array(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32),
          "example_index": jnp.arange(4)}


def _noise(objective, **fields):
  return jax.device_get(jax.jit(noise.make_noise(objective, seed=0, step=0, **fields))(
      _PARAMS, _BATCH, {}, {}))


def test_the_variance_is_that_of_the_gradients_of_the_draws():
  found = _noise(_Noisy(offset=1000.0), num_draws=5)
  key = rng.stream(rng.root(0), "noise")
  context = types.context(0)
  grads, losses = [], []
  rows = np.concatenate([_BATCH["x"], np.ones((4, 1))], axis=1).astype(np.float64)
  for draw in range(5):
    batch, _ = _Noisy(offset=1000.0).prepare(_PARAMS, _BATCH, rng.stream(key, "draw", draw),
                                             context)
    grads.append(np.asarray(batch["u"], np.float64) @ rows / 4)
    losses.append(grads[-1] @ [1.0, -2.0, 0.5, 3.0])
  variance = np.var(grads, axis=0, ddof=1).sum()
  np.testing.assert_allclose(found["gradient_variance"], variance, rtol=1e-3)
  np.testing.assert_allclose(found["loss_variance"], np.var(losses, ddof=1), rtol=1e-3)
  np.testing.assert_allclose(found["gradient_square"],
                             (np.mean(grads, axis=0) ** 2).sum() - variance / 5, rtol=1e-5)


def test_the_figures_are_unbiased_and_microbatches_do_not_change_them():
  whole, parts = (_noise(_Noisy(offset=0.1), num_draws=20000, num_microbatches=n) for n in (1, 2))
  rows = np.concatenate([_BATCH["x"], np.ones((4, 1))], axis=1)
  np.testing.assert_allclose(whole["gradient_variance"], (rows ** 2).sum() / 16, rtol=0.05)
  np.testing.assert_allclose(whole["gradient_square"], (0.1 * rows.mean(axis=0) ** 1 @ (
      0.1 * rows.mean(axis=0))), atol=4e-3)
  for name in whole:
    np.testing.assert_allclose(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_without_draws_there_is_no_variance():
  found = _noise(_Noisy(offset=1.0, scale=0.0), num_draws=3)
  assert found["gradient_variance"] == found["loss_variance"] == 0 < found["gradient_square"]


@pytest.mark.parametrize("num_draws", [1, -2])
def test_a_variance_needs_two_draws(num_draws):
  with pytest.raises(ValueError, match="gradient_draws must be 2 or more, or 0 for none"):
    noise.make_noise(_Noisy(), num_draws=num_draws, seed=0, step=0)
