"""Losses of labels against closed forms, padding, poolings, and groups of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives.labels import finetune
from mdx.utils import rng

import tiny

_CONTEXT = types.context(0)


def _network(**fields):
  return transformer.Transformer(**dict(dict(
      num_layers=2, width=16, num_heads=2, mlp_width=16, vocab_size=12, scan_layers=False),
                                        **fields)).network()


_NETWORK = _network()
_MODEL = jax.jit(_NETWORK.init)(rng.root(0))


def _init(objective):
  """The shared encoder, and new layers of this objective."""
  if objective.network is not _NETWORK:
    return jax.jit(objective.init)(rng.root(0))
  dense = lambda key, size: {"kernel": 0.5 * jax.random.normal(key, (16, size)),
                             "bias": jnp.zeros(size)}
  return {"model": _MODEL, "task": objective._layers(dense, jax.random.split(rng.root(1)), 16)}


def _batch(labels, places, length=6):
  draw = np.random.default_rng(0)
  rows = len(labels)
  segments = np.ones((rows, length), np.int32)
  segments[0, 4:] = 0
  allowed = np.zeros((rows, length), bool)
  given = np.zeros((rows, length), np.float32)
  for i, (row, where) in enumerate(zip(labels, places)):
    allowed[i, where], given[i, where] = True, row
  return {"tokens": jnp.asarray(draw.integers(0, 11, (rows, length)), jnp.int32),
          "segment_ids": jnp.asarray(segments), "loss_mask": jnp.asarray(allowed),
          "labels": jnp.asarray(given), "example_index": jnp.arange(rows)}


@pytest.mark.parametrize("pooling", tiny.first(finetune.POOLINGS, 1))
def test_a_class_costs_its_negative_log_probability(pooling):
  objective = finetune.Classification(network=_NETWORK, mask_id=11, labels=("a", "b", "c"),
                                      pooling=pooling, init_std=0.5)
  params, batch = _init(objective), _batch([1, 2], [0, 0])
  _, weights = objective.prepare(params, batch, rng.root(0), _CONTEXT)
  scores, total, aux = jax.jit(objective.score)(params, batch)
  assert weights["labels"] == 2 and scores.shape == (2, 3)
  hidden = np.asarray(objective.network.encode(
      params["model"], types.Inputs(batch["tokens"], segment_ids=batch["segment_ids"]),
      attention=attention_lib.Full()).last, np.float64)
  pooled = {"first": hidden[:, 0], "last": np.stack([hidden[0, 3], hidden[1, 5]]),
            "mean": np.stack([hidden[0, :4].mean(axis=0), hidden[1].mean(axis=0)])}[pooling]
  layer = lambda name, x: x @ np.asarray(params["task"][name]["kernel"], np.float64) + np.asarray(
      params["task"][name]["bias"])
  logits = layer("out", np.tanh(layer("dense", pooled)))
  logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(scores, logits, atol=1e-5)
  assert total["labels"] == pytest.approx(-logp[0, 1] - logp[1, 2], rel=1e-5)
  assert aux.metrics["label_accuracy"][1] == 2
  # What stands in the padding changes nothing.
  other = batch | {"tokens": batch["tokens"].at[0, 4:].set(3)}
  assert objective(params, other, _CONTEXT)[0]["labels"] == pytest.approx(float(total["labels"]), rel=1e-6)


def test_a_score_costs_its_squared_distance_in_units_of_the_spread():
  objective = finetune.Regression(network=_NETWORK, mask_id=11, middle=2.0, spread=4.0)
  params, batch = _init(objective), _batch([1.5, 5.0], [0, 0])
  scores, total, _ = jax.jit(objective.score)(params, batch)
  wanted = ((np.asarray(scores)[:, 0] - [1.5, 5.0]) / 4) ** 2
  assert total["labels"] == pytest.approx(wanted.sum(), rel=1e-5)
  assert np.allclose(finetune.Regression(network=_NETWORK, mask_id=11, middle=7.0).score(
      jax.tree.map(jnp.zeros_like, params), batch)[0], 7.0)


def test_a_tag_costs_at_the_places_of_words_alone():
  objective = finetune.Tagging(network=_NETWORK, mask_id=11, labels=("O", "B-X"))
  params = _init(objective)
  batch = _batch([[1, 0], [0, 1, 1]], [[0, 2], [1, 3, 5]])
  scores, total, aux = jax.jit(objective.score)(params, batch)
  logp = jax.nn.log_softmax(scores)
  wanted = -(logp[0, 0, 1] + logp[0, 2, 0] + logp[1, 1, 0] + logp[1, 3, 1] + logp[1, 5, 1])
  assert scores.shape == (2, 6, 2) and total["labels"] == pytest.approx(float(wanted), rel=1e-5)
  assert aux.rows["count"].tolist() == [2, 3] and "dense" not in params["task"]


@pytest.mark.slow
def test_token_types_are_read_where_the_network_has_them():
  batch = _batch([1, 2], [0, 0]) | {"token_types": jnp.zeros((2, 6), jnp.int32).at[:, 3:].set(1)}
  for types_, differs in ((2, True), (0, False)):
    objective = finetune.Classification(network=_network(token_types=types_), mask_id=11,
                                        labels=("a", "b", "c"), init_std=0.5)
    params = _init(objective)
    plain = {k: v for k, v in batch.items() if k != "token_types"}
    assert bool(np.any(jax.jit(objective.score)(params, batch)[0] != jax.jit(objective.score)(params, plain)[0])) == (
        differs)


def _tags(code):
  return finetune.Tagging(network=_NETWORK, mask_id=11, labels=("O", "B-X"),
                          attention=dict(name="groups", code=code))


@pytest.mark.parametrize("code", ["00", "01", "10", "11"])
def test_a_later_token_is_seen_iff_a_group_has_no_causal_mask(code):
  objective = _tags(code)
  params = _init(objective)
  batch = _batch([[0, 1, 0]], [[0, 1, 2]])
  batch["segment_ids"] = jnp.ones((1, 6), jnp.int32)
  other = batch | {"tokens": batch["tokens"].at[0, 5].add(1)}
  a, b = (np.asarray(jax.jit(objective.score)(params, x)[0])[0, :5] for x in (batch, other))
  assert bool((a != b).any()) == ("1" in code)
  assert _tags("00").visibility.of_layers(2) == (attention_lib.Causal(),) * 2


def test_groups_are_neighbouring_layers_from_the_bottom():
  causal, full = attention_lib.Causal(), attention_lib.Full()
  assert attention_lib.Groups("01").of_layers(6) == (causal,) * 3 + (full,) * 3
  with pytest.raises(ValueError, match="2 groups of attention code '01' do not divide the 3"):
    attention_lib.Groups("01").of_layers(3)
  with pytest.raises(ValueError, match="code is '02'; expected a digit 0"):
    attention_lib.Groups("02")


@pytest.mark.parametrize("cls, fields, message", [
    (finetune.Classification, dict(labels=("a", "a")), "labels names one twice"),
    (finetune.Classification, dict(pooling="max"), "pooling is 'max'; choose from first"),
    (finetune.Regression, dict(spread=0.0), "spread must lie in .0, inf."),
    (finetune.Regression, dict(labels=("a",)), "leave objective.labels empty"),
    (finetune.Tagging, dict(attention=dict(name="ful")), "unknown attention name 'ful'")])
def test_wrong_settings_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(network=_NETWORK, mask_id=11, **fields)
