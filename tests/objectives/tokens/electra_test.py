"""ELECTRA: what is replaced, what is called replaced, and where gradients go.

References: Clark et al. 2020, arXiv:2003.10555 and arXiv:2012.08561.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import heads
from mdx.objectives.tokens import electra
from mdx.train import step as step_lib
from mdx.utils import tree

import encoder_nets as nets
import oracle

NETWORK = nets.network()


@functools.cache
def _objective(**fields):
  return electra.Electra(network=NETWORK, mask_id=nets.MASK_ID, **{
      "mask_draw": "exact_count", "mask_rate": 0.3, "generator_width": 0.5, **fields})


@functools.cache
def _read(fields=(), num_rows=64):
  """(objective, params, rows as prepared, weights, rows as read)."""
  objective = _objective(**dict(fields))
  params = objective.init(jax.random.key(1))
  rows, weights = nets.prepare(objective, nets.batch(num_rows))
  read, _ = jax.jit(objective.read)(params, rows, nets.CONTEXT)
  return objective, params, rows, weights, jax.device_get(read)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [
    (), (("disallow_correct", True),), (("generator", "uniform"),), (("generator", "two_tower"),)])
def test_samples_stand_at_selected_places_only_and_labels_say_what_changed(fields):
  objective, _, rows, weights, read = _read(fields)
  selected, tokens = np.asarray(rows["is_selected"]), np.asarray(rows["tokens"])
  allowed = np.asarray(rows["loss_mask"])
  count = np.maximum(np.round(0.3 * allowed.sum(axis=1)), 1)
  np.testing.assert_array_equal(selected.sum(axis=1), count)  # an exact number of places
  assert not selected[~allowed].any()
  np.testing.assert_array_equal(read["noisy_tokens"][~selected], tokens[~selected])
  changed = read["noisy_tokens"] != tokens
  if objective.generator == "two_tower":  # a guess that is right is still noise
    np.testing.assert_array_equal(read["is_replaced"], selected)
    assert weights["mlm"] == weights["rtd"] == allowed.sum()
  else:
    np.testing.assert_array_equal(read["is_replaced"], changed)
    assert weights["rtd"] == (np.asarray(rows["segment_ids"]) > 0).sum() > allowed.sum()
  if dict(fields).get("disallow_correct"):
    np.testing.assert_array_equal(changed, selected)
  else:
    assert 0 < changed.sum() < selected.sum()
  assert not (read["noisy_tokens"][selected] == nets.MASK_ID).any()
  assert read["noisy_tokens"].max() < nets.VOCAB  # never a padding column of the table


def test_uniform_replacements_change_all_but_one_in_v():
  rows, _ = nets.prepare(_objective(generator="uniform"), nets.batch(4000))
  changed = np.asarray(rows["others"] != rows["tokens"])
  assert abs(oracle.z_score(changed.ravel(), 1 - 1 / (nets.VOCAB - 1))) < 4


@pytest.mark.slow
def test_samples_follow_the_generator_at_its_temperature():
  objective = _objective(temperature=2.0)
  params, rows = objective.init(jax.random.key(1)), nets.batch(1)
  rows = jax.tree.map(lambda x: jnp.repeat(x, 6000, axis=0), rows)
  rows["example_index"] = jnp.arange(6000)
  rows, _ = nets.prepare(objective, rows)
  # The same selection and input in every row: only the samples differ.
  for name in ("is_selected", "masked_tokens"):
    rows[name] = jnp.broadcast_to(rows[name][:1], rows[name].shape)
  read, _ = jax.jit(objective.read)(params, rows, nets.CONTEXT)
  network, own = objective.generator_network, objective.generator_params(params)
  hidden = objective.encode(network, own, rows["masked_tokens"][:1],
                            {"segment_ids": rows["segment_ids"][:1]})
  logits = heads.block_columns(network.head(own, hidden, "lm"), nets.MASK_ID) / 2.0
  law = np.asarray(jax.nn.softmax(logits[0], axis=-1), np.float64)[:, :nets.VOCAB]
  assert rows["is_selected"][0].sum() > 1
  for position in np.flatnonzero(rows["is_selected"][0]):
    counts = np.bincount(read["noisy_tokens"][:, position], minlength=nets.VOCAB)
    keep = law[position] > 0
    assert oracle.chi_square(counts[keep], law[position][keep]) > 1e-4


def _gradient(objective, params, rows, weights, term):
  def loss(params):
    totals, _ = objective(params, rows, nets.CONTEXT)
    return totals[term] / weights[term]
  return jax.jit(jax.grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("tie", ["none", "embeddings", "all"])
def test_the_detection_loss_reaches_the_generator_by_shared_parameters_alone(tie):
  size = dict(generator_width=1.0) if tie == "all" else {}
  objective = _objective(tie=tie, **size)
  params = objective.init(jax.random.key(1))
  rows, weights = nets.prepare(objective, nets.batch(16))
  detection = _gradient(objective, params, rows, weights, "rtd")
  masked = _gradient(objective, params, rows, weights, "mlm")
  size = lambda tree_: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree_))
  assert size(detection["generator"]) == 0 < size(detection["model"]["embed"])
  assert size(masked["generator"]) > 0 == size(masked["model"]["rtd_head"])
  own = set(params["generator"])
  assert ("embed" in own, "layers" in own) == {
      "none": (True, True), "embeddings": (False, True), "all": (False, False)}[tie]
  assert (size(masked["model"]["embed"]) > 0) == (tie != "none")
  assert (size(masked["model"]["layers"]) > 0) == (tie == "all")
  assert {"head_dense", "head_norm", "lm_head"} <= own


def test_the_loss_is_that_of_its_definition():
  objective, params, rows, weights, read = _read()
  totals, aux = jax.jit(objective)(params, rows, nets.CONTEXT)
  hidden = objective.encode(NETWORK, params["model"], read["noisy_tokens"], rows)
  scores = np.asarray(NETWORK.head(params["model"], hidden, "rtd"), np.float64)
  prob = 1 / (1 + np.exp(-scores))
  counted, fake = np.asarray(rows["segment_ids"]) > 0, read["is_replaced"]
  right = np.where(fake, prob, 1 - prob)
  np.testing.assert_allclose(totals["rtd"], -np.log(right)[counted].sum(), rtol=1e-5)
  network, own = objective.generator_network, objective.generator_params(params)
  logits = network.head(own, objective.encode(network, own, rows["masked_tokens"], rows), "lm")
  logp = np.asarray(heads.log_probs(logits, nets.MASK_ID))
  picked = np.take_along_axis(logp, np.asarray(rows["tokens"])[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(totals["mlm"], -picked[np.asarray(rows["is_selected"])].sum(),
                             rtol=1e-5)
  assert objective.scales == {"mlm": 1.0, "rtd": 50.0}
  accuracy, number = aux.metrics["rtd_accuracy"]
  assert accuracy == ((scores > 0) == fake)[counted].sum() and number == weights["rtd"]
  # The area under the curve, against all pairs.
  above, pairs = aux.metrics["rtd_auc"]
  yes, no = scores[counted & fake], scores[counted & ~fake]
  exact = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
  assert abs(above / pairs - exact) < 0.02


@pytest.mark.slow
def test_the_loss_on_masked_places_counts_these_alone():
  objective = _objective(loss_on="masked")
  rows, weights = nets.prepare(objective, nets.batch(16))
  assert weights["rtd"] == weights["mlm"] == rows["is_selected"].sum()
  params = objective.init(jax.random.key(1))
  _, aux = jax.jit(objective)(params, rows, nets.CONTEXT)
  assert aux.metrics["rtd_nats"][1] == weights["rtd"]


@pytest.mark.slow
def test_a_tower_sees_all_but_the_place_it_predicts():
  objective = _objective(generator="two_tower")
  params, rows = objective.init(jax.random.key(1)), nets.batch(2, padding=0)
  rows, _ = nets.prepare(objective, rows)
  left = objective._whole(params, params["generator"]["left"])

  def states(tokens):
    return objective._towers(params, left, rows | {"tokens": tokens})

  base, place = states(rows["tokens"]), 6
  moved = np.abs(np.asarray(states(rows["tokens"].at[:, place].add(1)) - base)).max(axis=(0, 2))
  assert moved[place] == 0 and (np.delete(moved, place) > 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [(), (("temperature", 2.0),), (("mask_draw", "bernoulli"),)])
def test_electric_adds_the_log_odds_of_the_noise_to_its_scores(fields):
  objective, params, rows, _, read = _read((("generator", "two_tower"), *fields))
  left = objective._whole(params, params["generator"]["left"])
  logits = objective.generator_network.head(left, objective._towers(params, left, rows), "lm")
  # q is the distribution that the noise is drawn from, at the same temperature everywhere.
  logq = np.asarray(heads.log_probs(logits / objective.temperature, nets.MASK_ID))
  noisy = np.take_along_axis(logq, read["noisy_tokens"][..., None], axis=-1)[..., 0]
  counted, selected = np.asarray(rows["loss_mask"]), np.asarray(rows["is_selected"])
  rate = np.full((len(counted), 1), 0.3)
  if objective.mask_draw == "exact_count":  # the realised one: 0.3 of a row is rounded
    rate = selected.sum(axis=1, keepdims=True) / counted.sum(axis=1, keepdims=True)
    assert np.ptp(rate) > 0.01
  np.testing.assert_allclose(read["score_offset"][counted],
                             (noisy + np.log(rate / (1 - rate)))[counted], rtol=1e-4, atol=1e-5)
  gradient = _gradient(objective, params, rows, {"rtd": 1.0}, "rtd")
  assert len(jax.tree.leaves(gradient["generator"])) and all((x == 0).all() for x in jax.tree.leaves(gradient["generator"]))


@pytest.mark.release
@pytest.mark.slow
def test_microbatches_give_the_gradient_of_the_whole_batch():
  objective, params, rows, weights, _ = _read()
  whole, cut = (step_lib.loss_and_grad(objective, params, rows, weights, nets.CONTEXT, n)
                for n in (1, 4))
  np.testing.assert_allclose(whole[0], cut[0], rtol=1e-5)
  for name, x in tree.flatten(whole[2]).items():
    np.testing.assert_allclose(x, tree.flatten(cut[2])[name], rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("fields, message", [
    (dict(generator="gan"), "generator is 'gan'; choose from model, two_tower, uniform"),
    (dict(tie="all"), "tie all needs a generator \"model\" of the model's size"),
    (dict(keep_rate=1.0), "keep_rate must lie in"),
    (dict(generator="two_tower", loss_on="masked"), "has its loss on all tokens"),
    (dict(generator="two_tower", disallow_correct=True), "samples from another distribution")])
def test_options_that_exclude_each_other_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


@pytest.mark.parametrize("length, rate", [(10, 0.2), (12, 2 / 12), (1, 0.5)])
def test_the_odds_of_noise_are_those_of_the_rounded_count(length, rate):
  objective = _objective(generator="two_tower", mask_rate=0.2)
  rows = nets.batch(4) | {"loss_mask": jnp.arange(nets.batch(4)["tokens"].shape[1])[None] < length}
  rows["loss_mask"] = jnp.broadcast_to(rows["loss_mask"], rows["tokens"].shape)
  odds = nets.prepare(objective, rows)[0]["log_odds"]
  np.testing.assert_allclose(odds, np.log(rate / (1 - rate)), rtol=1e-5, atol=1e-6)
