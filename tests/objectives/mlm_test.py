"""MLM: what is selected, what is written there, and the loss of it.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives import mlm
from mdx.utils import rng

import oracle

VOCAB, MASK_ID, WIDTH = 13, 5, 8
CONTEXT = types.Context(jnp.int32(0), {}, {})


def _encode(params, tokens, *, attention, positions=None, segment_ids=None, time=None):
  assert attention == attention_lib.Full() and time is None
  return params["embed"][tokens] + params["embed"][jnp.roll(tokens, 1, axis=1)]


NETWORK = types.Network(
    lambda key: {"embed": jax.random.normal(key, (VOCAB, WIDTH))}, _encode,
    lambda params, hidden, name: hidden @ params["embed"].T, VOCAB)


def _objective(**fields):
  return mlm.MaskedLM(network=NETWORK, mask_id=MASK_ID, **fields)


def _batch(num_rows, length, lengths=None, seed=0):
  draw = np.random.default_rng(seed)
  tokens = draw.integers(0, VOCAB - 1, (num_rows, length))
  tokens += tokens >= MASK_ID
  lengths = np.full(num_rows, length) if lengths is None else lengths
  return {"tokens": jnp.asarray(tokens, jnp.int32),
          "loss_mask": jnp.asarray(np.arange(length)[None] < lengths[:, None]),
          "example_index": jnp.arange(num_rows, dtype=jnp.int32)}


def _prepare(objective, batch, seed=0):
  prepared, weights = jax.jit(
      lambda b: objective.prepare({}, b, rng.root(seed), CONTEXT))(batch)
  return jax.device_get(prepared), float(weights["mlm"])


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_bernoulli_selects_at_its_rate(rate):
  prepared, weight = _prepare(_objective(mask_rate=rate), _batch(500, 128))
  assert abs(oracle.z_score(prepared["is_target"].ravel(), rate)) < 4
  assert weight == prepared["is_target"].sum()


def test_exact_count_selects_the_rounded_share_and_at_least_one():
  lengths = np.array([128, 100, 64, 10, 5, 2, 1, 0])
  prepared, weight = _prepare(_objective(mask_draw="exact_count"), _batch(8, 128, lengths))
  counts = prepared["is_target"].sum(axis=1)
  np.testing.assert_array_equal(counts, [19, 15, 10, 2, 1, 1, 1, 0])
  assert weight == counts.sum()


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_padding_and_prompts_are_never_selected_nor_changed(mask_draw):
  batch = _batch(300, 40, np.arange(300) % 41)
  prepared, _ = _prepare(_objective(mask_draw=mask_draw, mask_rate=0.9), batch)
  outside = ~np.asarray(batch["loss_mask"])
  assert not prepared["is_target"][outside].any()
  kept = ~prepared["is_target"]
  np.testing.assert_array_equal(prepared["noisy_tokens"][kept], np.asarray(batch["tokens"])[kept])


def test_selected_tokens_split_80_10_10_with_random_ones_uniform_over_the_others():
  batch = _batch(800, 256)
  prepared, _ = _prepare(_objective(), batch)
  tokens = np.asarray(batch["tokens"])[prepared["is_target"]]
  noisy = prepared["noisy_tokens"][prepared["is_target"]]
  masked, same = noisy == MASK_ID, noisy == tokens
  counts = [masked.sum(), same.sum(), (~masked & ~same).sum()]
  others = VOCAB - 1  # a random token may be the original
  assert oracle.chi_square(counts, [0.8, 0.1 + 0.1 / others, 0.1 - 0.1 / others]) > 1e-4
  steps = (noisy - tokens)[~masked & ~same] % VOCAB
  assert len(np.unique(noisy[~masked])) == others and len(np.unique(steps)) == others
  # What replaced token 7 is uniform over the eleven ids that are neither 7 nor [MASK].
  replaced = np.bincount(noisy[~masked & ~same & (tokens == 7)], minlength=VOCAB)
  assert replaced[7] == replaced[MASK_ID] == 0
  assert oracle.chi_square(np.delete(replaced, [7, MASK_ID]), np.ones(VOCAB - 2)) > 1e-4


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_the_loss_equals_a_dense_cross_entropy(rate, mask_draw):
  objective = _objective(mask_rate=rate, mask_draw=mask_draw)
  batch = _batch(16, 64, np.arange(16) * 4 + 1)
  prepared, weight = _prepare(objective, batch)
  params = objective.init(rng.root(1))

  def dense(params):
    hidden = _encode(params["model"], prepared["noisy_tokens"], attention=attention_lib.Full())
    logp = jax.nn.log_softmax(hidden @ params["model"]["embed"].T)
    rows = jnp.arange(16)[:, None], jnp.arange(64)[None]
    return -(logp[*rows, prepared["tokens"]] * prepared["is_target"]).sum()

  def loss(params):
    totals, aux = objective(params, prepared, CONTEXT)
    return totals["mlm"], aux

  (found, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(found, dense(params), rtol=1e-5)
  np.testing.assert_allclose(gradient["model"]["embed"], jax.grad(dense)(params)["model"]["embed"],
                             rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(aux.rows["nll"].sum(), found, rtol=1e-5)
  np.testing.assert_array_equal(aux.rows["count"], prepared["is_target"].sum(axis=1))
  assert float(aux.metrics["masked_nats"][1]) == weight


def test_denoise_gives_the_logits_of_the_targets_and_never_the_mask_id():
  objective, batch = _objective(), _batch(4, 10)
  params = objective.init(rng.root(1))
  hidden = _encode(params["model"], batch["tokens"], attention=attention_lib.Full())
  expected = np.array(hidden @ params["model"]["embed"].T)
  expected[..., MASK_ID] = -1e30
  request = types.Request(batch["tokens"], jnp.ones(4))
  np.testing.assert_allclose(objective.denoise(params, request), expected, rtol=1e-5, atol=1e-5)
  targets = jnp.array([[3, 0], [9, 9], [1, 2], [5, 10]])  # 10: none, whatever is read
  some = objective.denoise(params, request._replace(targets=targets))
  np.testing.assert_allclose(some[1, 1], expected[1, 9], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(some[0], expected[0, [3, 0]], rtol=1e-5, atol=1e-5)
  assert objective.visibility == attention_lib.Full()


def test_a_rows_draws_depend_on_its_index_and_the_step_only():
  objective, batch = _objective(), _batch(32, 64)
  one, _ = _prepare(objective, batch)
  order = np.random.default_rng(1).permutation(32)[:20]
  other, _ = _prepare(objective, {k: v[order] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(one[name][order], other[name], err_msg=name)
  again, _ = _prepare(objective, batch, seed=1)
  assert not np.array_equal(one["is_target"], again["is_target"])


@pytest.mark.parametrize("fields", [
    {"mask_rate": 0.0}, {"mask_rate": 1.1}, {"mask_draw": "span"}, {"replace_mask_rate": -0.1},
    {"replace_mask_rate": 0.9, "replace_random_rate": 0.2}])
def test_values_without_meaning_are_refused(fields):
  with pytest.raises(ValueError, match=f"objective.{next(iter(fields))}"):
    _objective(**fields)
