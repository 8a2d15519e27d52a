"""Sequence to sequence: the unrolled loss by hand, its gradient, the start, and its decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import samplers
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval.evaluators import refined
from mdx.networks import attention
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
SPEC = dict(num_layers=1, width=8, num_heads=2, mlp_width=8, max_length=8, vocab_size=7)
REAL = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5], bool)
TARGETS = jnp.where(REAL, jnp.array([[0, 1, 2, 3, 3], [3, 2, 0, 0, 0], [0] * 5]), TOKENIZER.pad_id)
ROWS = {"tokens": TARGETS, "loss_mask": REAL, "segment_ids": REAL.astype(jnp.int32),
        "positions": jnp.arange(5)[None] * REAL, "source": TARGETS[:, ::-1],
        "source_segment_ids": REAL[:, ::-1].astype(jnp.int32), "example_index": jnp.arange(3)}


def _build(context_width=8, **fields):
  network = transformer.Transformer(**SPEC, context_width=context_width).network()
  return objectives.build(dict(name="seq2seq", max_length=5) | fields, network, TOKENIZER)


@pytest.fixture(name="model", scope="module")
def _model():
  objective = _build()
  params = jax.jit(objective.init)(rng.root(0))
  out = params["model"]["layers"]["cross"]["out"]
  out["kernel"] = jax.random.normal(rng.root(4), out["kernel"].shape)
  batch, weights = objective.prepare(None, ROWS, rng.root(2), types.context(0))
  return objective, params, batch, weights


def _log_probs(objective, params, tokens, states, is_real):
  answer = objective.answer(params, types.Request(
      tokens, None, segment_ids=ROWS["segment_ids"], positions=ROWS["positions"], context=states,
      context_mask=is_real))
  return jax.nn.log_softmax(answer.logits)


def test_the_loss_is_that_of_the_corrupted_target_and_of_what_the_model_draws_of_it(model):
  objective, params, batch, weights = model
  assert weights == {"denoise": 12, "length": 2}

  def unrolled(params, drawn_by):
    states, is_real, lengths = objective.source_of(params, batch)
    first = _log_probs(objective, params, batch["noisy_tokens"], states, is_real)
    below = jnp.cumsum(jnp.exp(_log_probs(objective, drawn_by, batch["noisy_tokens"],
                                          *objective.source_of(drawn_by, batch)[:2])), axis=-1)
    drawn = (below < batch["uniforms"][:, 0, :, None] * (1 - 2.0 ** -18)).sum(axis=-1)
    second = _log_probs(objective, params, jnp.where(REAL, drawn, TARGETS), states, is_real)
    picked = jnp.take_along_axis(first + second, TARGETS[..., None], axis=-1)[..., 0]
    return -jnp.where(REAL, picked, 0).sum(), -(lengths[0, 3] + lengths[1, 1])

  loss = lambda params: objective(params, batch, types.context(0))[0]
  totals, gradient = jax.jit(lambda p: (loss(p), jax.grad(lambda p: loss(p)["denoise"])(p)))(params)
  (denoise, length), wanted = jax.jit(lambda p: (unrolled(p, p), jax.grad(
      lambda own: unrolled(own, p)[0])(p)))(params)  # draws of fixed parameters have no gradient
  assert totals["denoise"] == pytest.approx(float(denoise), rel=1e-5)
  assert totals["length"] == pytest.approx(float(length), rel=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, wanted)


@pytest.mark.slow
def test_the_first_corruption_replaces_real_tokens_by_usual_ones_at_a_uniform_rate(model):
  objective = model[0]
  rows = {"tokens": jnp.zeros((400, 50), jnp.int32), "example_index": jnp.arange(400)}
  noisy = np.array(objective.prepare(None, rows, rng.root(1), types.context(0))[0]["noisy_tokens"])
  assert set(np.unique(noisy)) == {0, 1, 2, 3}
  rates = (noisy != 0).mean(axis=1) / 0.75  # one in four is replaced by itself
  assert rates.mean() == pytest.approx(0.5, abs=0.05) and np.quantile(rates, 0.25) < 0.35
  np.testing.assert_array_equal(model[2]["noisy_tokens"][~REAL], TARGETS[~REAL])


@pytest.mark.slow
def test_a_fresh_decoder_says_what_the_masked_language_model_says():
  objective = _build()
  params = jax.jit(objective.init)(rng.root(0))
  plain = transformer.Transformer(**SPEC).network()
  own = tree.part(params["model"], lambda path: not objective.parts()["model"].adds(path))
  assert jax.tree.structure(own) == jax.tree.structure(jax.eval_shape(plain.init, rng.root(0)))
  read = lambda network, params, **context: network.encode(params, types.Inputs(
      TARGETS, segment_ids=ROWS["segment_ids"], **context), attention=attention.Full()).last
  states = jnp.ones((3, 5, 8))
  found = jax.jit(lambda: (read(objective.network, params["model"], context=states),
                           read(plain, own)))()
  np.testing.assert_array_equal(*found)
  assert jax.tree.structure(params["encoder"]) == jax.tree.structure(own)


@pytest.mark.slow
def test_gold_is_a_fixed_point_and_the_best_of_all_lengths_is_taken(model):
  objective, params, _, _ = model

  class Perfect(objectives.OBJECTIVES["seq2seq"]):
    """A model that knows the targets, and thinks that every row has 4 tokens, or 2, or another."""

    def source_of(self, params, batch, noise=None):
      found = super().source_of(params, batch, noise)
      return *found[:2], jnp.log(jnp.array([[0.04, 0.3, 0.05, 0.6, 0.01]] * 3))

    def answer(self, params, request):
      times = len(request.tokens) // 3
      gold, sizes = (jnp.repeat(x, times, axis=0) for x in (TARGETS, REAL.sum(axis=1)))
      sure = jnp.where(request.segment_ids.sum(axis=1) == sizes, 9.0, 1.0)
      logits = jax.nn.one_hot(gold % 4, 7) * sure[:, None, None]
      return types.Answer(jnp.take_along_axis(logits, jnp.broadcast_to(jnp.arange(5)[
          None, :, None], (len(logits), 5, 1)) if request.targets is None else
                                              request.targets[..., None], axis=1, mode="clip"))

  perfect = Perfect(network=objective.network, mask_id=6, pad_id=4, random_ids=(0, 1, 2, 3),
                    max_length=5)
  rule = samplers.build(dict(name="refinement", gen_length=5, steps=2, temperature=0.0), perfect,
                        mask_id=TOKENIZER.mask_id)
  found = jax.jit(lambda: [refined.decoded(perfect, rule, params, rng.root(0), ROWS, number)
                           for number in (1, 2)])()
  assert found[0]["length"][:2].tolist() == [4, 4] and found[1]["length"][:2].tolist() == [4, 2]
  for row, length in enumerate((4, 2)):
    assert found[1]["tokens"][row, :length].tolist() == TARGETS[row, :length].tolist()
  assert (found[1]["score"] >= found[0]["score"]).all()


@pytest.mark.parametrize("fields, message", [
    (dict(context_width=6), "context_width is 6, and the encoder of sources has width 8; set it to 8"),
    (dict(num_unrolls=0), "num_unrolls must be at least 1")])
def test_fields_without_meaning_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message):
    _build(**fields)
