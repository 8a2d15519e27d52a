"""Masks that a frozen model guides, of frames and of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives.signals import ask
from mdx.objectives.tokens import mlm
from mdx.utils import rng


class _Scorer:
  """Confidences that are the parameters."""

  def confidence(self, params, batch):
    return params * batch["x"]


def _ask(**fields):
  return ask.Ask(model=_Scorer(), scorer="scorer", **fields)


def _allowed():
  return jnp.arange(20)[None] < jnp.tile(jnp.array([[20], [11]]), (50, 1))


def test_all_ways_of_masking_mask_the_same_share_of_every_row():
  confidence = jax.random.uniform(rng.root(0), (100, 20))
  keys = lambda: rng.per_example(rng.root(1), jnp.arange(100))
  means = {}
  for name, fields in (("random", dict(temperature=float("inf"))), ("ask", dict()),
                       ("lowest", dict(reverse=True)), ("hard", dict(temperature=0.0))):
    chosen = _ask(**fields).select(keys(), confidence, 0.4, 1, _allowed())
    assert chosen.sum(axis=1).tolist() == [8, 4] * 50
    means[name] = float(confidence[chosen].mean())
  assert means["hard"] > means["ask"] > means["random"] > means["lowest"]


def test_weights_are_the_mean_confidence_with_mean_one_over_rows_that_are_not_empty():
  confidence = jnp.array([[0.2, 0.4, 9.0], [0.9, 0.9, 0.9], [5.0, 5.0, 5.0]])
  allowed = jnp.array([[True, True, False], [True] * 3, [False] * 3])
  found = _ask(weighted=True).weights(confidence, allowed)
  np.testing.assert_allclose(found, [0.5, 1.5, 0.0], rtol=1e-6)
  assert _ask().weights(confidence, allowed).tolist() == [1, 1, 1]


def test_the_scorer_has_no_gradient_and_its_positions_must_be_those_of_the_model():
  batch = {"x": jnp.ones((2, 3))}
  grad = jax.grad(lambda p: _ask().confidence({"scorer": p}, batch).sum())(jnp.float32(2.0))
  assert float(grad) == 0
  with pytest.raises(ValueError, match="has 3 positions a row, and the model 20; give both"):
    _ask().select(None, jnp.ones((100, 3)), 0.4, 2, _allowed())
  with pytest.raises(ValueError, match="scorer is 'other', which is none .*it.*config.frozen"):
    ask.Ask.build(dict(scorer="other"), {"it": None})
  assert ask.Ask.build(dict(scorer="it", temperature=float("inf")), {"it": None}).temperature > 1e30
  with pytest.raises(ValueError, match="temperature must be a number of an ordinary size, got nan"):
    ask.Ask.build(dict(scorer="it", temperature=float("nan")), {"it": None})


def test_a_frozen_masked_model_of_tokens_guides_masks_of_tokens():
  network = transformer.Transformer(num_layers=1, width=8, num_heads=2, mlp_width=8,
                                    vocab_size=7).network()
  model = mlm.MaskedLM(network=network, mask_id=6)
  params = model.init(rng.root(0))
  batch = {"tokens": jax.random.randint(rng.root(1), (4, 10), 0, 6),
           "segment_ids": jnp.ones((4, 10), jnp.int32)}
  one = ask.Ask.build(dict(scorer="it", temperature=0.0), {"it": model})
  confidence = one.confidence({"it": params}, batch)
  answer = model.reader().answer(params, types.Request(batch["tokens"], jnp.zeros(4)))
  np.testing.assert_allclose(confidence, jax.nn.softmax(answer.logits).max(axis=-1), atol=1e-6)
  chosen = one.select(rng.per_example(rng.root(2), jnp.arange(4)), confidence, 0.3, 1,
                      jnp.ones((4, 10), bool))
  top = np.argsort(-np.asarray(confidence), axis=1)[:, :3]
  assert np.asarray(chosen).sum() == 12
  assert all(chosen[row, top[row]].all() for row in range(4))
