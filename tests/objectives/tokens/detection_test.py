"""Detection of replaced tokens: its loss and its figures against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.objectives.tokens import detection

NETWORK = types.Network(None, None, lambda params, hidden, name: hidden[..., 0] * params, 1)
_DRAW = np.random.default_rng(0)
HIDDEN = jnp.asarray(_DRAW.normal(size=(4, 9, 1)), jnp.float32)
REPLACED, COUNTED = (jnp.asarray(_DRAW.random((4, 9)) < rate) for rate in (0.3, 0.8))


@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_the_loss_counts_the_decisions_that_count(offset):
  nats, is_wrong, metrics = jax.jit(lambda: detection.losses(
      NETWORK, 2.0, HIDDEN, REPLACED, COUNTED, offset))()
  scores = 2 * np.asarray(HIDDEN, np.float64)[..., 0] + offset
  one = np.log1p(np.exp(np.where(REPLACED, -scores, scores)))
  np.testing.assert_allclose(nats, (one * COUNTED).sum(axis=1), rtol=1e-5)
  np.testing.assert_array_equal(is_wrong, (scores > 0) != REPLACED)
  ratio = lambda name: float(metrics[name][0] / metrics[name][1])
  assert ratio("rtd_nats") == pytest.approx(one[COUNTED].mean(), rel=1e-5)
  assert ratio("rtd_accuracy") == pytest.approx(((scores > 0) == REPLACED)[COUNTED].mean())
  assert ratio("replaced_rate") == pytest.approx(np.asarray(REPLACED)[COUNTED].mean())


def test_the_area_is_that_of_all_pairs_and_ties_count_half():
  scores = jnp.asarray(_DRAW.integers(-12, 12, (4, 9)), jnp.float32)  # some beyond the bins
  right, pairs = detection.auc(scores, REPLACED, COUNTED)
  positive, negative = (np.clip(np.asarray(scores)[COUNTED & chosen], -8, 7.9)
                        for chosen in (REPLACED, ~REPLACED))
  gap = positive[:, None] - negative[None]
  assert pairs == gap.size and right == (gap > 0).sum() + (gap == 0).sum() / 2
