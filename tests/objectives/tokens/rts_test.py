"""Random token substitution, plain and by clusters, and swapped language modelling.

Reference: Di Liello et al. 2022, arXiv:2210.13815.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.configs import slm
from mdx.corruption import replace as replace_lib
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import rts
from mdx.utils import rng

import encoder_nets as nets
import oracle

NETWORK = nets.network()
GROUPS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def _rts(cls=rts.ReplacedTokens, **fields):
  return cls(network=NETWORK, mask_id=nets.MASK_ID, **{"mask_rate": 0.15, **fields})


def test_the_label_is_that_a_token_was_selected_even_if_it_stayed():
  rows, weights = nets.prepare(_rts(), nets.batch(3000))
  allowed, replaced = np.asarray(rows["loss_mask"]), np.asarray(rows["is_replaced"])
  assert abs(oracle.z_score(replaced[allowed], 0.15)) < 4 and not replaced[~allowed].any()
  changed = np.asarray(rows["noisy_tokens"] != rows["tokens"])
  assert not changed[~replaced].any()
  assert abs(oracle.z_score(changed[replaced], 1 - 1 / (nets.VOCAB - 1))) < 4
  assert weights["rtd"] == allowed.sum()
  counts = np.bincount(np.asarray(rows["noisy_tokens"])[replaced], minlength=nets.VOCAB)
  assert counts[nets.MASK_ID] == 0
  assert oracle.chi_square(np.delete(counts, nets.MASK_ID), np.ones(nets.VOCAB - 1)) > 1e-4


@pytest.mark.slow
def test_special_tokens_are_not_scored():
  objective = _rts()
  rows, weights = nets.prepare(objective, nets.batch(8))
  params = objective.init(rng.root(0))
  totals, aux = jax.jit(objective)(params, rows, nets.CONTEXT)
  hidden = objective.encode(NETWORK, params["model"], rows["noisy_tokens"], rows)
  scores = np.asarray(NETWORK.head(params["model"], hidden, "rtd"), np.float64)
  sign = np.where(rows["is_replaced"], -1, 1)
  expected = np.log1p(np.exp(sign * scores)) * np.asarray(rows["loss_mask"])
  np.testing.assert_allclose(totals["rtd"], expected.sum(), rtol=1e-5)
  np.testing.assert_allclose(aux.rows["nll"], expected.sum(axis=1), rtol=1e-5)
  assert aux.rows["count"].sum() == weights["rtd"] and aux.state == {}


@pytest.mark.slow
def test_clusters_are_drawn_by_the_confusions_and_members_uniformly():
  clusters = replace_lib.Clusters.of(GROUPS, [nets.MASK_ID, 6, 7, 8])  # cluster 2 has no member
  confusion = jnp.array([[1.0, 3.0, 9.0, 2.0], [1, 1, 1, 1], [0, 0, 0, 5], [-4, 0, 0, 24]])
  law = np.asarray(replace_lib.cluster_probs(confusion, 2.0, clusters.size))
  np.testing.assert_allclose(law.sum(axis=1), 1, rtol=1e-6)
  assert (law[:, 2] == 0).all()
  np.testing.assert_allclose(law[1], [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
  shares = np.exp(2.0 * (np.array([1.0, 3.0, 2.0]) - 1) / 8)  # scaled within the row
  np.testing.assert_allclose(law[0, [0, 1, 3]], shares / shares.sum(), rtol=1e-5)
  tokens = jnp.full((4000, 5), 1)
  drawn = np.asarray(replace_lib.from_clusters(
      rng.per_example(rng.root(3), jnp.arange(4000)), tokens, clusters, jnp.asarray(law)))
  expected = np.zeros(nets.VOCAB)
  for b, members in ((0, [0, 1, 2]), (1, [3, 4]), (3, [9, 10, 11, 12])):
    expected[members] = law[0, b] / len(members)
  counts = np.bincount(drawn.ravel(), minlength=nets.VOCAB)
  assert counts[expected == 0].sum() == 0
  assert oracle.chi_square(counts[expected > 0], expected[expected > 0]) > 1e-4


def _clustered(tmp_path, **fields):
  path = tmp_path / "clusters.json"
  path.write_text(json.dumps({"of_token": GROUPS, "excluded": []}))
  return _rts(rts.ClusterReplacedTokens, clusters=str(path), **fields)


@pytest.mark.slow
@pytest.mark.parametrize("count_changed", [False, True])
def test_confusions_count_every_place_also_when_a_pair_comes_twice(tmp_path, count_changed):
  objective = _clustered(tmp_path, count_changed=count_changed)
  rows, _ = nets.prepare(objective, nets.batch(32), state=objective.init_state())
  params = objective.init(rng.root(0))
  _, aux = jax.jit(objective)(params, rows, nets.CONTEXT)
  hidden = objective.encode(NETWORK, params["model"], rows["noisy_tokens"], rows)
  wrong = np.asarray((NETWORK.head(params["model"], hidden, "rtd") > 0) != rows["is_replaced"])
  expected = np.zeros((4, 4))
  for row, place in np.argwhere(np.asarray(rows["loss_mask"])):
    if count_changed and not rows["is_replaced"][row, place]:
      continue
    pair = GROUPS[rows["tokens"][row, place]], GROUPS[rows["noisy_tokens"][row, place]]
    expected[pair] += 1 if wrong[row, place] else -1
  np.testing.assert_array_equal(aux.state["confusion"], expected)
  assert np.abs(expected).max() > 3  # pairs that come often


@pytest.mark.slow
def test_replacements_drift_to_the_pair_that_the_model_does_not_find(tmp_path):
  objective = _clustered(tmp_path, mask_rate=0.5)
  state = {"confusion": objective.init_state()["confusion"].at[0, 3].set(50.0)}
  share = []
  for known in (objective.init_state(), state):
    rows, _ = nets.prepare(objective, nets.batch(500), state=known)
    of_token = np.array(GROUPS)
    chosen = np.asarray(rows["is_replaced"]) & (of_token[rows["tokens"]] == 0)
    share.append((of_token[np.asarray(rows["noisy_tokens"])[chosen]] == 3).mean())
  law = np.exp([0, 0, 0, 2.0])
  assert share[0] == pytest.approx(1 / 4, abs=0.04)
  assert share[1] == pytest.approx(law[3] / law.sum(), abs=0.04)
  scored, _ = nets.prepare(objective, nets.batch(500))  # an evaluation has no state
  first, _ = nets.prepare(objective, nets.batch(500), state=objective.init_state())
  np.testing.assert_array_equal(scored["noisy_tokens"], first["noisy_tokens"])


def test_clusters_that_do_not_fit_are_refused(tmp_path):
  path = tmp_path / "c.json"
  path.write_text(json.dumps({"of_token": [0, 1], "excluded": []}))
  with pytest.raises(ValueError, match="is of 2 ids, the network has 13"):
    _rts(rts.ClusterReplacedTokens, clusters=str(path))
  path.write_text("{}")
  with pytest.raises(ValueError, match="cannot be read as clusters"):
    _rts(rts.ClusterReplacedTokens, clusters=str(path))
  assert len(_rts(rts.ClusterReplacedTokens, num_clusters=4).partition.size) == 4


def test_swapped_language_modelling_never_shows_a_mask():
  fields = slm.get_config().objective.to_dict()
  fields.pop("name")
  objective = mlm.MaskedLM(network=nets.network("lm"), mask_id=nets.MASK_ID, **fields)
  rows, weights = nets.prepare(objective, nets.batch(500))
  assert not (rows["noisy_tokens"] == nets.MASK_ID).any()
  changed = np.asarray(rows["noisy_tokens"] != rows["tokens"])
  assert not changed[~np.asarray(rows["is_target"])].any()
  assert abs(oracle.z_score(changed[np.asarray(rows["is_target"])], 11 / 12)) < 4
  assert weights["mlm"] == rows["is_target"].sum()
