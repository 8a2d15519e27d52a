"""Uniform-state diffusion: the bound against its formula in float64 and on a known joint.

References: Austin et al. 2021, arXiv:2107.03006; Sahoo et al. 2025, arXiv:2506.10892 (Duo).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.objectives import joint_head
from mdx.objectives.diffusion import uniform
from mdx.utils import rng

import enumerated
import oracle

JOINT = oracle.random_joint(seed=1, length=2)
NOISES = np.array(list(itertools.product((0, 2, 3, 4), repeat=2)))  # all ids but the mask
NUM_TOKENS = 4
EXACT = {"name": "linear", "eps": 0.0}


def _oracle():
  """log p(x_i | the other noisy tokens) at the time of a row, for the linear schedule."""
  one_hot = np.eye(5)[JOINT.sequences].astype(np.float32)

  def encode(params, inputs, *, attention, time=None, noise=None):
    del params, attention, noise
    alpha = (1 - time)[:, None, None]
    same = inputs.tokens[:, None] == jnp.asarray(JOINT.sequences)[None]
    likelihood = alpha * same + (1 - alpha) / NUM_TOKENS
    others = likelihood[..., ::-1]  # of two tokens
    mass = jnp.einsum("bnl,n,nlv->blv", others, jnp.asarray(JOINT.probs, jnp.float32), one_hot)
    logits = jnp.log(jnp.maximum(mass / mass.sum(axis=-1, keepdims=True), 1e-30))
    return types.Hidden(jnp.where(jnp.arange(5) == JOINT.mask_id, 5.0, logits))

  return JOINT.network()._replace(encode=encode, reads_time=True)


def _objective(network=None, **fields):
  return uniform.UniformDiffusion(network=network or _oracle(), mask_id=JOINT.mask_id, **fields)


def _fixed(logits):
  """A network that says the same at every position of a row, whatever it reads."""
  return types.Network(
      lambda key: {"unused": jnp.zeros(())},
      lambda params, inputs, **rest: types.Hidden(
          jnp.broadcast_to(logits, (*inputs.tokens.shape, logits.shape[-1]))),
      lambda params, hidden, name: hidden, logits.shape[-1])


def _score(objective, batch):
  prepared, _ = objective.prepare({}, batch, rng.root(0), enumerated.CONTEXT)
  return objective(enumerated.PARAMS, prepared, enumerated.CONTEXT)


def test_the_mean_bound_of_the_true_conditionals_is_the_entropy():
  nodes, shares = np.polynomial.legendre.leggauss(24)
  nodes, shares = (nodes + 1) / 2, shares / 2
  times, shares = nodes ** 2, 2 * nodes * shares
  index, noise, node = (x.ravel() for x in np.meshgrid(
      np.arange(9), np.arange(16), np.arange(24), indexing="ij"))
  batch = oracle.batch_of(JOINT, JOINT.sequences[index]) | {
      "noisy_tokens": jnp.asarray(NOISES[noise], jnp.int32),
      "time": jnp.asarray(times[node], jnp.float32)}
  nll = np.asarray(jax.jit(lambda b: _score(_objective(schedule=EXACT), b)[1].rows["nll"])(batch))
  same = NOISES[noise] == JOINT.sequences[index]
  alpha = 1 - times[node][:, None]
  law = (alpha * same + (1 - alpha) / NUM_TOKENS).prod(axis=1)
  mean = (JOINT.probs[index] * law * shares[node] * nll).sum()
  entropy = JOINT.probs @ JOINT.nll
  np.testing.assert_allclose(mean, entropy, rtol=2e-4)


def test_the_cost_is_the_formula_at_every_time():
  draw = np.random.default_rng(0)
  logits = jnp.asarray(draw.normal(size=6) * 3, jnp.float32)  # mask_id 1, five tokens
  probs = np.exp(np.asarray(logits, np.float64)) * (np.arange(6) != 1)
  probs /= probs.sum()
  times = np.array([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99, 0.999])
  objective = uniform.UniformDiffusion(network=_fixed(logits), mask_id=1, schedule=EXACT)
  pairs = np.array([(x, z, t) for x in (0, 4) for z in (0, 4, 5) for t in times])
  clean, noisy, time = pairs[:, 0].astype(int), pairs[:, 1].astype(int), pairs[:, 2]
  batch = {"tokens": jnp.asarray(clean[:, None]), "noisy_tokens": jnp.asarray(noisy[:, None]),
           "time": jnp.asarray(time, jnp.float32), "example_index": jnp.arange(len(time))}
  found = jax.jit(lambda b: _score(objective, b)[1].rows["nll"])(batch)
  wanted = []
  for x, z, t in zip(clean, noisy, np.asarray(batch["time"], np.float64)):
    true, model = (((1 - t) * p + t / 5)[np.arange(6) != 1] for p in (np.eye(6)[x], probs))
    ratio = true / model
    at = z - (z > 1)
    braces = (true * np.log(ratio)).sum() + ratio[at] - 1 - np.log(ratio[at])
    wanted.append(braces / (5 * (1 - t) * true[at]))
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
  gradient = jax.grad(lambda x: _score(uniform.UniformDiffusion(
      network=_fixed(x), mask_id=1, schedule=EXACT), batch | {
          "time": jnp.linspace(1e-6, 1, len(time))})[0]["elbo"])(logits)
  assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_noise_is_uniform_over_all_ids_but_the_mask_and_spares_the_prompt():
  num = 4000
  batch = {"tokens": jnp.full((num, 3), 2), "example_index": jnp.arange(num),
           "loss_mask": jnp.tile(jnp.array([False, True, True]), (num, 1)),
           "time": jnp.full(num, 0.6)}
  drawn, weights = jax.jit(lambda b: _objective(schedule=EXACT).prepare(
      {}, b, rng.root(0), enumerated.CONTEXT))(batch)
  noisy = np.asarray(drawn["noisy_tokens"])
  assert np.all(noisy[:, 0] == 2) and weights["elbo"] == 2 * num
  counts = np.bincount(noisy[:, 1:].ravel(), minlength=5)
  assert oracle.chi_square(counts[[0, 2, 3, 4]], np.array([0.15, 0.55, 0.15, 0.15])) > 1e-4
  assert counts[1] == 0


def test_the_channel_at_time_0_is_charged():
  objective, exact = (_objective(schedule={"name": "linear", "eps": eps}) for eps in (0.1, 0.0))
  each = 0.1 / NUM_TOKENS
  wanted = -(0.9 + each) * np.log(0.9 + each) - 3 * each * np.log(each)
  np.testing.assert_allclose(objective._first_nats, wanted)  # pylint: disable=protected-access
  assert exact._first_nats == 0  # pylint: disable=protected-access


def test_what_needs_masks_is_refused():
  objective = _objective()
  with pytest.raises(ValueError, match="lattice_k draws exact counts of masks"):
    objective.bound("lattice_k")
  assert objective.bound("exact") is None and objective.bound("stratified") is objective
  with pytest.raises(ValueError, match="knows no masks; it is decoded by sampler.name=uniform"):
    samplers.build(dict(name="confidence"), objective, mask_id=1)
  with pytest.raises(ValueError, match="fills no masks"):
    joint_head.JointHead(model=objective, mask_id=1)
  with pytest.raises(ValueError, match="objective.time is 'even'"):
    _objective(time="even")
