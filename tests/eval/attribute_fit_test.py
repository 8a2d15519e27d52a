"""Classifiers of what a text will be, fitted to texts of a tiny model."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import sharding
from mdx import types as types_lib
from mdx.eval import attribute_fit
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.samplers import attributes
from mdx.utils import rng

MASK, EOS, LENGTH = 0, 1, 4


def _model(seed=0):
  """An autoregressive model with random parameters, as it is loaded."""
  network = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=4,
                                    vocab_multiple=1, max_length=8, scan_layers=False).network()
  objective = ar.AutoRegressive(network=network, mask_id=MASK)
  mesh = sharding.make_mesh({"data": -1})
  params = jax.tree.map(lambda x: 4 * x, objective.init(rng.root(seed)))
  params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  return types.SimpleNamespace(objective=objective, params=params, max_length=8, source="tiny",
                               tokenizer=types.SimpleNamespace(pad_id=2),
                               mesh=mesh)


def _sampler(model, **fields):
  return samplers.build(dict(name="conditional_beam", gen_length=LENGTH, **fields),
                        model.objective, mask_id=MASK, eos_id=EOS)


@pytest.mark.slow
def test_a_fitted_classifier_knows_the_odds_and_belongs_to_its_model(tmp_path):
  model = _model()
  sampler = _sampler(model, attribute="length", attribute_length=2)
  prompt = np.array([2], np.int32)
  classifier, facts = attribute_fit.fit(model, sampler, [prompt], num_samples=512)
  share = facts["share"]
  assert 0.05 < share < 0.95
  assert facts["loss"] < -share * np.log(share) - (1 - share) * np.log(1 - share) + 0.02
  # The mean over first tokens of P(attribute | first token) is the share.
  with jax.set_mesh(model.mesh):
    answer = jax.device_get(model.objective.answer(model.params, types_lib.Request(
        jnp.array([[2, 0, 0, 0, 0]]), jnp.zeros(1), targets=jnp.array([[1]]))))
  first = jax.nn.softmax(answer.logits[0, 0])
  odds = jax.nn.sigmoid(classifier.logits(answer.hidden[0, 0]))
  assert float((first * odds).sum()) == pytest.approx(share, abs=0.08)
  path = str(tmp_path / "classifier.npz")
  attributes.save(path, classifier, facts)
  attribute_fit.check(path, model)
  assert _sampler(model, attribute="length", attribute_length=2, classifier=path).classifier == path
  with pytest.raises(ValueError, match="was fitted to another model than tiny; leave it empty"):
    attribute_fit.check(path, _model(seed=1))


@pytest.mark.slow
def test_an_attribute_of_all_texts_has_nothing_to_tell():
  model = _model()
  with pytest.raises(ValueError, match="texts of the model none has the attribute complete"):
    attribute_fit.fit(model, _sampler(model, attribute="complete", last_ids=(MASK,)),
                      [np.array([2], np.int32)], num_samples=16)
