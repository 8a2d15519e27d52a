"""GEM: rows by hand, the bottleneck, plain texts as without it, embeddings, microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks import visibility
from mdx.objectives.causal import ar
from mdx.objectives.embedding import gem
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

MASK_ID, LENGTH, SPECIAL = 5, 10, 2
NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=16,
                                  max_length=16, init_std=1.0, scan_layers=False).network()


def _objective(**fields):
  return gem.GEM(network=NETWORK, mask_id=MASK_ID, num_special=SPECIAL, **fields)


def _batch(rows=64):
  draw = np.random.default_rng(0)
  size = draw.integers(0, LENGTH + 1, (rows, 1))
  is_text = np.arange(LENGTH)[None] < size
  tokens = np.where(is_text, draw.integers(6, 16, (rows, LENGTH)), 0).astype(np.int32)
  return {"tokens": tokens, "segment_ids": is_text.astype(np.int32), "loss_mask": is_text,
          "example_index": np.arange(rows, dtype=np.int32)}


@pytest.mark.parametrize("layout", gem.LAYOUTS)
def test_rows_are_a_text_around_special_tokens(layout):
  batch = _batch()
  found, weights = _objective(layout=layout, raw_rate=0.3).prepare(
      {}, batch, rng.root(0), types.context(0))
  found, seen = jax.device_get(found), []
  for row, roles, is_target, tokens, size in zip(
      found["row"], found["roles"], found["is_target"], batch["tokens"],
      batch["segment_ids"].sum(axis=1)):
    special = np.flatnonzero(roles == visibility.SPECIAL)
    if not special.size:
      np.testing.assert_array_equal(row, tokens)
      np.testing.assert_array_equal(is_target, np.arange(LENGTH) < size)
      continue
    cut = special[0]
    seen.append(cut)
    np.testing.assert_array_equal(special, cut + np.arange(SPECIAL))
    rest = tokens[:cut] if layout == "copy" else tokens[cut:min(size, LENGTH - SPECIAL)]
    text = np.concatenate([tokens[:cut], [MASK_ID] * SPECIAL, rest])
    assert len(rest) and cut and (layout == "split" or cut == min(size, (LENGTH - SPECIAL) // 2))
    np.testing.assert_array_equal(row[:len(text)], text)
    expected = np.arange(LENGTH) < len(text)
    expected[special] = False
    np.testing.assert_array_equal(is_target, expected)
    assert (roles[:cut] == visibility.TEXT).all() and (
        roles[cut + SPECIAL:] == visibility.SUFFIX).all()
  assert 15 < len(seen) and len(set(seen)) > 3
  assert weights["next_token"] == found["is_target"].sum()


def test_a_suffix_reads_the_text_through_special_tokens_alone():
  roles = np.array([[0, 0, 0, 1, 1, 2, 2]])
  mask = attention.visible(visibility.Bottleneck(jnp.asarray(roles)), jnp.arange(7)[None], None)[0, 0]
  expected = np.tril(np.ones((7, 7), bool))
  expected[5:, :3] = False
  expected[4, 3] = False
  np.testing.assert_array_equal(mask, expected)


@pytest.fixture(scope="module", name="params")
def _params():
  return _objective().init(rng.root(0))


@pytest.mark.slow
def test_plain_texts_cost_what_they_cost_a_causal_model(params):
  batch = {k: v[:8] for k, v in _batch().items()}
  objective, causal = _objective(raw_rate=1.0), ar.AutoRegressive(network=NETWORK, mask_id=MASK_ID)

  @jax.jit
  def both(params):
    rows = objective.prepare(params, batch, rng.root(0), types.context(0))[0]
    first = objective(params, rows, types.context(0))
    return first, causal(params, batch, types.context(0))

  (totals, aux), (expected, other) = both(params)
  assert totals["contrast"] == 0  # before contrast_start
  np.testing.assert_allclose(totals["next_token"], expected["nll"], rtol=1e-5)
  np.testing.assert_allclose(aux.rows["nll"], other.rows["nll"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_embedding_is_the_mean_state_of_special_tokens_behind_the_text(params):
  batch, objective = {k: v[:6] for k, v in _batch().items()}, _objective()
  embed = jax.jit(objective.embedder().vectors)
  found = embed(params, batch)
  size = int(batch["segment_ids"][0].sum())
  inputs = np.concatenate([[MASK_ID], batch["tokens"][0, :size], [MASK_ID] * SPECIAL])[None]
  added = jnp.zeros((1, size + 3, 16)).at[0, -SPECIAL:].set(params["special"]["embed"])
  roles = jnp.asarray((np.arange(size + 3) > size).astype(np.int32))[None]
  states = NETWORK.encode(params["model"], types.Inputs(jnp.asarray(inputs), added=added),
                          attention=visibility.Bottleneck(roles)).last
  np.testing.assert_allclose(found[0], states[0, -SPECIAL:].mean(axis=0), rtol=1e-4, atol=1e-5)
  batch["tokens"] = np.where(batch["segment_ids"] > 0, batch["tokens"], 7)  # padding is not read
  np.testing.assert_allclose(embed(params, batch), found, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_terms_take_turns_and_microbatches_change_nothing(params):
  objective = _objective(raw_rate=0.5, contrast_start=100)

  def of(num_microbatches, step):
    context = types.context(step, key=rng.root(3))
    batch, weights = objective.prepare(params, _batch(16), rng.root(0), context)
    totals, _ = objective(params, batch, context)
    loss, _, grads = step_lib.loss_and_grad(objective, params, batch, weights, context,
                                            num_microbatches)
    return jax.tree.map(jnp.asarray, (totals, loss, grads))

  run = jax.jit(of, static_argnums=0)
  for step, absent in ((0, "contrast"), (200, "next_token")):
    (totals, loss, grads), (_, other, others) = (jax.device_get(run(n, step)) for n in (1, 4))
    assert totals[absent] == 0 and float(loss) == pytest.approx(float(other), rel=1e-6)
    for path, leaf in tree.flatten(grads).items():
      np.testing.assert_allclose(tree.flatten(others)[path], leaf, err_msg=path,
                                 atol=5e-6 * np.abs(leaf).max() + 1e-9)


@pytest.mark.parametrize("fields, message", [
    (dict(span=3, span_unit="tokens"), "objective.span is not read"),
    (dict(pooling="last"), "pooling and attention are"),
    (dict(raw_rate=1.5), r"raw_rate must lie in \[0, 1\]"),
    (dict(layout="front"), "objective.layout is 'front'; choose from split, copy")])
def test_fields_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


def test_rows_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="data.length 3 has no room for 2 special tokens"):
    _objective().check_length(3)
  with pytest.raises(ValueError, match="one text a row; use crop or pad"):
    gem.GEM.complete({"batch_size": 4, "data": {"packing": "concat"}}, None)
