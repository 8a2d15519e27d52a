"""The network of learned unmasking sees the answer's positions, and of open ones the confidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import scorer
from mdx.utils import rng
from mdx.utils import tree

SCORER = scorer.Scorer(width=8, num_heads=2)
DRAW = np.random.default_rng(0)
PARAMS = jax.tree.map(lambda x: x + jnp.asarray(0.5 * DRAW.normal(size=x.shape), jnp.float32),
                      SCORER.part().init(rng.root(0)))
KIND = np.array([[0, 1, 1, 2, 1, 2]] * 2)
CONFIDENCE = DRAW.uniform(size=KIND.shape).astype(np.float32)
SEEN = np.ones(KIND.shape, bool)


@jax.jit
def _scores(kind, confidence, is_seen, time=jnp.zeros(2), alpha=jnp.ones(2)):
  return SCORER.scores(PARAMS, kind=kind, confidence=confidence, is_seen=is_seen, time=time,
                       alpha=alpha)


@pytest.mark.slow
def test_a_score_depends_on_what_is_seen_and_on_nothing_else():
  plain = _scores(KIND, CONFIDENCE, SEEN)
  differs = lambda *args, **more: np.abs(_scores(*args, **more) - plain).max(axis=1) > 1e-4
  other = CONFIDENCE.copy()
  other[:, [0, 3, 5]] = 0.5  # committed and waiting positions have no confidence
  assert not differs(KIND, other, SEEN).any()
  other[0, 2] = 0.5
  assert differs(KIND, other, SEEN).tolist() == [True, False]
  assert differs(KIND, CONFIDENCE, SEEN, time=jnp.array([0.5, 0.0])).tolist() == [True, False]
  assert differs(KIND, CONFIDENCE, SEEN, alpha=jnp.array([1.0, 3.0])).tolist() == [False, True]
  kind = KIND.copy()
  kind[1, 5] = 0
  assert differs(kind, CONFIDENCE, SEEN).tolist() == [False, True]


def test_positions_around_an_answer_change_no_score():
  pad = lambda x, value: np.pad(x, ((0, 0), (3, 2)), constant_values=value)
  wider = _scores(pad(KIND, 1), pad(CONFIDENCE, 0.9), pad(SEEN, False))
  np.testing.assert_allclose(wider[:, 3:9], _scores(KIND, CONFIDENCE, SEEN), atol=1e-5)


@pytest.mark.slow
def test_a_new_policy_writes_a_position_with_probability_about_an_eighth():
  network = scorer.Scorer()
  params = network.part().init(rng.root(1))
  scores = network.scores(params, kind=KIND, confidence=CONFIDENCE, is_seen=SEEN, time=jnp.zeros(2),
                         alpha=jnp.ones(2))
  assert 0.07 < float(jax.nn.sigmoid(scores).mean()) < 0.2
  assert not any(x.weak_type for x in jax.tree.leaves(params))
  assert 2e5 < tree.count(params) < 4e5  # 0.33M are published
