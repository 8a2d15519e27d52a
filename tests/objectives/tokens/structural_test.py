"""Structural objectives: what each head decides, and how the two losses go together.

References: Di Liello et al. 2022, arXiv:2205.10455 and arXiv:2205.01228.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import rts
from mdx.objectives.tokens import structural
from mdx.utils import rng

import encoder_nets as nets

NETWORK = nets.network("lm", token_types=4)
TOKEN = mlm.MaskedLM(network=NETWORK, mask_id=nets.MASK_ID, mask_rate=0.3)
K, SLOT = 3, 4


def _rows(num_rows, k=1, seed=0):
  """Rows of a premise with k candidates, labels 1 and 2 at random."""
  rows, draw = nets.batch(num_rows, 12 if k == 1 else SLOT * (k + 1), seed, padding=0), (
      np.random.default_rng(seed))
  length = rows["tokens"].shape[1]
  labels = np.zeros((num_rows, length), np.int32)
  places = [0] if k == 1 else [SLOT * (i + 1) for i in range(k)]
  labels[:, places] = draw.integers(1, 3, (num_rows, len(places)))
  part = np.arange(length) // SLOT if k > 1 else np.arange(length) // 6
  return rows | {"labels": jnp.asarray(labels),
                 "token_types": jnp.broadcast_to(jnp.asarray(part, jnp.int32), labels.shape),
                 "positions": jnp.broadcast_to(jnp.arange(length), labels.shape)}


@pytest.mark.slow
def test_the_loss_is_that_of_the_token_objective_and_one_of_the_pairs():
  objective = structural.Structural(token=TOKEN, pair_weight=0.5)
  params, rows = objective.init(rng.root(1)), _rows(8)
  prepared, weights = nets.prepare(objective, rows)
  totals, aux = jax.jit(objective)(params, prepared, nets.CONTEXT)
  alone, token_weights = nets.prepare(TOKEN, rows)
  np.testing.assert_array_equal(prepared["noisy_tokens"], alone["noisy_tokens"])
  np.testing.assert_allclose(totals["mlm"], TOKEN(params, alone, nets.CONTEXT)[0]["mlm"], rtol=1e-5)
  assert weights == {"mlm": token_weights["mlm"], "pair": 8}
  assert objective.scales == {"mlm": 1.0, "pair": 0.5}
  hidden = NETWORK.encode(params["model"], reading.inputs_of(rows, prepared["noisy_tokens"]),
                          attention=attention_lib.Full()).last
  pair = jax.tree.map(np.asarray, params["pair"])
  scores = (np.tanh(hidden[:, 0] @ pair["in"]["kernel"] + pair["in"]["bias"][None])
            @ pair["out"]["kernel"])[:, 0]
  sign = np.where(rows["labels"][:, 0] == 2, -1, 1)
  np.testing.assert_allclose(aux.rows["nll"], np.log1p(np.exp(sign * scores)), rtol=1e-4)
  np.testing.assert_allclose(totals["pair"], aux.rows["nll"].sum(), rtol=1e-6)
  assert aux.metrics["pair_accuracy"][0] == (sign * scores < 0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ie_k", "ae_k", "re_k", "ie_1", "ae_1"])
def test_permuted_candidates_have_permuted_decisions(head):
  objective = structural.Structural(token=TOKEN, head=head, num_candidates=K)
  params = objective.init(rng.root(1))
  order = np.array([2, 0, 1])
  moved = np.concatenate([np.arange(SLOT), *(SLOT * (i + 1) + np.arange(SLOT) for i in order)])
  rows = _rows(4, K)
  inputs = reading.inputs_of(rows)._replace(segment_ids=None)
  encode = lambda inputs: NETWORK.encode(params["model"], inputs, attention=attention_lib.Full()).last
  hidden = encode(inputs)
  other = encode(jax.tree.map(lambda x: x[:, moved], inputs))
  plain, permuted = (structural.decisions(head, params["pair"], x, K) for x in (hidden, other))
  assert plain.shape == (4, 1 if head.endswith("_1") else K)
  if head in ("ie_k", "ae_k"):
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-4, atol=1e-5)
  else:  # the premise, or the sum, does not know the order; an output of re_k is of a slot
    np.testing.assert_allclose(permuted, plain, rtol=1e-4, atol=1e-5)
  # Every decision sees the other slots.
  far = rows["tokens"].at[:, SLOT + 1].add(1) % nets.VOCAB
  changed = structural.decisions(head, params["pair"], encode(inputs._replace(tokens=far)), K)
  assert (np.abs(np.asarray(changed - plain)) > 1e-6).all(axis=0).all()


def test_a_head_that_decides_once_asks_whether_any_candidate_is_right():
  objective = structural.Structural(token=TOKEN, head="ae_1", num_candidates=K)
  rows = _rows(20, K)
  labels, counted = objective._labels(rows)
  np.testing.assert_array_equal(labels[:, 0], (np.asarray(rows["labels"]) == 2).any(axis=1))
  assert counted.all() and labels.shape == (20, 1) and 0 < labels.sum() < 20


@pytest.mark.slow
def test_the_state_of_the_token_objective_is_kept():
  token = rts.ClusterReplacedTokens(network=nets.network(token_types=4), mask_id=nets.MASK_ID,
                                    num_clusters=3)
  objective = structural.Structural(token=token)
  rows, _ = nets.prepare(objective, _rows(8), state=objective.init_state())
  _, aux = jax.jit(objective)(objective.init(rng.root(0)), rows, nets.CONTEXT)
  assert aux.state["confusion"].shape == (3, 3) and "rtd_accuracy" in aux.metrics


@pytest.mark.parametrize("fields, message", [
    (dict(num_candidates=3), "head pair does not fit 3 candidates"),
    (dict(head="ae_k"), "head ae_k does not fit 1 candidates"),
    (dict(head="cls"), "choose from pair, ie_k"),
    (dict(pair_weight=-1), "pair_weight must be at least 0"),
    (dict(token=mlm.MaskedLM(network=NETWORK, mask_id=5, predict_rate=0.3)), "reads a row once")])
def test_what_does_not_go_together_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    structural.Structural(**{"token": TOKEN, **fields})


def test_rows_without_pairs_and_slots_that_do_not_fit_are_refused():
  objective = structural.Structural(token=TOKEN, head="ie_k", num_candidates=K)
  with pytest.raises(ValueError, match="data.length 14 is not divided by the 4 slots"):
    objective.check_length(14)
  with pytest.raises(ValueError, match="use data.source.name structure"):
    objective.prepare({}, nets.batch(2), rng.root(0), nets.CONTEXT)
