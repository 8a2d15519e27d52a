"""From causal to diffusion: the loss is that of diffusion, attention opens with the step.

Reference: Gong et al. 2025, arXiv:2410.17891.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives.diffusion import adapt
from mdx.objectives.diffusion import masked as diffusion
from mdx.train import step as step_lib
from mdx.utils import rng

NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=11,
                                  init_std=0.5, scan_layers=False).network()
FIELDS = {"mask_draw": "exact_count"}
DIFFUSION = diffusion.MaskedDiffusion(network=NETWORK, mask_id=10, **FIELDS)
ADAPT = adapt.Adaptation(network=NETWORK, mask_id=10, anneal_steps=100, diffusion=FIELDS)
PARAMS = {"model": NETWORK.init(rng.root(1))}
BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 10, (8, 12)), jnp.int32),
         "example_index": jnp.arange(8, dtype=jnp.int32)}


def _context(step):
  return types.context(step)


@functools.partial(jax.jit, static_argnums=0)
def _rows(objective, step, seed=0):
  batch, weights = objective.prepare(PARAMS, BATCH, rng.stream(rng.root(0), "train", seed),
                                     types.context(step))
  totals, aux = objective(PARAMS, batch, types.context(step))
  return totals["elbo"] / weights["elbo"], aux.rows["nll"]


class _Hashed:
  """An objective as a static argument of jit: the same object is the same program."""

  def __init__(self, objective):
    self.prepare, self.call = objective.prepare, objective

  def __call__(self, *args):
    return self.call(*args)


_PLAIN, _ADAPT = _Hashed(DIFFUSION), _Hashed(ADAPT)


@pytest.mark.slow
def test_after_the_annealing_the_loss_is_that_of_diffusion():
  for step in (100, 10**6):
    for found, expected in zip(_rows(_ADAPT, step), _rows(_PLAIN, step)):
      np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert not np.allclose(_rows(_ADAPT, 50)[1], _rows(_PLAIN, 50)[1], rtol=1e-3)


@pytest.mark.slow
def test_at_step_0_no_token_is_predicted_from_what_follows():
  batch, _ = ADAPT.prepare(PARAMS, BATCH, rng.root(0), _context(0))
  seen = {}

  def encode(params, inputs, *, attention, **options):
    seen["mask"] = attention_lib.visible(attention, jnp.arange(12)[None], None)
    return types.Hidden(jnp.zeros(inputs.tokens.shape + (16,)))

  spied = dataclasses.replace(ADAPT, network=NETWORK._replace(encode=encode))
  for step, low, high in ((0, 0, 0), (50, 20, 46), (100, 66, 66)):
    spied(PARAMS, batch, _context(step))
    future = np.asarray(seen["mask"])[0, 0][np.triu_indices(12, 1)]
    assert low <= future.sum() <= high and seen["mask"].shape[0] == 1  # one for the whole batch


@pytest.mark.slow
def test_microbatches_have_the_attention_of_their_step_and_each_step_its_own():
  def loss(num):
    def run(params):
      batch, weights = ADAPT.prepare(params, BATCH, rng.root(3), _context(40))
      return step_lib.loss_and_grad(ADAPT, params, batch, weights, _context(40), num)[0]
    return float(jax.jit(run)(PARAMS))

  assert loss(1) == pytest.approx(loss(4), rel=1e-5)
  prepare = jax.jit(lambda step: ADAPT.prepare(
      PARAMS, BATCH, rng.stream(rng.root(0), "train", step), _context(0))[0]["anneal_key"])
  keys = [np.asarray(prepare(step)) for step in (1, 2, 1)]
  assert (keys[0] == keys[0][0]).all() and not (keys[0] == keys[1]).all()
  np.testing.assert_array_equal(keys[0], keys[2])


@pytest.mark.slow
def test_sampling_has_full_attention_whatever_the_step():
  request = types.Request(BATCH["tokens"].at[:, 4:].set(10), jnp.ones(8))
  np.testing.assert_array_equal(ADAPT.reader().answer(PARAMS, request).logits, DIFFUSION.answer(PARAMS, request).logits)
  assert ADAPT.visibility == attention_lib.Full() and ADAPT.scales == DIFFUSION.scales


def test_wrong_fields_are_refused():
  with pytest.raises(ValueError, match="objective.anneal_steps must be at least 0, got -1"):
    dataclasses.replace(ADAPT, anneal_steps=-1)
  with pytest.raises(ValueError, match="no field 'tme'.*Did you mean 'time'"):
    dataclasses.replace(ADAPT, diffusion={"tme": "lattice"})
