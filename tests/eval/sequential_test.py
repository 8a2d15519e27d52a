"""Likelihood under decoding one position a call, of a joint that is known."""

import jax
import numpy as np
import pytest

from mdx.eval import sequential
from mdx.objectives.diffusion import masked as diffusion

import driving
import oracle


def test_of_an_exact_model_it_is_the_likelihood():
  law = oracle.random_joint()
  objective = diffusion.MaskedDiffusion(network=law.network(), mask_id=law.mask_id)
  found = jax.jit(lambda rows: sequential.nll(objective, {"model": {}}, rows, law.mask_id))(
      law.sequences)
  np.testing.assert_allclose(found, law.nll, atol=1e-4)


@pytest.mark.slow
def test_of_any_model_it_sums_to_one_over_all_texts():
  objective, params = driving.model()
  texts = np.indices((6,) * 3).reshape(3, -1).T + 1  # ids without the mask
  found = jax.jit(lambda rows: sequential.nll(objective, params, rows, driving.MASK_ID))(
      texts.astype(np.int32))
  assert np.exp(-np.asarray(found, np.float64)).sum() == pytest.approx(1, abs=1e-4)
