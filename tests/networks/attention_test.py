"""attend() is jax.nn.dot_product_attention; visible() is the definition, by loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import attention

import tiny

BATCH, QUERIES, HEADS, WIDTH = 2, 6, 4, 8


def _inputs(kv_heads, keys=QUERIES, seed=0):
  draw = np.random.default_rng(seed)
  shapes = ((BATCH, QUERIES, HEADS, WIDTH), (BATCH, keys, kv_heads, WIDTH),
            (BATCH, keys, kv_heads, WIDTH))
  return tuple(jnp.asarray(2 * draw.normal(size=shape), jnp.float32) for shape in shapes)


def _mask(*shape, seed=1):
  """Random, with at least one key seen by each query."""
  mask = np.random.default_rng(seed).random(shape) < 0.5
  mask[..., 2] = True
  return jnp.asarray(mask)


MASKS = {
    "none": None,
    "shared": _mask(1, 1, QUERIES, QUERIES),
    "per_row": _mask(BATCH, 1, QUERIES, QUERIES),
    "per_head": _mask(BATCH, HEADS, QUERIES, QUERIES),
}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", tiny.first(MASKS.values(), 3), ids=MASKS)
def test_values_and_gradients_are_those_of_jax_dot_product_attention(mask, kv_heads):
  inputs = _inputs(kv_heads)
  weight = jnp.asarray(np.random.default_rng(2).normal(size=inputs[0].shape), jnp.float32)

  def ours(*args):
    return (attention.attend(*args, mask) * weight).sum()

  def theirs(*args):
    return (jax.nn.dot_product_attention(*args, mask=mask) * weight).sum()

  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  close(attention.attend(*inputs, mask), jax.nn.dot_product_attention(*inputs, mask=mask))
  jax.tree.map(close, jax.jit(jax.grad(ours, (0, 1, 2)))(*inputs),
               jax.jit(jax.grad(theirs, (0, 1, 2)))(*inputs))


def test_a_soft_cap_bends_the_scaled_products_before_what_is_added_and_none_changes_no_bit():
  query, key, value = _inputs(2)
  added = jnp.asarray(np.random.default_rng(4).normal(size=(BATCH, HEADS, QUERIES, QUERIES)),
                      jnp.float32)
  kept = lambda cap: attention.attend(query, key, value, None, added=added, keep=True, cap=cap)
  heads = np.repeat(key, HEADS // 2, axis=2)
  products = np.einsum("blnh,bsnh->bnls", query, heads) / query.shape[-1] ** 0.5
  scores = np.exp(0.7 * np.tanh(products / 0.7) + added)
  np.testing.assert_allclose(kept(0.7)[1], scores / scores.sum(-1, keepdims=True), atol=1e-6)
  for one, other in zip(kept(0.0), attention.attend(query, key, value, None, added=added, keep=True)):
    np.testing.assert_array_equal(one, other)
  assert np.abs(kept(0.7)[1] - kept(0.0)[1]).max() > 0.01


@pytest.mark.parametrize("mask, chunk", [("per_row", 4), ("per_head", 2), ("none", 5)])
def test_chunks_of_queries_change_neither_values_nor_gradients(mask, chunk):
  inputs, mask = _inputs(2), MASKS[mask]
  added = jnp.asarray(np.random.default_rng(4).normal(size=(BATCH, HEADS, QUERIES, QUERIES)),
                      jnp.float32)
  weight = jnp.asarray(np.random.default_rng(2).normal(size=inputs[0].shape), jnp.float32)
  loss = lambda attend: jax.jit(jax.value_and_grad(
      lambda q, k, v, a: (attend(q, k, v, a) * weight).sum(), (0, 1, 2, 3)))
  whole = loss(lambda q, k, v, a: attention.attend(q, k, v, mask, added=a, cap=1.5))
  cut = loss(lambda q, k, v, a: attention.attend_in_chunks(chunk, q, k, v, mask, a, 1.5))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
               cut(*inputs, added), whole(*inputs, added))


def test_keys_may_be_more_than_queries():
  inputs = _inputs(2, keys=9)
  np.testing.assert_allclose(attention.attend(*inputs, None),
                             jax.nn.dot_product_attention(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_row_that_sees_nothing_averages_the_values_and_has_finite_gradients():
  query, key, value = _inputs(4)
  mask = jnp.ones((1, 1, QUERIES, QUERIES), bool).at[0, 0, 3].set(False)
  out = attention.attend(query, key, value, mask)
  np.testing.assert_allclose(out[:, 3], value.mean(axis=1), rtol=1e-5, atol=1e-6)
  grads = jax.grad(lambda *x: jnp.square(attention.attend(*x, mask)).sum(), (0, 1, 2))(
      query, key, value)
  assert len(grads) and all(np.isfinite(g).all() for g in grads)


@pytest.mark.slow
def test_bfloat16_inputs_keep_their_dtype_and_have_float32_scores_and_softmax():
  # Scores near 30, where neighbours in bfloat16 differ by 0.125; 256 of them are summed.
  draw = np.random.default_rng(0)
  query, key, value = (jnp.asarray(draw.normal(size=(1, 256, 1, 4)), jnp.bfloat16) for _ in "qkv")
  query, key = 3 * query, jnp.concatenate([key[..., :3], 0 * key[..., :1] + 7], axis=-1)
  out = attention.attend(query, key, value, None)
  assert out.dtype == jnp.bfloat16
  q, k, v = (np.asarray(x[0, :, 0].astype(jnp.float32), np.float64) for x in (query, key, value))
  weights = np.exp(q @ k.T / 2)
  expected = weights / weights.sum(axis=1, keepdims=True) @ v
  np.testing.assert_allclose(out[0, :, 0].astype(jnp.float32), expected, atol=0.012)


SEEN = {"full": attention.Full(), "causal": attention.Causal(),
        "block_causal": attention.BlockCausal(2), "prefix": attention.Prefix(2),
        "local": attention.Local(1)}


def _expected(name, segments, positions):
  """Visibility of all places by all places, by loops: [B, L, L]."""
  rule = {"full": lambda q, k, at: True, "causal": lambda q, k, at: k <= q,
          "block_causal": lambda q, k, at: at[k] // 2 <= at[q] // 2,
          "prefix": lambda q, k, at: k <= q or at[k] < 2,
          "local": lambda q, k, at: abs(q - k) <= 1}[name]
  return np.array([[[row[q] == row[k] and rule(q, k, at) for k in range(len(row))]
                    for q in range(len(row))] for row, at in zip(segments, positions)])


DOCUMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 3, 3]])
WITHIN = np.array([[0, 1, 0, 1, 2, 0], [0, 0, 1, 0, 1, 2]])


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("segments", [None, DOCUMENTS], ids=["one_document", "documents"])
def test_a_query_sees_the_keys_of_its_segment_that_the_rule_allows(name, segments):
  positions = np.arange(6)[None] if segments is None else WITHIN
  found = attention.visible(SEEN[name], jnp.asarray(positions),
                            None if segments is None else jnp.asarray(segments))
  if name == "full" and segments is None:
    assert found is None
    return
  expected = _expected(name, np.ones((1, 6)) if segments is None else segments, positions)
  np.testing.assert_array_equal(found, expected[:, None])
  assert set(SEEN) | {"per_layer", "groups"} == set(attention.ATTENTIONS)


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("segments", [None, DOCUMENTS], ids=["one_document", "documents"])
def test_the_queries_may_be_some_slots_of_the_rows(name, segments):
  slots = jnp.array([[1, 3, 4, 6], [0, 2, 5, 5]])  # 6: none
  positions = np.arange(6)[None] if segments is None else WITHIN
  found = attention.visible(SEEN[name], jnp.asarray(positions),
                            None if segments is None else jnp.asarray(segments), slots)
  if name == "full" and segments is None:
    assert found is None
    return
  whole = _expected(name, np.ones((2, 6)) if segments is None else segments,
                    np.broadcast_to(positions, (2, 6)))
  for row in range(2):
    for i, slot in enumerate(np.asarray(slots[row])):
      if slot < 6:
        np.testing.assert_array_equal(found[row, 0, i], whole[row, slot])


@pytest.mark.slow
def test_slots_are_read_and_written_by_row_and_one_past_the_end_is_dropped():
  values, slots = jnp.array([[10, 11, 12], [20, 21, 22]]), jnp.array([[2, 0], [1, 3]])
  np.testing.assert_array_equal(attention.at_slots(values, slots)[0], [12, 10])
  assert attention.at_slots(values, slots)[1, 0] == 21
  np.testing.assert_array_equal(attention.at_slots(values[:1], slots)[1, 0], 11)
  assert attention.at_slots(values, None) is values
  memory = jnp.zeros((2, 3, 1, 1))
  new = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(2, 2, 1, 1)
  np.testing.assert_array_equal(attention.write(memory, slots, new)[..., 0, 0],
                                [[2, 0, 1], [0, 3, 0]])


def _two_streams(segments, positions):
  """Visibility of [noisy | clean] by its definition, with loops: [B, 2L, 2L]."""
  seen = []
  for row, at in zip(segments, positions):
    half, block = len(row), np.array(at) // 2
    one = np.zeros((2 * half, 2 * half), bool)
    for q in range(2 * half):
      for k in range(2 * half):
        i, j = q % half, k % half
        if row[i] != row[j]:
          continue
        if q < half:
          one[q, k] = block[i] == block[j] if k < half else block[j] < block[i]
        else:
          one[q, k] = k >= half and block[j] <= block[i]
    seen.append(one)
  return np.array(seen)


@pytest.mark.parametrize("segments, positions", [
    (np.ones((1, 6), int), np.arange(6)[None]), (DOCUMENTS, WITHIN)], ids=["one", "documents"])
def test_noisy_blocks_see_themselves_and_the_clean_blocks_before_them(segments, positions):
  twice = lambda x: jnp.asarray(np.concatenate([x, x], axis=1))
  found = attention.visible(attention.TwoStream(2), twice(positions), twice(segments))
  np.testing.assert_array_equal(found[:, 0], _two_streams(segments, positions))


def test_layers_share_the_masks_of_equal_values():
  value = attention.PerLayer((dict(name="local", radius=1), attention.Full(),
                              dict(name="local", radius=1)))
  seen, which = attention.sight(value.of_layers(6), jnp.arange(4)[None], None, None, with_masks=True)
  assert seen.values == (attention.Local(1), attention.Full())
  np.testing.assert_array_equal(which, [0, 1, 0, 0, 1, 0])
  assert seen.masks[1] is None
  np.testing.assert_array_equal(seen.masks[0][0, 0], np.abs(np.subtract.outer(
      np.arange(4), np.arange(4))) <= 1)
  alone, which = attention.sight(attention.Causal().of_layers(6), jnp.arange(4)[None], None, None,
                                 with_masks=False)
  assert alone.values == (attention.Causal(),) and alone.masks == () and which is None


@pytest.mark.parametrize("make, message", [
    (lambda: attention.BlockCausal(0), "attention.block_length must be at least 1, got 0"),
    (lambda: attention.Prefix(-1), "length must be at least 0, got -1"),
    (lambda: attention.Local(-1), "radius must be at least 0, got -1"),
    (lambda: attention.PerLayer(()), "must be a sequence of attentions"),
    (lambda: attention.PerLayer((attention.PerLayer((attention.Full(),)),)), "must be a sequence"),
    (lambda: attention.PerLayer((dict(name="loca"),)), "Did you mean 'local'"),
    (lambda: attention.PerLayer((attention.Full(), attention.Causal())).of_layers(3),
     "the 2 attentions of per_layer do not divide the 3 layers")])
def test_values_without_meaning_are_refused(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("inner", [
    attention.Full(), attention.Causal(), attention.Prefix(3), attention.TwoStream(2)])
def test_a_narrowed_value_shows_what_is_near_of_what_the_other_shows(inner):
  half = 12 // inner.streams
  positions = jnp.arange(12)[None] % half
  have = np.asarray(attention.visible(attention.Narrowed(inner, 2), positions, None))[0, 0]
  whole = attention.visible(inner, positions, None)
  whole = np.ones((12, 12), bool) if whole is None else np.asarray(whole)[0, 0]
  place = np.arange(12) % half
  np.testing.assert_array_equal(have, whole & (abs(place[:, None] - place[None]) <= 2))
  assert (have != whole).any()
  wrapped = attention.Narrowed(inner, 2)
  assert (wrapped.streams, wrapped.period) == (inner.streams, inner.period)


def test_every_so_many_layers_stay_global():
  local = attention.Narrowed(attention.Full(), 4)
  layers = attention.Full().of_layers(5)
  assert attention.narrowed(layers, 4, 3) == (
      attention.Full(), local, local, attention.Full(), local)
  assert attention.narrowed(layers, 4, 0) == (local,) * 5
  assert attention.narrowed(layers, 4, 0, 2) == layers[:2] + (local,) * 3
  assert attention.narrowed(layers, 0, 3) == layers
