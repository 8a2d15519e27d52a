"""The joint head: its formula by another route, and a new head that changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import drafter
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

import oracle
import tiny

MASK_ID, VOCAB, WIDTH, HEADS = 1, 7, 8, 2


@functools.cache
def _network(**fields):
  return transformer.Transformer(**dict(
      num_layers=2, width=WIDTH, num_heads=HEADS, mlp_width=12, vocab_size=VOCAB, vocab_multiple=1,
      max_length=16, scan_layers=False, tied=False, init_std=0.5) | fields).network()


def _random(part, seed=0):
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 2, jnp.float32),
                      jax.eval_shape(part.init, rng.root(0)))


HEAD = drafter.Head(_network(), MASK_ID)
OWN, MODEL = _random(HEAD.part), _random(types.Part(_network().init), 1)
TOKENS = np.array([[3, 1, 0, 2, 1], [5, 6, 1, 1, 0]], np.int32)
STATES = np.random.default_rng(2).normal(size=(2, 5, WIDTH)).astype(np.float32)


def _norm(x, scale, epsilon):
  return x / np.sqrt((x ** 2).mean(axis=-1, keepdims=True) + epsilon) * np.asarray(scale)


def _softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def _turned(x, position):
  """Rotary positions of one head's vector: pairs (i, i + H / 2)."""
  half = len(x) // 2
  angle = position * 10000.0 ** (-np.arange(half) / half)
  one, two = x[:half], x[half:]
  return np.concatenate([one * np.cos(angle) - two * np.sin(angle),
                         two * np.cos(angle) + one * np.sin(angle)])


def _expected(states, tokens):
  """The step of the paper for one row without padding, position by position, in float64."""
  own = jax.tree.map(lambda x: np.asarray(x, np.float64), OWN)
  layer = jax.tree.map(lambda x: x[0], own["block"]["layers"])
  table = np.asarray(MODEL["embed"]["embedding"], np.float64)
  both = np.concatenate([_norm(table[tokens], own["token_norm"]["scale"], 1e-6),
                         _norm(states.astype(np.float64), own["state_norm"]["scale"], 1e-6)], axis=1)
  x = both @ own["mix"]["kernel"]
  y, size = _norm(x, layer["attention_norm"]["scale"], 1e-5), WIDTH // HEADS
  q, k, v = ((y @ layer["attention"][name]["kernel"]).reshape(-1, HEADS, size) for name in "qkv")
  mixed = np.zeros_like(q)
  for h in range(HEADS):
    turn = lambda z, h=h: np.stack([_turned(row, i) for i, row in enumerate(z[:, h])])
    mixed[:, h] = _softmax(turn(q) @ turn(k).T / np.sqrt(size)) @ v[:, h]
  x = x + mixed.reshape(len(x), -1) @ layer["attention"]["o"]["kernel"]
  y = _norm(x, layer["mlp_norm"]["scale"], 1e-5)
  gate, up = (y @ layer["mlp"][name]["kernel"] for name in ("gate", "up"))
  x = x + gate / (1 + np.exp(-gate)) * up @ layer["mlp"]["down"]["kernel"]
  return states + _norm(x, own["block"]["final_norm"]["scale"], 1e-5)


def test_a_step_is_the_formula_of_the_paper():
  found = jax.jit(HEAD.step)(OWN, MODEL, STATES, TOKENS)
  for row in range(2):
    np.testing.assert_allclose(found[row], _expected(STATES[row], TOKENS[row]), atol=2e-5)
  logits = np.asarray(HEAD.logits(MODEL, found))
  kernel = np.asarray(MODEL["lm_head"]["kernel"])
  np.testing.assert_allclose(np.delete(logits, MASK_ID, axis=2),
                             np.delete(np.asarray(found) @ kernel, MASK_ID, axis=2), atol=1e-5)
  assert np.all(logits[..., MASK_ID] < -1e29)


def test_padding_is_not_seen():
  segments, positions = np.array([[0, 0, 1, 1, 1]] * 2), np.array([[0, 0, 0, 1, 2]] * 2)
  found = jax.jit(HEAD.step)(OWN, MODEL, STATES, TOKENS, positions, segments)
  for row in range(2):
    np.testing.assert_allclose(found[row, 2:], _expected(STATES[row, 2:], TOKENS[row, 2:]), atol=2e-5)


@pytest.mark.parametrize("fields", tiny.mostly_slow([
    {}, dict(norm="layer", mlp="gelu", position="learned", embed_width=4, head_transform=True,
             dtype="bfloat16", scan_layers=True)], [{}]))
@pytest.mark.slow
def test_a_new_head_changes_nothing(fields):
  network = _network(**fields)
  head = drafter.Head(network, MASK_ID)
  states = jnp.asarray(STATES, fields.get("dtype", "float32"))
  own, model = jax.jit(head.part.init)(rng.root(0)), _random(types.Part(network.init))
  step = jax.jit(head.step)
  np.testing.assert_array_equal(step(own, model, states, TOKENS), states)
  shapes = tree.flatten(jax.eval_shape(head.part.init, rng.root(0)))
  assert not any("embed" in path for path in shapes)  # the tables are the model's
  for path, leaf in shapes.items():
    assert len(head.part.axes(path, leaf.shape)) == len(leaf.shape)
  # And learns from the first step on: the last norm has a gradient.
  loss = lambda own: step(own, model, states, TOKENS).astype(jnp.float32)[..., 0].sum()
  assert jnp.abs(jax.jit(jax.grad(loss))(own)["block"]["final_norm"]["scale"]).max() > 1e-3


def test_a_head_of_another_width_or_vocabulary_is_refused():
  other = drafter.Head(_network(width=16), MASK_ID)
  with pytest.raises(ValueError, match="reads states of width 16 and the model has states of width 8"):
    other.check(OWN, jnp.asarray(STATES))
  with pytest.raises(ValueError, match="reads states of width 8 and the model gives none; use"):
    HEAD.check(OWN, None)
  with pytest.raises(ValueError, match=r"\(1, 12, 8\) at .*model needs \(1, 16, 8\).*another width"):
    drafter.Head(_network(mlp_width=16), MASK_ID).check(OWN, jnp.asarray(STATES))
  with pytest.raises(ValueError, match="draws from 7 ids and the model from 9; use the model"):
    HEAD.check_logits(jnp.zeros((1, 2, 9)))
  HEAD.check(OWN, jnp.asarray(STATES))
  HEAD.check_logits(jnp.zeros((1, 2, 7)))


@pytest.mark.parametrize("network", [_network(post_norm=True), oracle.random_joint().network()])
def test_a_network_without_a_block_to_copy_is_refused(network):
  with pytest.raises(ValueError, match="copies a block of the model .*; use a transformer without"):
    drafter.Head(network, MASK_ID)
