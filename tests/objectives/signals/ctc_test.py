"""Recognition of transcripts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import types
from mdx.build import setup as setup_lib
from mdx.networks import frontends
from mdx.networks import transformer
from mdx.objectives.signals import ctc
from mdx.utils import rng

_BLANK = 2


@pytest.fixture(scope="module", name="scored")
def _scored():
  network = transformer.Transformer(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=3,
                                    head="none").network()
  objective = ctc.CTC(network=network, vocab_size=3, blank=_BLANK, init_std=3.0,
                      frontend=frontends.Subsampling(width=8, num_inputs=3, channels=2,
                                                     strides=(1,)))
  params = objective.init(rng.root(0))
  real = jnp.arange(4)[None] < jnp.array([[4], [3], [2]])
  batch = {"frames": jax.random.normal(rng.root(1), (3, 4, 3)), "frame_mask": real,
           "segment_ids": real.astype(jnp.int32), "example_index": jnp.arange(3),
           "positions": jnp.tile(jnp.arange(4)[None], (3, 1)),
           "transcript": jnp.array([[0, 1, _BLANK], [0, 0, _BLANK], [1, 1, _BLANK]])}
  context = types.context(0)
  batch, weights = objective.prepare(params, batch, rng.root(2), context)
  logits = objective.logits(params, batch)[0]
  return weights, np.asarray(logits), objective(params, batch, context), objective.confidence(
      params, batch)


def test_the_loss_is_the_sum_over_all_alignments(scored):
  weights, logits, (totals, aux), confidence = scored
  probs = np.exp(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
  nats = []
  for row, (length, wanted) in enumerate(((4, [0, 1]), (3, [0, 0]))):
    total = 0.0
    for path in itertools.product(range(3), repeat=length):
      if ctc.greedy(np.array([path]), np.ones((1, length), bool), _BLANK)[0] == wanted:
        total += np.prod([probs[row, t, label] for t, label in enumerate(path)])
    nats.append(-np.log(total))
  np.testing.assert_allclose(aux.rows["nll"][:2], nats, rtol=1e-4)
  # "bb" needs three states and the last row has two.
  assert aux.rows["nll"][2] == 0 and float(aux.metrics["unalignable"][0]) == 1
  assert float(totals["ctc"]) == pytest.approx(sum(nats), rel=1e-4) and weights["ctc"] == 4
  np.testing.assert_allclose(confidence, probs[..., :_BLANK].max(axis=-1), atol=1e-5)


def test_the_best_path_merges_repetitions_before_it_drops_blanks():
  ids = np.array([[0, 0, 2, 0, 1, 1, 2, 2], [2, 2, 2, 2, 0, 0, 0, 0]])
  real = np.arange(8)[None] < np.array([[8], [4]])
  assert ctc.greedy(ids, real, _BLANK) == [[0, 0, 1], []]


def test_data_without_transcripts_and_words_outside_the_alphabet_are_one_line(tmp_path):
  with pytest.raises(ValueError, match="learns transcripts; set data.layout"):
    setup_lib.setup(tiny.config("ctc", data__transcript_length=0), str(tmp_path / "run"))
  with pytest.raises(ValueError, match="a transcript of 5 tokens, more than .* 4; raise it"):
    setup_lib.setup(tiny.config("ctc", data__transcript_length=4), str(tmp_path / "run"))
  with pytest.raises(ValueError, match="digits.npz: 'zero' does not begin with one of the 2") as error:
    setup_lib.setup(tiny.config("ctc", tokenizer__path="symbols:a b"), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
