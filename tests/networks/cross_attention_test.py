"""Cross-attention to a context, and what else a network gives and is told of attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks import visibility
from mdx.utils import rng
from mdx.utils import tree

SPEC = transformer.Transformer(num_layers=3, width=8, num_heads=2, mlp_width=8, vocab_size=16,
                               context_width=6)
FULL = attention.Full()
TOKENS = jnp.arange(10).reshape(2, 5)
CONTEXT = jax.random.normal(rng.root(7), (2, 4, 6))
MASK = jnp.array([[True, True, False, False], [True] * 4])


@pytest.fixture(name="model", scope="module")
def _model():
  """The network, its first parameters, others whose output maps are not zero, and one encode."""
  network = SPEC.network()
  params = network.init(rng.root(0))
  moved = jax.tree.map(jnp.copy, params)
  kernel = moved["layers"]["cross"]["out"]["kernel"]
  moved["layers"]["cross"]["out"]["kernel"] = 0.3 * jax.random.normal(rng.root(1), kernel.shape)
  run = jax.jit(lambda params, tokens, context, mask: network.encode(
      params, types.Inputs(tokens, context=context, context_mask=mask), attention=FULL).last)
  return network, params, moved, run


@pytest.mark.slow
def test_a_network_begins_as_the_one_without_a_context(model):
  _, params, _, run = model
  plain = dataclasses.replace(SPEC, context_width=0).network()
  own = tree.nest({k: v for k, v in tree.flatten(params).items() if "/cross" not in k})
  assert len(tree.flatten(params)) == len(tree.flatten(own)) + 5
  expected = jax.jit(lambda own: plain.encode(own, types.Inputs(TOKENS), attention=FULL).last)(own)
  np.testing.assert_allclose(run(params, TOKENS, CONTEXT, MASK), expected, atol=1e-6)


@pytest.mark.slow
def test_what_the_mask_hides_is_not_read_and_the_order_of_a_context_says_nothing(model):
  _, _, moved, run = model
  first = run(moved, TOKENS, CONTEXT, MASK)
  other = jnp.where(MASK[..., None], CONTEXT, 9.0)
  np.testing.assert_allclose(run(moved, TOKENS, other, MASK), first, atol=1e-6)
  np.testing.assert_allclose(run(moved, TOKENS, CONTEXT[:, ::-1], MASK[:, ::-1]), first, atol=1e-5)
  seen = run(moved, TOKENS, CONTEXT.at[:, 0].add(1.0), MASK)
  assert (jnp.abs(seen - first).max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.slow
def test_a_cache_keeps_the_context(model):
  network, _, moved, run = model
  whole = run(moved, TOKENS, CONTEXT, MASK)
  given = dict(context=CONTEXT, context_mask=MASK)

  @jax.jit
  def windowed(params):
    first = network.encode(params, types.Inputs(TOKENS, **given), attention=FULL, cache=())
    slots = jnp.array([[1, 3]] * 2)
    return network.encode(params, types.Inputs(jnp.take_along_axis(TOKENS, slots, 1), **given),
                          attention=FULL, cache=first.cache, slots=slots).last

  np.testing.assert_allclose(windowed(moved), whole[:, jnp.array([1, 3])], atol=1e-5)


def test_contexts_that_are_missing_unread_or_of_another_width_are_one_line(model):
  network, *_ = model
  ask = lambda network, context: jax.eval_shape(lambda params: network.encode(
      params, types.Inputs(TOKENS, context=context), attention=FULL).last,
      jax.eval_shape(network.init, rng.root(0)))
  with pytest.raises(ValueError, match="reads a context .*, and inputs.context is missing; give"):
    ask(network, None)
  with pytest.raises(ValueError, match="width 5, and network.context_width is 6; make them equal"):
    ask(network, CONTEXT[..., :5])
  with pytest.raises(ValueError, match="has no cross-attention; leave it out"):
    ask(dataclasses.replace(SPEC, context_width=0).network(), CONTEXT)
  with pytest.raises(ValueError, match="context_width is of networks that read a context"):
    dataclasses.replace(SPEC, adaptations=(dict(name="prompt_tuning"),))


IS_MASKED = jnp.array([[True, False, False, True, False], [False, True, True, True, False]])


@pytest.fixture(name="probs", scope="module")
def _probs():
  """(tokens, value) -> output and probabilities of the layers of a plain network."""
  network = dataclasses.replace(SPEC, context_width=0, position="none").network()
  params = network.init(rng.root(0))

  @jax.jit
  def both(tokens):
    one = lambda value: network.encode(params, types.Inputs(tokens), attention=value,
                                       keep_attention=True)
    return one(visibility.Recalibrated(IS_MASKED, 1.0)), one(FULL), one(
        visibility.Recalibrated(IS_MASKED, 1 / 3))

  return both


@pytest.mark.slow
def test_probabilities_are_those_of_the_scores_and_their_weights_recalibrated(probs):
  found, plain, _ = probs(TOKENS)
  assert found.attention.shape == (3, 2, 2, 5, 5)
  np.testing.assert_allclose(found.attention.sum(axis=-1), 1, atol=1e-6)
  away = (~IS_MASKED[:, :, None] & IS_MASKED[:, None])[:, None]
  # Weight 0 in the first layer, whose scores are those of the plain network.
  expected = jnp.where(away, 0.0, plain.attention[0])
  expected = expected / expected.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(found.attention[0], expected, atol=1e-6)
  by_hand = visibility.Recalibrated(IS_MASKED, 1.0).of_layers(3)
  assert by_hand[1].weight == pytest.approx(1 / 3) and by_hand[2].weight == pytest.approx(2 / 3)
  bias = by_hand[1].bias(*attention._coordinates(jnp.arange(5)[None], None))
  np.testing.assert_allclose(jnp.exp(bias), jnp.where(away[:, 0], 1 / 3, 1.0), rtol=1e-6)


def test_where_all_weights_are_one_it_is_full_attention():
  values = visibility.Recalibrated(IS_MASKED, 1e-3).of_layers(3)
  assert values[1:] == (FULL, FULL) and values[0].weight == 0


@pytest.mark.slow
def test_in_the_first_layer_visible_positions_do_not_depend_on_masked_ones(probs):
  other = jnp.where(IS_MASKED, 15, TOKENS)
  own, changed = probs(TOKENS)[2], probs(other)[2]
  visible = ~IS_MASKED[:, None, :, None] & ~IS_MASKED[:, None, None, :]
  seen = lambda x, layer: jnp.where(visible, x.attention[layer], 0)
  among = lambda x: x / jnp.maximum(x.sum(axis=-1, keepdims=True), 1e-9)
  np.testing.assert_allclose(seen(own, 0), seen(changed, 0), atol=1e-6)
  assert jnp.abs(seen(own, 1) - seen(changed, 1)).max() > 1e-4  # weight 1
  # But the states behind the first layer are the same, and so are their scores with one another.
  np.testing.assert_allclose(among(seen(own, 1)), among(seen(changed, 1)), atol=1e-5)
  assert jnp.abs(among(seen(own, 2)) - among(seen(changed, 2))).max() > 1e-4
