"""Masks of sparse fine-tuning: what they choose, and that the rest keeps its value bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import config as config_lib
from mdx.train import masks
from mdx.train import optimizer as optimizer_lib
from mdx.utils import rng
from mdx.utils import tree

import tiny

LAYERS = 4
SHAPES = {f"attention/{name}/kernel": (3, 3) for name in "qkvo"} | {
    f"mlp/{name}/kernel": (3, 5) for name in ("gate", "up", "down")} | {
        "mlp/up/bias": (5,), "attention_norm/scale": (3,), "mlp_norm/scale": (3,)}
PARAMS = {"model": {"embed": {"embedding": np.ones((7, 3), np.float32)}, **tree.nest({
    f"layers/{path}": 0.1 + np.random.default_rng(i).random((LAYERS, *shape), np.float32)
    for i, (path, shape) in enumerate(SHAPES.items())})}}


def _gradient(params, step):
  return jax.tree.map(lambda x: jnp.sin(7 * x + step) + 0.1, params)


def _run(steps, **fields):
  """Parameters after each step, with weight decay, from `_gradient`."""
  spec = optimizer_lib.Optimizer(learning_rate=0.01, schedule="constant", warmup_steps=0,
                                 weight_decay=0.1, clip_norm=0.0, **fields)
  transform, params, found = spec.build(10, tiny.PARTS), PARAMS, [PARAMS]
  state = transform.init(params)

  @jax.jit
  def one(params, state, step):
    updates, state = transform.update(_gradient(params, step), state, params)
    return jax.tree.map(jnp.add, params, updates), state

  for step in range(steps):
    params, state = one(params, state, step)
    found.append(params)
  return jax.device_get(found)


def _moved(before, after):
  return {path: np.asarray(leaf != tree.flatten(before)[path])
          for path, leaf in tree.flatten(after).items()}


@functools.cache
def _draw(scheme, seed):
  drawn = jax.jit(lambda: masks.draw_half(rng.root(seed), PARAMS, scheme))()
  return {path.removeprefix("model/layers/").rpartition("/")[0]: np.asarray(leaf).reshape(-1)
          for path, leaf in tree.flatten(drawn).items()}


def test_blocks_below_those_with_experts_are_halved_too():
  stack = lambda number: {f"attention/{x}": {"kernel": jnp.zeros((number, 1, 1))} for x in "qkvo"}
  params = {"model": {"first_layers": stack(2), "layers": stack(3)}}
  drawn = jax.jit(lambda: masks.draw_half(rng.root(0), params, "category"))()
  for name, number in (("first_layers", 2), ("layers", 3)):
    found = np.stack([leaf["kernel"].reshape(-1) for leaf in drawn["model"][name].values()])
    np.testing.assert_array_equal(found.sum(axis=0), [2] * number)


@pytest.mark.parametrize("scheme", ["category", "layer", "model"])
def test_a_round_trains_half_of_the_matrices(scheme):
  units = [f"attention/{x}" for x in "qkvo"], [f"mlp/{x}" for x in ("gate", "up", "down")], [
      "attention_norm", "mlp_norm"]
  for seed in (0, 1):
    drawn = _draw(scheme, seed)
    assert drawn.pop("model/embed").all()
    attention, mlp, norms = (np.stack([drawn[unit] for unit in kind]) for kind in units)
    both = np.concatenate([attention, mlp, norms])
    if scheme == "category":
      np.testing.assert_array_equal(attention.sum(axis=0), [2] * LAYERS)
      np.testing.assert_array_equal(np.sort(mlp.sum(axis=0)), [1, 1, 2, 2])
      np.testing.assert_array_equal(norms.sum(axis=0), [1] * LAYERS)
    elif scheme == "layer":
      assert (both.all(axis=0) | ~both.any(axis=0)).all() and both[0].sum() == LAYERS // 2
    else:
      assert both.sum() == both.size // 2 and not (both == both[:1]).all()
  assert any((a != b).any() for a, b in zip(_draw(scheme, 0).values(), _draw(scheme, 1).values()))


@pytest.mark.slow
def test_a_round_moves_its_half_alone_and_begins_with_new_moments():
  found = _run(6, masks=(dict(name="half", round_steps=3),))
  rounds = [_moved(found[0], found[1]), _moved(found[3], found[4])]
  for first, last, moved in ((0, 3, rounds[0]), (3, 6, rounds[1])):
    for path, one in moved.items():
      is_within = path.startswith("model/layers/")
      by_layer = one.reshape(len(one) if is_within else 1, -1)
      assert (by_layer.all(axis=1) | ~by_layer.any(axis=1)).all()
      np.testing.assert_array_equal(_moved(found[first], found[last])[path], one)
  assert any((rounds[0][path] != rounds[1][path]).any() for path in rounds[0])
  # The first step of a round is that of new moments: of Adam, the sign of the gradient.
  step = 0.01 * np.sign(_gradient(found[3], 3)["model"]["embed"]["embedding"])
  table = "model/embed/embedding"
  decayed = 0.01 * 0.1 * tree.flatten(found[3])[table]
  got = tree.flatten(found[3])[table] - tree.flatten(found[4])[table]
  np.testing.assert_allclose(got, step + decayed, rtol=1e-3)
  kept = _run(4, masks=(dict(name="half", round_steps=3, resets=False),))
  kept = tree.flatten(kept[3])[table] - tree.flatten(kept[4])[table]
  assert np.abs(kept - got).max() > 1e-4


@pytest.mark.parametrize("scope", ["all", "leaf"])
def test_the_largest_are_marked_as_many_as_asked_also_where_they_are_equal(scope):
  scores = {"a": jnp.array([[3.0, 1.0], [1.0, 5.0]]), "b": jnp.array([1.0, 4.0])}
  found = masks.largest(scores, 0.5, scope)
  if scope == "all":
    want = {"a": [[True, False], [False, True]], "b": [False, True]}
  else:
    want = {"a": [[True, False], [False, True]], "b": [False, True]}
    scores["b"] = scores["b"] / 100
    found = masks.largest(scores, 0.5, scope)
  jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(
      np.array, want, is_leaf=lambda x: isinstance(x, list)))
  ties = masks.largest({"a": jnp.ones(10)}, 0.3, scope)
  assert int(ties["a"].sum()) == 3


@pytest.mark.parametrize("score, score_steps", tiny.first([
    ("random", 0), ("magnitude", 0), ("fisher", 2), ("change", 2)], 1))
@pytest.mark.slow
def test_a_share_of_the_entries_is_trained_after_the_scores(score, score_steps):
  found = _run(score_steps + 3, masks=(dict(name="sparse", score=score, share=0.1,
                                            score_steps=score_steps),))
  flat = lambda params: np.concatenate([x.ravel() for x in tree.flatten(params).values()])
  start, size = flat(found[0]), round(0.1 * len(flat(found[0])))
  if score == "fisher":
    np.testing.assert_array_equal(flat(found[score_steps]), start)
    wanted = sum(np.square(flat(_gradient(PARAMS, step))) for step in range(2))
  elif score == "change":
    plain = _run(2)
    np.testing.assert_allclose(flat(found[2]), flat(plain[2]), rtol=1e-6)
    wanted = np.abs(flat(plain[2]) - start)
    # At the first step after the scores everything goes back.
    np.testing.assert_allclose(flat(found[3]), start, atol=1e-7)
    # The next one is the first step of new moments: the sign of the gradient, and decay.
    step = flat(found[4]) - flat(found[3])
    gap = np.abs(step + 0.01 * np.sign(flat(_gradient(found[3], 3))))[step != 0]
    assert len(gap) and gap.max() < 0.01 * 0.1 * 1.15
    start, found = flat(found[3]), found[1:]
  elif score == "magnitude":
    wanted = np.abs(start)
  moved = flat(found[-1]) != start
  assert moved.sum() == size
  np.testing.assert_array_equal(flat(found[score_steps + 1 + (score == "change")]) != start, moved)
  if score != "random":
    # Equal scores are taken by their order.
    assert wanted[moved].min() >= wanted[~moved].max() - 1e-6
  else:
    other = _run(1, masks=(dict(name="sparse", score=score, share=0.1, seed=1),))
    assert ((flat(other[1]) != start) != moved).any()


def test_a_child_reads_another_random_share_of_the_gradient_at_each_update():
  rule, chain = masks.Child(share=0.25), optimizer_lib.optax
  inner = rule.around(chain.identity(), chain.identity())
  params = {"a": jnp.zeros(4000)}
  state, sums = inner.init(params), []
  for _ in range(2):
    updates, state = inner.update({"a": jnp.full(4000, 2.0)}, state, params)
    assert set(np.unique(updates["a"])) == {0.0, 8.0}
    sums.append(np.asarray(updates["a"]) != 0)
  # Five standard deviations.
  assert abs(np.mean(sums) - 0.25) < 5 * (0.25 * 0.75 / 8000) ** 0.5
  assert (sums[0] != sums[1]).any()


@pytest.mark.parametrize("fields, message", [
    (dict(masks=(dict(name="halve"),)), "unknown mask name 'halve'; choose from child, half, sparse"),
    (dict(masks=(dict(name="half"), dict(name="child"))), "optimizer.masks has 2 tables; give one"),
    (dict(masks=(dict(name="half", scheme="head"),)), "masks.scheme is 'head'; choose from"),
    (dict(masks=(dict(name="sparse", share=0.0),)), r"masks.share must lie in \(0, 1\], got 0.0"),
    (dict(masks=(dict(name="sparse", score="fisher"),)), "score_steps is 0 with score fisher"),
    (dict(masks=(dict(name="sparse", score="random", score_steps=3),)), "is 3 with score random")])
def test_a_mask_that_cannot_be_is_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    config_lib.build(optimizer_lib.OPTIMIZERS, dict(name="adamw") | fields)
  assert "\n" not in str(error.value)
