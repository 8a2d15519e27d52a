"""GRL: preference and consistency in closed form, passages behind queries, no gradient to scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.objectives.embedding import grl
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

MASK_ID, LENGTH = 5, 6
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=16,
                                  max_length=16, init_std=1.0, scan_layers=False).network()


def _objective(**fields):
  return grl.GRL(network=NETWORK, mask_id=MASK_ID, **fields)


def _batch(rows=8):
  draw = np.random.default_rng(0)
  found = {"example_index": np.arange(rows, dtype=np.int32)}
  for name in ("tokens", "other", "negative"):
    is_text = np.arange(LENGTH)[None] < draw.integers(1, LENGTH + 1, (rows, 1))
    found[name] = np.where(is_text, draw.integers(6, 16, (rows, LENGTH)), 0).astype(np.int32)
    found["segment_ids" if name == "tokens" else f"{name}_segment_ids"] = is_text.astype(np.int32)
  return found


def test_preference_losses_have_their_minima_and_signs():
  margin = jnp.linspace(-20, 20, 4001)
  losses = {name: np.asarray(one(margin, 0.1, 0.0)) for name, one in grl.PREFERENCES.items()}
  np.testing.assert_allclose(losses["dpo"], np.log1p(np.exp(-0.1 * margin)), rtol=1e-4)
  assert margin[losses["ipo"].argmin()] == pytest.approx(1 / (2 * 0.1), abs=0.01)
  np.testing.assert_allclose(losses["hinge"], np.maximum(0, 1 - 0.1 * margin), atol=1e-6)
  smooth = jax.vmap(jax.grad(lambda m: grl.PREFERENCES["dpo"](m, 0.1, 0.2)))(margin)
  wanted = np.log(0.8 / 0.2) / 0.1  # where the two sides balance
  np.testing.assert_array_equal(np.sign(smooth), np.sign(margin - wanted))


def test_consistency_is_the_divergence_and_zero_for_equal_distributions():
  one, two = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
  p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (one, two))
  found = {d: grl.consistency(jnp.asarray(one), jnp.asarray(two), d) for d in grl.DIRECTIONS}
  np.testing.assert_allclose(found["generation"], (p * np.log(p / q)).sum(axis=1), rtol=1e-4)
  np.testing.assert_allclose(found["representation"], (q * np.log(q / p)).sum(axis=1), rtol=1e-4)
  np.testing.assert_allclose(grl.consistency(jnp.asarray(one), jnp.asarray(one) + 7, "generation"),
                             0, atol=1e-6)


@pytest.fixture(scope="module", name="read")
def _read():
  """An objective, its parameters, the prepared batch and what it represents."""
  objective = _objective()
  params = objective.init(rng.root(0))

  def represent(params):
    batch, weights = objective.prepare(params, _batch(), rng.root(0), types.context(0))
    return batch, weights, objective.represent(params, batch, types.context(0))

  return objective, params, *jax.jit(represent)(params)


@pytest.mark.slow
def test_a_passage_costs_what_it_costs_a_causal_model_behind_the_query(read):
  _, params, _, weights, reps = read
  causal, rows = ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID), np.zeros((16, 12), np.int32)
  segments, mask, raw = np.zeros_like(rows), np.zeros(rows.shape, bool), _batch()
  for i in range(16):
    name = ("other", "negative")[i % 2]
    query = raw["tokens"][i // 2][raw["segment_ids"][i // 2] > 0]
    passage = raw[name][i // 2][raw[f"{name}_segment_ids"][i // 2] > 0]
    size = len(query) + len(passage)
    rows[i, :size], segments[i, :size], mask[i, len(query):size] = [*query, *passage], 1, True
  expected = jax.jit(lambda params: causal(params, {
      "tokens": jnp.asarray(rows), "segment_ids": jnp.asarray(segments),
      "loss_mask": jnp.asarray(mask)}, types.context(0))[1].rows)(params)
  np.testing.assert_allclose(reps["nll"].reshape(-1), expected["nll"], rtol=1e-4)
  np.testing.assert_array_equal(reps["count"].reshape(-1), mask.sum(axis=1))
  assert weights["generation"] == mask[::2].sum() and weights["preference"] == 8


@pytest.mark.slow
def test_scores_of_generation_are_a_target_without_gradient(read):
  objective, params, batch, _, reps = read

  def total(reps, name):
    return objective.compare(params, reps, batch, types.context(0))[0][name]

  gradient = jax.jit(jax.grad(total), static_argnums=1)(reps, "consistency")
  assert not gradient["nll"].any() and np.abs(gradient["other"]).max() > 0
  preference = jax.jit(jax.grad(total), static_argnums=1)(reps, "preference")["nll"]
  assert (preference[:, 0] > 0).all() and (preference[:, 1] < 0).all()


@pytest.mark.slow
def test_microbatches_leave_the_gradient_as_it_is(read):
  objective, params, batch, weights, _ = read
  of = jax.jit(lambda params, n: step_lib.loss_and_grad(
      objective, params, batch, weights, types.context(0), n)[::2], static_argnums=1)
  (loss, grads), (other, others) = (jax.device_get(of(params, n)) for n in (1, 4))
  assert float(loss) == pytest.approx(float(other), rel=1e-6)
  for path, leaf in tree.flatten(grads).items():
    np.testing.assert_allclose(tree.flatten(others)[path], leaf, err_msg=path,
                               atol=5e-6 * np.abs(leaf).max() + 1e-9)


@pytest.mark.parametrize("fields, message", [
    (dict(preference="kto"), "objective.preference is 'kto'; choose from dpo, hinge, ipo"),
    (dict(preference="ipo", label_smoothing=0.1), "label_smoothing is of preference dpo"),
    (dict(beta=0.0), r"objective.beta must lie in \(0, inf\)")])
def test_fields_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


def test_rows_without_a_wrong_passage_are_refused():
  with pytest.raises(ValueError, match="layout triplets"):
    _objective().check_fields(("tokens", "other"))
