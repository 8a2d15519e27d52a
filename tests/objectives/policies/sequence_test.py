"""Sequence-level ratios: bounds against enumeration, ratios, divergences, asymmetric clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import time as time_lib
from mdx.objectives.policies import espo
from mdx.objectives.policies import gdpo
from mdx.objectives.policies import grpo
from mdx.utils import rng

import enumerated_answers
from enumerated_answers import MASKS
import oracle
import rollouts
from rollouts import ANSWER, GROUP, MASK_ID, OTHER, PARAMS, PROMPT
import tiny

ROW = np.array([1, 2, 3, 4, 0, 5, 5])  # with ends of text, which are scored too
TABLE = np.asarray(enumerated_answers.table(PARAMS, ROW), np.float64)
INDEX = jnp.arange(1000 * (ANSWER + 1))


def _nats(hidden, mix):
  """Sum of mix log p of canvases of ROW, [...] of hidden [..., G]."""
  number = np.asarray(hidden) @ 2 ** np.arange(ANSWER)[::-1]
  return (np.asarray(mix, np.float64) * TABLE[number]).sum(axis=-1)


def test_each_half_of_complementary_canvases_has_the_bound_as_its_mean_over_all_masks():
  bound = enumerated_answers.order_bound(TABLE)
  hidden, mix = espo.complements(jnp.asarray(MASKS), jnp.ones(MASKS.shape, bool))
  assert np.array_equal(hidden[:, 0] ^ hidden[:, 1], np.ones(MASKS.shape, bool))
  law = enumerated_answers.uniform_counts(MASKS, range(ANSWER + 1))
  halves = 2 * law @ _nats(hidden, mix)
  np.testing.assert_allclose(halves, bound, rtol=1e-5)
  assert bound < -2  # the model is no constant


@pytest.mark.slow
def test_counts_of_masks_are_spread_evenly_and_masks_of_a_count_are_alike():
  policy = rollouts.policy(espo.ESPO, num_pairs=1)
  hidden, mix = policy.canvases(rng.root(0), INDEX, jnp.ones((len(INDEX), ANSWER), bool))
  first = np.asarray(hidden)[:, 0]
  counts = np.bincount(first.sum(axis=1), minlength=ANSWER + 1)
  assert np.abs(counts - 1000).max() <= 1  # at most one row lies on an edge of a stratum
  number = first @ 2 ** np.arange(ANSWER)[::-1]
  law = enumerated_answers.uniform_counts(MASKS, range(ANSWER + 1))
  assert oracle.chi_square(np.bincount(number, minlength=len(MASKS)), law) > 1e-3
  assert np.all((np.asarray(mix) > 0) == np.asarray(hidden))
  again, _ = policy.canvases(rng.root(0), INDEX[:7], jnp.ones((7, ANSWER), bool))
  other, _ = policy.canvases(rng.root(1), INDEX[:7], jnp.ones((7, ANSWER), bool))
  assert not np.array_equal(again, other)


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_a_node_for_two_tokens_makes_the_quadrature_exact_over_all_masks(num_nodes):
  bound = enumerated_answers.order_bound(TABLE)
  policy = rollouts.policy(gdpo.GDPO, num_nodes=num_nodes)
  hidden, mix = policy.canvases(rng.root(0), INDEX, jnp.ones((len(INDEX), ANSWER), bool))
  hidden, mix = np.asarray(hidden), np.asarray(mix)
  rates = np.asarray(time_lib.quadrature(num_nodes)[0], np.float64)
  total = 0.0
  for node, rate in enumerate(rates):
    law = np.where(MASKS, rate, 1 - rate).prod(axis=1)
    number = hidden[:, node] @ 2 ** np.arange(ANSWER)[::-1]
    assert oracle.chi_square(np.bincount(number, minlength=len(MASKS)), law) > 1e-3
    factor = np.unique(mix[:, node][hidden[:, node]])
    assert len(factor) == 1 and np.all(mix[:, node][~hidden[:, node]] == 0)
    total += law @ _nats(MASKS, MASKS * factor[0])
  error = abs(total / bound - 1)
  assert error < 1e-6 if 2 * num_nodes >= ANSWER else error > 1e-4


def test_quadrature_integrates_polynomials_up_to_its_degree():
  for number in (1, 2, 3):
    nodes, weights = (np.asarray(x, np.float64) for x in time_lib.quadrature(number))
    errors = [abs(weights @ nodes ** d - 1 / (d + 1)) for d in range(2 * number + 1)]
    assert max(errors[:-1]) < 1e-6 < 1e-4 < errors[-1]


def _exact(policy, params, advantage, **fields):
  """A prepared batch of ROW whose canvases are all masks at their probabilities."""
  hidden, mix = espo.complements(jnp.asarray(MASKS), jnp.ones(MASKS.shape, bool))
  law = enumerated_answers.uniform_counts(MASKS, range(ANSWER + 1))
  flat = lambda x: jnp.asarray(x).reshape(1, -1, ANSWER)
  canvas = jnp.where(flat(hidden), MASK_ID, ROW[PROMPT:])
  prompt = jnp.broadcast_to(ROW[:PROMPT], canvas.shape[:2] + (PROMPT,))
  return {"noisy_tokens": jnp.concatenate([prompt, canvas], axis=2),
          "targets": jnp.asarray(ROW[None, PROMPT:]), "mix": flat(mix * law[:, None, None]),
          "length": jnp.full(1, ANSWER, jnp.float32), "token_weight": jnp.ones((1, 1)),
          "advantage": jnp.asarray([advantage], jnp.float32), "policy_scale": jnp.ones(1),
          "is_free": jnp.ones((1, ANSWER), bool)} | fields


def test_at_ratio_one_the_gradient_is_that_of_the_bound_by_enumeration():
  policy = rollouts.policy(espo.ESPO, kl=0.0)
  prepared = _exact(policy, PARAMS, 0.7)
  value, grad = jax.jit(jax.value_and_grad(
      lambda p: policy(p, prepared, rollouts.context())[0]["policy"]))(PARAMS)
  bound = lambda p: enumerated_answers.order_bound(enumerated_answers.table(p, ROW))
  expected = jax.tree.map(lambda g: -0.7 / ANSWER * g, jax.jit(jax.grad(bound))(PARAMS))
  np.testing.assert_allclose(value, -0.7, rtol=1e-6)  # the ratio is 1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), grad, expected)
  assert max(np.abs(g).max() for g in jax.tree.leaves(grad)) > 1e-3


def test_ratio_and_divergence_are_those_of_bounds_over_the_length():
  policy = rollouts.policy(espo.ESPO, kl=0.5, clip=100.0)
  bound = lambda p: float(enumerated_answers.order_bound(enumerated_answers.table(p, ROW)))
  new, old = bound(OTHER), bound(PARAMS)
  prepared = _exact(policy, PARAMS, 1.0, old_log_prob=jnp.full((1, 1), old))
  totals, aux = rollouts.scored(policy, OTHER, prepared)
  np.testing.assert_allclose(totals["policy"], -np.exp((new - old) / ANSWER), rtol=1e-4)
  np.testing.assert_allclose(totals["kl"], (new - old) ** 2 / (2 * ANSWER), rtol=1e-3)
  np.testing.assert_allclose(aux.metrics["ratio"][0], np.exp((new - old) / ANSWER), rtol=1e-4)


@pytest.mark.parametrize("cls", tiny.mostly_slow([espo.ESPO, gdpo.GDPO], [espo.ESPO]))
def test_before_an_update_every_ratio_is_one_and_rows_count_alike(cls):
  batch = rollouts.rollout(num_prompts=4)
  policy = rollouts.policy(cls, kl=0.1)
  prepared, weights = rollouts.prepared(policy, batch, rng.root(3))
  old = rollouts.log_prob(policy, PARAMS, prepared)
  assert old.shape == (4 * GROUP, 1) and weights["policy"] == weights["kl"] == 4 * GROUP
  prepared, _ = rollouts.prepared(policy, batch | {"old_log_prob": old}, rng.root(3))
  totals, aux = rollouts.scored(policy, PARAMS, prepared)
  total, count = aux.metrics["ratio"]
  np.testing.assert_allclose(total / count, 1, rtol=1e-6)
  np.testing.assert_allclose(totals["kl"], 0, atol=1e-6)
  np.testing.assert_allclose(totals["policy"], -prepared["advantage"].sum(), atol=1e-4)
  # A draw depends on the index of the example, not on the rows beside it.
  one = {k: v[GROUP:2 * GROUP] for k, v in batch.items()}
  alone, _ = rollouts.prepared(policy, one, rng.root(3))
  if cls is gdpo.GDPO:  # counts of ESPO are spread over the rows of a batch
    np.testing.assert_array_equal(alone["noisy_tokens"], prepared["noisy_tokens"][GROUP:2 * GROUP])


@pytest.mark.parametrize("cls", tiny.mostly_slow([grpo.DiffuGRPO, espo.ESPO], [espo.ESPO]))
@pytest.mark.slow
def test_the_upper_clip_is_of_ratios_above_one_alone(cls):
  batch = rollouts.rollout(num_prompts=2)
  make = lambda high: rollouts.policy(cls, kl=0.0, clip=0.2, clip_high=high)
  prepared, _ = rollouts.prepared(make(0.0), batch, rng.root(0))
  log_prob = rollouts.log_prob(make(0.0), PARAMS, prepared)
  scale = prepared["length"][:, None] if "length" in prepared else 1

  for high, cases in {0.0: [(1.4, 1, 1.2), (0.7, -1, -0.8)], 0.3: [
      (1.4, 1, 1.3), (1.4, -1, -1.4), (1.25, 1, 1.25), (0.7, -1, -0.8), (0.7, 1, 0.7)]}.items():
    gain = jax.jit(lambda old, advantage, policy=make(high): -policy(
        PARAMS, prepared | {"old_log_prob": old, "advantage": advantage},
        rollouts.context())[0]["policy"] / prepared["token_weight"].sum())
    for ratio, advantage, expected in cases:
      found = gain(log_prob - scale * np.log(ratio), jnp.full(len(log_prob), float(advantage)))
      np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("cls, fields, message", [
    (espo.ESPO, {"num_pairs": 0}, "num_pairs must be at least 1"),
    (espo.ESPO, {"advantage": "best"}, "choose from mean"),
    (espo.ESPO, {"clip_high": -0.1}, "clip_high must be at least 0"),
    (gdpo.GDPO, {"num_nodes": 0}, "num_nodes must be at least 1")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    rollouts.policy(cls, **fields)
