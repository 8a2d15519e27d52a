"""Contrastive losses: closed forms, brute force, microbatches and devices, windows, temperature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import pooling
from mdx.networks import transformer
from mdx.objectives.embedding import contrastive
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

VOCAB, MASK_ID, LENGTH = 16, 5, 8
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16,
                                  vocab_size=VOCAB, max_length=8, init_std=1.0, scan_layers=False,
                                  dropout=0.1).network()


def _objective(**fields):
  return contrastive.Contrastive(network=NETWORK, mask_id=MASK_ID, special_ids=(0, 1), **fields)


def _batch(rows=16, has_negative=True):
  draw = np.random.default_rng(0)
  fields = {"example_index": np.arange(rows, dtype=np.int32)}
  for name in ("tokens", "other", "negative")[:3 if has_negative else 2]:
    sizes = draw.integers(3, LENGTH + 1, (rows, 1))
    is_text = np.arange(LENGTH)[None] < sizes
    prefix = "" if name == "tokens" else f"{name}_"
    fields[name] = np.where(is_text, draw.integers(6, VOCAB, (rows, LENGTH)), 0).astype(np.int32)
    fields[f"{prefix}segment_ids"] = is_text.astype(np.int32)
  return fields


def _reps(rows=6, width=4, names=("tokens", "other", "negative"), seed=0):
  draw = np.random.default_rng(seed)
  return {name: jnp.asarray(draw.normal(size=(rows, width)), jnp.float32) for name in names}


def _by_hand(reps, is_live, temperature, *, is_symmetric, width, distance="cosine"):
  """Nats of each text, in float64 and loops: [1 or 2, B]."""
  unit = lambda x: np.asarray(x, np.float64)[:, :width] / np.linalg.norm(
      np.asarray(x, np.float64)[:, :width], axis=1, keepdims=True)
  views = [unit(reps[name]) for name in ("tokens", "other")]
  negatives = unit(reps["negative"]) if "negative" in reps else np.zeros((0, width))
  near = lambda x, y: x @ y if distance == "cosine" else -np.linalg.norm(x - y)
  found = []
  for view in range(2 if is_symmetric else 1):
    nats = []
    for i, text in enumerate(views[view]):
      scores = [near(text, x) for j, x in enumerate(views[1 - view]) if is_live[j] or j == i]
      own = near(text, views[1 - view][i])
      if is_symmetric:
        scores += [near(text, x) for j, x in enumerate(views[view]) if is_live[j] and j != i]
      scores += [near(text, x) for j, x in enumerate(negatives) if is_live[j]]
      nats.append(np.log(np.exp((np.array(scores) - own) / temperature).sum()))
    found.append(nats)
  return np.array(found)


@pytest.mark.parametrize("is_symmetric, names, fields", [
    (True, ("tokens", "other"), {}),
    (True, ("tokens", "other", "negative"), {"distance": "l2"}),
    (False, ("tokens", "other"), {"distance": "l2"}),
    (False, ("tokens", "other", "negative"), {"dims": (2, 3)})])
def test_the_loss_is_that_of_loops_over_all_candidates(is_symmetric, names, fields):
  reps, is_live = _reps(names=names), np.array([1, 1, 0, 1, 1, 0], bool)
  objective = _objective(is_symmetric=is_symmetric, temperature=0.3, **fields)
  nats, _ = jax.jit(objective.contrast)(reps, is_live, objective.scale({}))
  expected = sum(_by_hand(reps, is_live, 0.3, is_symmetric=is_symmetric, width=width,
                          distance=fields.get("distance", "cosine"))
                 for width in fields.get("dims", (4,)))
  np.testing.assert_allclose(nats[:, is_live], expected[:, is_live], rtol=2e-5)


def test_equal_embeddings_cost_the_logarithm_of_the_candidates_in_any_order():
  contrast, live = jax.jit(_objective().contrast), np.ones(6, bool)
  same = dict.fromkeys(("tokens", "other"), jnp.ones((6, 4)))
  np.testing.assert_allclose(contrast(same, live, 25.0)[0], math.log(2 * 6 - 1), rtol=1e-6)
  reps, order = _reps(names=("tokens", "other")), np.random.default_rng(1).permutation(6)
  nats = contrast(reps, live, 25.0)[0]
  moved = contrast({k: v[order] for k, v in reps.items()}, live, 25.0)[0]
  np.testing.assert_allclose(moved, nats[:, order], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_equal_views_still_push_other_texts_away():
  x = _reps(names=("tokens",))["tokens"]
  loss = lambda x: _objective().contrast({"tokens": x, "other": x}, jnp.ones(6, bool), 20.0)[0].sum()
  gradient = jax.jit(jax.grad(loss))(x)
  moved = pooling.normalize(x - 1e-3 * gradient)
  cosines = lambda x: (pooling.normalize(x) @ pooling.normalize(x).T).sum()
  assert cosines(moved) < cosines(x)


@pytest.fixture(scope="module", name="whole")
def _whole():
  objective = _objective(dims=(4, 16), learns_temperature=True, span=2, span_unit="tokens",
                         span_least=3)
  params = jax.device_get(objective.init(rng.root(0)))
  return objective, params, jax.device_get(jax.jit(_step(objective, 1))(params, _batch()))


def _step(objective, num_microbatches):
  def step(params, batch):
    context = types.context(0, key=rng.root(3))
    batch, weights = objective.prepare(params, batch, rng.root(0), context)
    loss, aux, grads = step_lib.loss_and_grad(objective, params, batch, weights, context,
                                              num_microbatches)
    return loss, grads, aux.metrics
  return step


@pytest.mark.parametrize("devices, num_microbatches", [
    pytest.param(8, 2, marks=pytest.mark.slow), (1, 4)])
@pytest.mark.slow
def test_microbatches_and_devices_leave_the_gradient_as_it_is(whole, devices, num_microbatches):
  objective, params, (loss, grads, metrics) = whole
  mesh = sharding.make_mesh(dict(data=devices), devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    found = jax.device_get(jax.jit(_step(objective, num_microbatches))(
        params, sharding.place_batch(_batch(), mesh)))
  assert found[0] == pytest.approx(loss, rel=1e-6)
  assert found[2]["contrast_accuracy"][0] == metrics["contrast_accuracy"][0]
  assert grads["temperature"]["log_scale"] != 0
  for path, leaf in tree.flatten(grads).items():
    np.testing.assert_allclose(tree.flatten(found[1])[path], leaf, err_msg=path,
                               atol=5e-6 * np.abs(leaf).max() + 1e-9)


@pytest.mark.slow
def test_views_differ_by_dropout_alone_and_are_equal_without(whole):
  _, params, _ = whole
  objective, batch = _objective(), _batch(4, has_negative=False)
  batch |= {"other": batch["tokens"], "other_segment_ids": batch["segment_ids"]}

  @jax.jit
  def all_of(key):
    noisy, plain = (objective.represent(params, batch, types.context(0, key=k)) for k in (key, None))
    return *noisy.values(), *plain.values(), objective.embedder().vectors(params, batch)

  one, two, first, second, own = all_of(rng.root(0))
  assert np.abs(one - two).max() > 1e-2
  np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(first, own)


def test_rows_of_padding_change_nothing():
  objective, reps = _objective(temperature=0.2), _reps()
  pad = {k: np.concatenate([v, np.ones((3, 4))]).astype(np.float32) for k, v in reps.items()}
  totals = []
  for one, live in ((reps, np.ones(6, bool)), (pad, np.arange(9) < 6)):
    found, aux = jax.jit(lambda r, x: objective.compare({}, r, {"is_live": x}, None))(one, live)
    totals.append([found["contrast"], aux.rows["nll"][:6].sum(), *aux.metrics["positive_cosine"]])
  np.testing.assert_allclose(totals[1], totals[0], rtol=1e-5)
  assert totals[0][-1] == 6 and (aux.rows["nll"][6:] == 0).all() and aux.rows["count"].sum() == 6


@pytest.mark.slow
def test_a_window_of_characters_masks_the_tokens_that_it_touches_in_the_second_view():
  tokenizer = tokenizer_lib.build("byte")
  objective = contrastive.Contrastive(
      network=NETWORK, mask_id=tokenizer.mask_id, chars=tokenizer.chars_per_token, span=3,
      special_ids=tuple(tokenizer.special_ids), span_least=6)
  text = np.concatenate([tokenizer.encode("abcdefg"), [tokenizer.eos_id]])
  rows = np.tile(text, (200, 1))
  rows[-1, 5:-1] = tokenizer.eos_id  # five characters are too few
  batch = {"tokens": rows, "other": rows, "example_index": np.arange(200),
           "segment_ids": np.ones_like(rows), "other_segment_ids": np.ones_like(rows)}
  found, _ = objective.prepare({}, batch, rng.root(0), types.context(0))
  np.testing.assert_array_equal(found["tokens"], rows)
  masked = np.asarray(found["other"] == tokenizer.mask_id)
  assert not masked[-1].any() and not masked[:, -1].any()
  firsts = masked[:-1].argmax(axis=1)
  np.testing.assert_array_equal(masked[:-1], [[i <= j < i + 3 for j in range(8)] for i in firsts])
  share = np.bincount(firsts, minlength=8) / 199
  np.testing.assert_allclose(share, [0.2] * 5 + [0] * 3, atol=0.1)


def test_a_learned_temperature_is_clamped_and_keeps_its_gradient():
  objective = _objective(learns_temperature=True)
  scale = lambda x: objective.scale({"temperature": {"log_scale": x}})
  assert scale(objective.parts()["temperature"].init(rng.root(0))["log_scale"]) == pytest.approx(20)
  for beyond, kept in ((9.0, 100.0), (-3.0, 1.0)):
    value, gradient = jax.value_and_grad(scale)(beyond)
    assert value == pytest.approx(kept, rel=1e-5) and gradient == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("fields, message", [
    (dict(dims=(8, 32)), "objective.dims has 32; expected 1 to 16, the width"),
    (dict(dims=(8, 8)), "names a width twice"),
    (dict(temperature=0.0), r"objective.temperature must lie in \(0, 100\]"),
    (dict(learns_temperature=True, temperature=2.0), "learned within"),
    (dict(span=5), "span_unit chars needs a tokenizer"),
    (dict(pooling="middle"), "unknown pooling name 'middle'")])
def test_fields_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _objective(**fields)
  assert "\n" not in str(error.value)


def test_a_batch_of_one_row_and_rows_of_one_text_are_refused():
  with pytest.raises(ValueError, match="batch_size is 1, but the other rows of a batch are the neg"):
    contrastive.Contrastive.complete({"batch_size": 1}, None)
  with pytest.raises(ValueError, match="set data.layout='views'"):
    _objective().check_fields(("tokens", "loss_mask"))
