"""Poolings are their definition, wherever the padding stands; lengths and prefixes are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import pooling

_LENGTHS = (5, 2, 1)


def _rows():
  """hidden [2 layers, 6, 5, 4], mask and tokens [6, 5]: padded left, then right; and the rows."""
  rng = np.random.default_rng(0)
  rows = [rng.normal(size=(2, n, 4)).astype(np.float32) for n in _LENGTHS * 2]
  hidden = rng.normal(size=(2, 6, 5, 4)).astype(np.float32)  # padding has values too
  mask, tokens = np.zeros((6, 5), bool), np.full((6, 5), 8, np.int32)
  for i, row in enumerate(rows):
    size = row.shape[1]
    where = slice(5 - size, 5) if i < len(_LENGTHS) else slice(0, size)
    hidden[:, i, where], mask[i, where] = row, True
    tokens[i, where] = [7, 8, 9, 8, 6][-size:]
  return jnp.asarray(hidden), jnp.asarray(mask), jnp.asarray(tokens), rows


_EXPECTED = {
    "first": lambda x: x[-1, 0], "last": lambda x: x[-1, -1], "mean": lambda x: x[-1].mean(0),
    "max": lambda x: x[-1].max(0), "last_layers": lambda x: x.mean((0, 1)),
    "weighted_mean": lambda x: np.average(x[-1], axis=0, weights=1 + np.arange(x.shape[1])),
    "suffix": lambda x: x[-1, -2:].mean(0),
    "special": lambda x: x[-1, [t in (6, 8) for t in [7, 8, 9, 8, 6][-x.shape[1]:]]].mean(0)}
_FIELDS = {"last_layers": dict(num_layers=2), "suffix": dict(num_tokens=2),
           "special": dict(ids=[6, 8])}


@pytest.mark.parametrize("kind", _EXPECTED)
def test_a_pooling_is_its_definition_wherever_the_padding_stands(kind):
  hidden, mask, tokens, rows = _rows()
  given = hidden if kind == "last_layers" else hidden[-1]
  found = pooling.pool(given, mask, kind, tokens=tokens, **_FIELDS.get(kind, {}))
  np.testing.assert_allclose(found, [_EXPECTED[kind](row) for row in rows], rtol=1e-5, atol=1e-6)
  assert found.dtype == jnp.float32


@pytest.mark.parametrize("kind", ["first", "last", "weighted_mean", "max"])
def test_sums_are_float32_and_a_row_without_positions_is_0(kind):
  hidden = jnp.full((1, 300, 2), 1.0 + 2 ** -7, jnp.bfloat16)
  found = pooling.pool(hidden, jnp.ones((1, 300), bool), kind)
  np.testing.assert_allclose(found, 1.0 + 2 ** -7, rtol=1e-6)
  assert (np.asarray(pooling.pool(hidden, jnp.zeros((1, 300), bool), kind)) == 0).all()


def test_every_pooling_is_tested():
  assert set(pooling.POOLINGS) == {*_EXPECTED, "latent"}


@pytest.mark.slow
def test_latent_attention_begins_as_the_mean_and_then_is_its_definition():
  hidden, mask, _, _ = _rows()
  latent = pooling.build(dict(name="latent", num_latents=3, num_heads=2, expansion=2))
  params = latent.part(4).init(jax.random.key(0))
  np.testing.assert_allclose(latent(hidden[-1], mask, params=params),
                             pooling.pool(hidden[-1], mask), rtol=1e-5, atol=1e-6)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
  expected = []
  for row, keep in zip(np.asarray(hidden[-1], np.float64), np.asarray(mask)):
    x = row[keep]
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
      q, k, v = (y @ params[n]["kernel"][:, head] for n, y in (
          ("q", x), ("k", params["latents"]), ("v", params["latents"])))
      scores = np.exp(q @ k.T / np.sqrt(2))
      heads.append(scores / scores.sum(-1, keepdims=True) @ v)
    x = x + np.concatenate(heads, -1) @ params["o"]["kernel"]
    inner = np.asarray(jax.nn.gelu(x @ params["in"]["kernel"] + params["in"]["bias"]))
    expected.append((x + inner @ params["out"]["kernel"] + params["out"]["bias"]).mean(0))
  np.testing.assert_allclose(latent(hidden[-1], mask, params=params), expected, rtol=1e-4,
                             atol=1e-4)


@pytest.mark.slow
def test_normalized_embeddings_have_length_1_and_a_gradient_at_0():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]])
  np.testing.assert_allclose(pooling.normalize(x), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
  assert np.isfinite(jax.grad(lambda x: pooling.normalize(x).sum())(x)).all()


def test_truncation_keeps_the_first_columns():
  x = jnp.arange(8.0).reshape(2, 4)
  np.testing.assert_array_equal(pooling.truncate(x, 3), x[:, :3])


@pytest.mark.parametrize("use, words", [
    (lambda h, m: pooling.pool(h, m, "mean", ids=(1,)), "has no field"),
    (lambda h, m: pooling.pool(h, m, "men"), "mean"),
    (lambda h, m: pooling.pool(h, m, "special", ids=()), "pooling special has no ids"),
    (lambda h, m: pooling.pool(h, m, "special", ids=(1,)), "needs the tokens"),
    (lambda h, m: pooling.pool(h, m, "latent"), "has parameters"),
    (lambda h, m: pooling.pool(h, m, "suffix", num_tokens=0), "num_tokens"),
    (lambda h, m: pooling.pool(h[None], m, "last_layers"), "averages 4 layers"),
    (lambda h, m: pooling.build(dict(name="latent", num_heads=3)).part(4), "do not divide"),
    (lambda h, m: pooling.truncate(h, 5), "expected 1 to 4"),
    (lambda h, m: pooling.truncate(h, 0), "expected 1 to 4")])
def test_arguments_that_do_not_fit_are_refused(use, words):
  with pytest.raises(ValueError, match=words):
    use(jnp.zeros((1, 2, 4)), jnp.ones((1, 2), bool))
