"""N-grams masked and predicted as one, with placeholders and with a generator.

Reference: Xiao et al. 2021, arXiv:2010.12148.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.objectives.tokens import ernie_gram
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import selection
from mdx.utils import rng

import encoder_nets as nets

NETWORK = nets.network("lm")
GRAMS = [[1, 2], [3, 4], [2, 3, 4], [7, 8, 9]]
PADDED = 16  # rows of the tables of ids and of n-grams: 13 and 4, padded
ROW = [0, 7, 8, 9, 6, 1, 2, 10, 3, 4, 11, 12]
UNITS = [0, 1, 1, 1, 4, 5, 5, 7, 8, 8, 10, 11]


@pytest.fixture(name="build", scope="module")
def _build(tmp_path_factory):
  path = tmp_path_factory.mktemp("lexicon") / "lexicon.json"
  path.write_text(json.dumps({"tokenizer": "ours", "grams": GRAMS}))
  return lambda cls=ernie_gram.ErnieGram, **fields: cls(
      network=NETWORK, mask_id=nets.MASK_ID, tokenizer_hash="ours",
      **{"lexicon": str(path), "mask_rate": 0.3, **fields})


def _rows(*rows):
  tokens = jnp.asarray(rows, jnp.int32)
  return {"tokens": tokens, "example_index": jnp.arange(len(rows), dtype=jnp.int32)}


def _masking(monkeypatch, *units):
  """Selects the units that begin at given places."""
  monkeypatch.setattr(selection.Selection, "draw", lambda self, keys, rate, allowed, of, nth=0:
                      allowed & jnp.isin(of, jnp.array(units)))


def test_units_become_one_mask_and_their_tokens_placeholders(build):
  """The text can be put together again from the labels, and nothing else is in a row."""
  objective = build(mask_draw="bernoulli", mask_rate=0.4)
  draw = np.random.default_rng(0)
  rows = nets.batch(300, length=16)
  tokens = np.where(draw.random((300, 1)) < 0.5, np.resize(ROW, 16), rows["tokens"])
  segments = np.asarray(rows["segment_ids"]) * (1 + (np.arange(16) >= 7))
  rows |= {"tokens": jnp.asarray(tokens, jnp.int32), "segment_ids": jnp.asarray(segments),
           "positions": jnp.asarray(np.where(np.arange(16) >= 7, np.arange(16) - 7,
                                             np.arange(16))[None].repeat(300, 0), jnp.int32)}
  out, weights = nets.prepare(objective, rows)
  out = {k: np.asarray(v) for k, v in out.items()}
  sizes = []
  for i in range(300):
    text = out["row_segments"][i, :16] > 0
    ids, fine = [], 0
    last = {1: -1, 2: -1}
    for j in np.flatnonzero(text):
      segment, position = out["row_segments"][i, j], out["row_positions"][i, j]
      assert position == last[segment] + 1  # closed up within each document
      last[segment] = position
      unit = [out["noisy_tokens"][i, j]]
      if out["is_coarse"][i, j]:
        assert unit == [nets.MASK_ID] and out["is_counted"][i, j]
        label = out["coarse_target"][i, j]
        unit = GRAMS[label - PADDED] if label >= PADDED else [label]
        sizes.append(len(unit))
        for nth, token in enumerate(unit):
          at = 16 + fine
          assert out["is_fine"][i, fine] and out["fine_target"][i, fine] == token
          assert out["noisy_tokens"][i, at] == nets.MASK_ID and out["placeholder"][i, at] == nth
          assert out["row_segments"][i, at] == segment
          assert out["row_positions"][i, at] == position + nth
          fine += 1
      ids += unit
    assert out["is_fine"][i].sum() == fine and not out["row_segments"][i, 16 + fine:].any()
    assert ids == tokens[i][segments[i] > 0].tolist()
  assert weights["coarse"] == len(sizes) and weights["fine"] == sum(sizes)
  assert set(sizes) == {1, 2, 3} and out["num_hidden"].sum() == sum(sizes)


def test_an_exact_count_of_units_always_finds_its_placeholders(build):
  objective = build(mask_rate=0.5)
  rows = _rows(*[[7, 8, 9] * 3 + [1, 2] * 2] * 50)
  out, weights = nets.prepare(objective, rows)
  assert out["is_coarse"].sum() == weights["coarse"] == 50 * 2  # round(0.5 * 5), half to even
  assert out["num_hidden"].sum() == weights["fine"] > 2 * 50 * 2
  assert out["is_fine"].shape[1] == 13


@pytest.mark.slow
def test_the_losses_are_those_of_the_shorter_text(build, monkeypatch):
  """Coarse: over ids and n-grams, of the text written out; fine: each placeholder by itself."""
  _masking(monkeypatch, 1, 7, 8)
  objective = build()
  short = [0, 5, 6, 1, 2, 5, 5, 11, 12]  # the units 789, 10 and 34 are gone
  hidden = [7, 8, 9, 10, 3, 4]

  @jax.jit
  def run():
    params = objective.init(rng.root(3))
    model, ngram = params["model"], params["ngram"]
    ngram["lm_head"]["bias"] = jnp.linspace(-2.0, 2.0, 8)
    rows, _ = objective.prepare(params, _rows(ROW), rng.root(0), nets.CONTEXT)
    totals, aux = objective(params, rows, nets.CONTEXT)
    encode = lambda tokens, **fields: NETWORK.encode(
        model, types.Inputs(jnp.asarray([tokens], jnp.int32), **fields),
        attention=attention_lib.Full()).last[0]
    states = encode(short)
    scores = jax.nn.gelu(states @ ngram["embed_projection"]["kernel"]
                         + ngram["embed_projection"]["bias"][None])
    scores = scores @ ngram["embed"]["embedding"].T + ngram["lm_head"]["bias"][None]
    both = jnp.concatenate([NETWORK.head(model, states, "lm"), scores[:, :4]], axis=1)
    whole = objective.read(params, rows, nets.CONTEXT)[1][0]
    return totals, aux.rows, both, states, whole, NETWORK.head(model, whole[12:], "lm")

  totals, rows, both, states, whole, fine = jax.tree.map(np.asarray, run())
  log_probs = both - np.log(np.exp(both.astype(np.float64)).sum(axis=1, keepdims=True))
  expected = -sum(log_probs[place, label] for place, label in ((1, PADDED + 3), (5, 10),
                                                               (6, PADDED + 1)))
  np.testing.assert_allclose(totals["coarse"], expected, rtol=1e-4)
  np.testing.assert_allclose(rows["nll"], [expected], rtol=1e-4)
  assert rows["count"] == [6]
  np.testing.assert_allclose(whole[:9], states, atol=1e-4)
  fine = fine - np.log(np.exp(fine.astype(np.float64)).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(
      totals["fine"], -sum(fine[i, token] for i, token in enumerate(hidden)), rtol=1e-4)


@pytest.mark.slow
def test_neither_the_length_of_a_unit_nor_a_placeholder_leaks(build, monkeypatch):
  _masking(monkeypatch, 1)
  objective = build()
  # The masked unit has 3, 2 and 1 tokens; the rest is the same, and padded at the end.
  rest = [6, 10, 11, 6, 12]
  texts = [[0] + unit + rest for unit in ([7, 8, 9], [1, 2], [10])]
  rows = _rows(*[text + [0] * (12 - len(text)) for text in texts])
  rows["segment_ids"] = jnp.asarray([[1] * len(t) + [0] * (12 - len(t)) for t in texts])

  @jax.jit
  def run():
    params = objective.init(rng.root(3))
    out, _ = objective.prepare(params, rows, rng.root(0), nets.CONTEXT)
    first = objective.read(params, out, nets.CONTEXT)[1]
    other = out | {"placeholder": out["placeholder"].at[0, 13].set(0)}
    return first, objective.read(params, other, nets.CONTEXT)[1]

  first, other = map(np.asarray, run())
  for row in first[1:]:
    np.testing.assert_array_equal(row[:7], first[0, :7])
  changed = np.flatnonzero(np.abs(first[0] - other[0]).max(axis=1))
  assert changed.tolist() == [13]


@pytest.mark.slow
def test_without_n_grams_it_is_mlm(build):
  ours = build(lexicon="", fine_weight=0.0)
  plain = mlm.MaskedLM(network=NETWORK, mask_id=nets.MASK_ID, mask_rate=0.3,
                       mask_draw="exact_count", replace_mask_rate=1.0, replace_random_rate=0.0)

  @jax.jit
  def run(rows):
    params = ours.init(rng.root(0))
    return [objective(params, objective.prepare(params, rows, rng.root(0), nets.CONTEXT)[0],
                      nets.CONTEXT) for objective in (ours, plain)]

  (totals, aux), (expected, wanted) = run(nets.batch(8))
  np.testing.assert_allclose(totals["coarse"], expected["mlm"], rtol=1e-5)
  jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=1e-5), aux.rows, wanted.rows)


@pytest.mark.slow
def test_contiguous_masking_selects_the_same_units(build):
  rows = _rows(*[ROW] * 200)
  out, _ = nets.prepare(build(mlm.MaskedLM, unit="ngram", mask_draw="exact_count"), rows)
  target = np.asarray(out["is_target"])
  np.testing.assert_array_equal(target, target[:, UNITS])  # whole units
  ours, weights = nets.prepare(build(), rows)
  assert weights["coarse"] == 200 * 2 and target.sum() == ours["num_hidden"].sum()


@pytest.mark.slow
def test_the_generator_writes_units_and_the_label_is_that_one_is_another(build):
  objective = build(sampled_rate=0.5, generator_width=0.5, mask_rate=0.4)

  @jax.jit
  def run(rows):
    params = objective.init(rng.root(3))
    rows, weights = objective.prepare(params, rows, rng.root(0), nets.CONTEXT)

    def loss(params):
      totals, aux = objective(params, rows, nets.CONTEXT)
      return totals, aux

    read, _ = objective.read(params, rows, nets.CONTEXT)
    only = lambda name: jax.grad(lambda p: loss(p)[0][name])(params)
    return rows, weights, read, loss(params), only("generator"), only("rtd")

  rows, weights, read, (totals, aux), of_generator, of_rtd = run(_rows(*[ROW] * 64))
  sampled, coarse, replaced = (np.asarray(x) for x in (
      rows["is_sampled"], rows["is_coarse"], read["is_replaced"]))
  assert sampled.any() and (coarse & ~sampled).any() and not sampled[~coarse].any()
  assert replaced.any() and not replaced[~sampled].any()
  assert weights["rtd"] == (np.asarray(rows["is_counted"]) & ~(coarse & ~sampled)).sum()
  assert (sampled & ~replaced).any()  # the sample is what stood there
  assert set(totals) == set(objective.scales) == set(weights)
  assert float(totals["rtd"]) > 0 and "rtd_auc" in aux.metrics
  is_zero = lambda tree: all(not np.asarray(x).any() for x in jax.tree.leaves(tree))
  assert is_zero(of_rtd["generator"]) and not is_zero(of_rtd["model"])
  assert is_zero(of_generator["rtd"]) and is_zero(of_generator["model"]["final_norm"])
  assert not is_zero(of_generator["generator"]) and not is_zero(of_generator["ngram"]["embed"])


def test_values_and_lexicons_that_cannot_be_are_refused(build, tmp_path):
  for fields, message in (
      (dict(tokenizer_hash="theirs"), "another tokenizer"), (dict(unit="token"), "unit ngram"),
      (dict(span_max=3), "span_max 1"), (dict(sampled_rate=2.0), "sampled_rate must lie"),
      (dict(fine_weight=-1.0), "fine_weight"), (dict(lexicon="none.json"), "cannot be read")):
    with pytest.raises(ValueError, match=message):
      ernie_gram.ErnieGram(network=NETWORK, mask_id=nets.MASK_ID, **{
          "tokenizer_hash": "ours", "lexicon": build().lexicon, **fields})
  with pytest.raises(ValueError, match="needs a lexicon"):
    build(mlm.MaskedLM, unit="ngram", lexicon="")
  with pytest.raises(ValueError, match="with unit ngram alone"):
    build(mlm.MaskedLM, unit="token")
  with pytest.raises(ValueError, match="leaves nothing to read of a row of 12"):
    build(mask_rate=0.97).check_length(12)
  build(mask_rate=0.9).check_length(12)
