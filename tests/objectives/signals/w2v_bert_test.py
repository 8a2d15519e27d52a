"""Masked speech modelling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import types
from mdx.build import setup as setup_lib
from mdx.networks import frontends
from mdx.networks import transformer
from mdx.objectives.signals import quantizer
from mdx.objectives.signals import w2v_bert
from mdx.utils import rng

_ROWS, _LENGTH = 4, 12
_NETWORK = transformer.Transformer(num_layers=2, width=8, num_heads=2, mlp_width=8, vocab_size=5,
                                   head="none", conv_kernel=3).network()
_FRONTEND = frontends.Subsampling(width=8, num_inputs=3, channels=2, strides=(1,))
_CODES = quantizer.Quantizer(num_features=4, num_codes=6, code_width=4)


def _objective(**fields):
  return w2v_bert.W2vBert(network=_NETWORK, frontend=_FRONTEND, codes=_CODES, **dict(
      context_layers=1, mask_rate=0.2, span=3, num_distractors=3) | fields)


def _batch():
  real = jnp.arange(_LENGTH)[None] < jnp.array([[12], [12], [9], [5]])
  return {"frames": jax.random.normal(rng.root(9), (_ROWS, _LENGTH, 3)), "frame_mask": real,
          "segment_ids": real.astype(jnp.int32), "example_index": jnp.arange(_ROWS),
          "positions": jnp.where(real, jnp.arange(_LENGTH)[None], 0)}


def _prepared(objective, params, noise=True):
  context = types.context(0, key=rng.root(5) if noise else None)
  batch, weights = objective.prepare(params, _batch(), rng.root(3), context)
  return batch, weights, context


@pytest.fixture(scope="module", name="run")
def _run():
  """Totals, gradients and Aux of the joint objective."""
  objective = _objective()
  params = jax.jit(objective.init)(rng.root(0))
  batch, weights, context = _prepared(objective, params)

  @jax.jit
  def call(params):
    totals, pull, aux = jax.vjp(lambda p: objective(p, batch, context), params, has_aux=True)
    return totals, {name: pull({k: jnp.float32(k == name) for k in totals})[0]
                    for name in totals}, aux

  return objective, params, batch, weights, call(params)


def test_distractors_are_other_masked_positions_of_the_row_all_as_likely():
  is_masked = jnp.tile(jnp.array([[True, False, True, True, True, False]]), (3000, 1))
  keys = rng.per_example(rng.root(0), jnp.arange(3000))
  found = np.asarray(w2v_bert.distractors(keys, is_masked, 2))
  masked = np.array([0, 2, 3, 4])
  assert (found[:, masked].sum(axis=2) == 2).all() and not found[:, [1, 5]].any()
  assert not found[:, :, [1, 5]].any() and not found[:, np.arange(6), np.arange(6)].any()
  np.testing.assert_allclose(found[:, 0][:, [2, 3, 4]].mean(axis=0), 2 / 3, atol=0.03)
  assert np.asarray(w2v_bert.distractors(None, is_masked[:1], 100))[0, 0].sum() == 3


def test_info_nce_is_that_of_its_definition():
  draw = np.random.default_rng(0)
  context, codes = draw.normal(size=(2, 1, 5, 4)).astype(np.float32)
  candidates = draw.random((1, 5, 5)) < 0.5
  nats, is_right = w2v_bert.info_nce(context, codes, jnp.asarray(candidates), 0.1)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  scores = np.exp(unit(context)[0] @ unit(codes)[0].T / 0.1)
  for t in range(5):
    rivals = [s for s in range(5) if candidates[0, t, s] and s != t]
    wanted = -np.log(scores[t, t] / (scores[t, t] + scores[t, rivals].sum()))
    assert float(nats[0, t]) == pytest.approx(wanted, abs=1e-4)
    assert bool(is_right[0, t]) == (bool(candidates[0, t].any()) and all(
        scores[t, t] > scores[t, s] for s in rivals))


@pytest.mark.slow
def test_the_prediction_has_no_gradient_into_the_codes_and_the_context_none_above(run):
  grads = run[4][1]
  largest = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
  assert largest(grads["prediction"]["codes"]) == 0 < largest(grads["prediction"]["model"])
  assert largest(grads["contrast"]["codes"]) > 0 and largest(grads["diversity"]["codes"]) > 0
  layers = grads["contrast"]["model"]["layers"]["mlp"]["up"]["kernel"]
  assert float(jnp.abs(layers[0]).max()) > 0 == float(jnp.abs(layers[1]).max())
  assert largest(grads["prediction"]["frontend"]) > 0


@pytest.mark.slow
def test_totals_are_the_figures_times_the_weights(run):
  objective, _, batch, weights, (totals, _, aux) = run
  number = float(batch["is_masked"].sum())
  assert number > 2 and float(weights["contrast"]) == number and weights["diversity"] == 1
  for name in ("contrast", "prediction"):
    assert float(aux.metrics[f"{name}_nats"][0]) == pytest.approx(float(totals[name]), rel=1e-6)
    assert 0 <= float(aux.metrics[f"{name}_accuracy"][0]) <= number
  assert float(aux.rows["nll"].sum()) == pytest.approx(
      float(totals["contrast"] + totals["prediction"]), rel=1e-5)
  assert 1 <= float(aux.metrics["code_perplexity"][0]) <= 6
  assert set(totals) == set(objective.scales) == {"contrast", "diversity", "prediction"}


@pytest.mark.slow
def test_equal_codes_are_no_distractors(run):
  """With one code for all features, nothing is told apart and the contrast is 0."""
  objective, params, batch, _, _ = run
  codes = params["codes"] | {"logits": jax.tree.map(jnp.zeros_like, params["codes"]["logits"])}
  codes["logits"]["bias"] = jnp.zeros(6).at[2].set(99.0)
  totals, aux = objective(params | {"codes": codes}, batch, types.context(0))
  assert float(totals["contrast"]) == pytest.approx(0, abs=1e-4)
  assert float(aux.metrics["diversity_loss"][0]) == pytest.approx(5 / 6, abs=1e-4)


@pytest.mark.slow
def test_masked_features_are_read_as_noise_alone(run):
  """Features behind a mask change no state, if neither codes nor neighbours are read."""
  _, params, batch, _, _ = run
  objective = _objective(clusters="x", centres=np.random.default_rng(0).normal(size=(4, 3)),
                         contrast_scale=0.0, context_layers=0)
  is_masked = jnp.zeros((_ROWS, _LENGTH), bool).at[:, 4:].set(True)
  seen = []
  for factor in (1.0, 2.0):
    frames = jnp.where(jnp.arange(_LENGTH)[None, :, None] >= 5, factor, 1.0) * batch["frames"]
    rows = batch | {"frames": frames, "is_masked": is_masked}
    features = objective.frontend.features(params["frontend"], rows)
    seen.append(jnp.where(is_masked[..., None], 0.0, features))
  np.testing.assert_array_equal(*seen)
  nearest = objective._nearest(batch)  # pylint: disable=protected-access
  distance = np.square(np.asarray(batch["frames"])[:, :, None] - objective.centres).sum(axis=-1)
  np.testing.assert_array_equal(nearest, distance.argmin(axis=-1))
  assert set(objective.scales) == {"prediction"} and "codes" not in objective.parts()


@pytest.mark.parametrize("fields, message", [
    (dict(context_layers=2), "context_layers 2 leaves none of the 2 layers"),
    (dict(context_layers=0, contrast_scale=0.0), "objective has no term"),
    (dict(clusters="c.npy", centres=np.zeros((4, 5))), r"shape \(4, 5\); expected \[clusters, 3\]"),
    (dict(mask_rate=1.0), "mask_rate must lie in")])
def test_settings_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


def test_variants_have_their_terms():
  assert set(_objective(context_layers=0).scales) == {"contrast", "diversity"}
  assert "prediction" not in _objective(context_layers=0).parts()
  assert set(dataclasses.replace(_objective(), diversity_scale=0.0).scales) == {
      "contrast", "prediction"}


@pytest.mark.parametrize("changes, message", [
    (dict(objective__codes=dict(num_codes=9999)), "num_codes 9999 exceeds the 528 states"),
    (dict(objective__clusters="none.npy"), "no .npy of centres"),
    (dict(objective__ask=dict(scorer="it")), "scorer is 'it', which is none of the frozen models"),
    (dict(network__width=16, data__layout="frames", data__channels=3),
     "24 channels, but data.channels is 3"),
    (dict(data__source=dict(name="memory", documents=("a", "b"), holdout_every=2)),
     "layout")])
def test_a_config_that_does_not_fit_is_one_line_before_anything_is_written(changes, message,
                                                                          tmp_path):
  config = tiny.config("w2v_bert", **changes)
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(config, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
