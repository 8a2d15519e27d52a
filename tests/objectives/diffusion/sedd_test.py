"""SEDD: the score entropy of the paper, and its equality with masked diffusion.

References: Lou et al. 2023, arXiv:2310.16834; Ou et al. 2024, arXiv:2406.03736 (RADD).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.diffusion import sedd

import enumerated
import tiny

JOINT, TOKENS = enumerated.JOINT, enumerated.JOINT.sequences[17]
SCALE = float(np.log(JOINT.vocab_size - 1))


def _network(shift=0.0):
  """The oracle, its logits raised by a constant."""
  network = JOINT.network()
  return network._replace(head=lambda *args: network.head(*args) + shift)


def _sedd(shift=0.0, **fields):
  return sedd.SEDD(network=_network(shift), mask_id=JOINT.mask_id, **fields)


def _plain(**fields):
  return diffusion.MaskedDiffusion(network=_network(), mask_id=JOINT.mask_id, **fields)


@pytest.mark.parametrize("fields", tiny.first([
    {}, {"schedule": {"name": "cosine", "eps": 0.01}}, {"num_steps": 8}], 1))
def test_scores_that_are_a_posterior_cost_what_masked_diffusion_costs(fields):
  times = [0.125, 0.5, 1.0]
  wanted, _ = enumerated.rows(_plain(**fields), TOKENS, times)
  for objective in (_sedd(SCALE, **fields), _sedd(0.0, score="posterior", **fields)):
    np.testing.assert_allclose(enumerated.rows(objective, TOKENS, times)[0], wanted, rtol=1e-5,
                               atol=1e-5)


def test_the_expected_score_entropy_of_the_true_scores_is_the_nll():
  nodes, weights = np.polynomial.legendre.leggauss(32)
  nodes, weights = (nodes + 1) / 2, weights / 2
  bound = enumerated.expected(_sedd(SCALE, schedule={"name": "linear", "eps": 0.0}), TOKENS, nodes)
  np.testing.assert_allclose(weights @ bound, JOINT.nll[17], rtol=1e-4)


@pytest.mark.parametrize("shift", [-0.7, 0.4])
def test_a_cost_is_the_formula_of_the_paper(shift):
  times, name = np.array([0.25, 0.75]), "polynomial"
  objective = _sedd(SCALE + shift, schedule={"name": name, "power": 2.0, "eps": 0.0})
  found, _ = enumerated.rows(objective, TOKENS, times)
  probs = JOINT.conditionals(np.where(enumerated.MASKS, JOINT.mask_id, TOKENS))
  for t, values in zip(times, found):
    alpha, slope = 1 - t ** 2, -2 * t
    ratio = alpha / (1 - alpha)
    scores = ratio * np.exp(shift) * probs
    true = scores[:, np.arange(4), TOKENS]
    cost = scores.sum(-1) - ratio * np.log(true) + ratio * (np.log(ratio) - 1)
    wanted = -slope / alpha * (cost * enumerated.MASKS).sum(axis=1)
    np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
  exact, _ = enumerated.rows(_plain(schedule=objective.schedule), TOKENS, times)
  count = enumerated.MASKS.sum(axis=1)
  excess = (2 / times)[:, None] * count * (np.exp(shift) - 1 - shift)
  np.testing.assert_allclose(found - exact, excess, rtol=1e-3, atol=1e-4)


def test_what_is_no_score_is_refused():
  with pytest.raises(ValueError, match="sedd has no score of the mask itself"):
    _sedd(mask_column=True)
  with pytest.raises(ValueError, match="sedd has no prediction of clean tokens"):
    _sedd(carry_over=False)
  with pytest.raises(ValueError, match="objective.score is 'both'; choose from free, posterior"):
    _sedd(score="both")


@pytest.mark.slow
def test_gradients_are_finite_and_those_of_cross_entropy_at_a_posterior():
  batch = enumerated.oracle.batch_of(JOINT, JOINT.sequences[:8])
  prepared, _ = _plain().prepare({}, batch, jax.random.key(0), enumerated.CONTEXT)

  def loss(logits, make):
    network = _network()._replace(encode=lambda *a, **k: types.Hidden(logits),
                                  head=lambda p, h, n: h)
    return make(network)(enumerated.PARAMS, prepared, enumerated.CONTEXT)[0]["elbo"]

  logits = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, JOINT.vocab_size)), jnp.float32)
  logits = logits.at[..., JOINT.mask_id].set(-1e30)
  logits = jax.nn.log_softmax(logits) + SCALE
  found, wanted = (jax.jit(jax.grad(lambda x, kind=kind: loss(x, lambda n: kind(
      network=n, mask_id=JOINT.mask_id))))(logits) for kind in (
          sedd.SEDD, diffusion.MaskedDiffusion))
  np.testing.assert_allclose(found, wanted, atol=1e-4)
