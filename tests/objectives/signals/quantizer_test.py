"""Codes drawn by Gumbel noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.objectives.signals import quantizer
from mdx.utils import rng

_FIELDS = dict(num_features=3, num_codes=4, code_width=6, groups=2)


def _codes(**fields):
  one = quantizer.Quantizer(**_FIELDS | fields)
  return one, one.part().init(rng.root(0))


def test_diversity_is_zero_for_even_use_and_one_code_short_of_one_for_a_single_code():
  even, single = jnp.full((2, 8), 1 / 8), jnp.tile(jnp.eye(8)[:1], (2, 1))
  assert float(quantizer.diversity(even)) == pytest.approx(0, abs=1e-6)
  assert float(quantizer.diversity(single)) == pytest.approx(7 / 8, abs=1e-6)
  assert float(quantizer.perplexity(jnp.array([0.5, 0.5, 0, 0]))) == pytest.approx(2, abs=1e-5)


def test_forward_is_a_code_and_backward_the_softmax():
  one, params = _codes(temperature=1.0)
  x, step = jax.random.normal(rng.root(1), (2, 5, 3)), jnp.int32(0)
  keys = lambda: rng.per_example(rng.root(2), jnp.arange(2))
  found = one(params, x, step, keys())
  book = np.asarray(params["codebook"])
  wanted = np.concatenate([book[g][np.asarray(found.ids[..., g])] for g in range(2)], axis=-1)
  np.testing.assert_allclose(found.vectors, wanted, atol=1e-5)
  np.testing.assert_allclose(found.probs.sum(axis=-1), 1, atol=1e-5)
  logits = lambda x: (x @ params["logits"]["kernel"]).reshape(2, 5, 2, 4)
  gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (5, 2, 4)))(keys())
  soft = lambda x: jnp.einsum("btgv,gvd->btgd", jax.nn.softmax(logits(x) + gumbel), book).sum()
  np.testing.assert_allclose(jax.grad(lambda x: one(params, x, step, keys()).vectors.sum())(x),
                             jax.grad(soft)(x), atol=1e-4)
  quiet = one(params, x, step, None)
  np.testing.assert_array_equal(quiet.ids, logits(x).argmax(axis=-1))


def test_the_temperature_falls_to_its_least():
  one, _ = _codes(temperature=2.0, final_temperature=0.5, decay=0.9)
  found = [float(one.temperature_at(jnp.int32(step))) for step in (0, 5, 100)]
  assert found == pytest.approx([2.0, 2 * 0.9 ** 5, 0.5], rel=1e-5)


@pytest.mark.parametrize("fields, message", [
    (dict(groups=4), "groups 4 does not divide code_width 6"),
    (dict(final_temperature=3.0), "final_temperature 3.0 exceeds the temperature 2.0"),
    (dict(num_codes=1), "num_codes must be at least 2")])
def test_codes_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _codes(**fields)
