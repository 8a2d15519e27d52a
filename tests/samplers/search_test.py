"""Searches against brute force over all texts of a tiny autoregressive model."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import types
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.objectives.causal import ar
from mdx.samplers import attributes
from mdx.samplers import loop
from mdx.samplers import search
from mdx.utils import rng
from mdx.utils import tree

import driving
import tiny

MASK, EOS, VOCAB, LENGTH = 0, 1, 5, 4
PROMPTS = np.array([[2, 3], [4, 4], [3, 2]], np.int32)
CANVAS = np.concatenate([PROMPTS, np.zeros((3, LENGTH), np.int32)], axis=1)


@functools.cache
def _model(scale=3.0):
  """An autoregressive model with random parameters."""
  spec = transformer.Transformer(num_layers=2, width=16, num_heads=2, mlp_width=24,
                                 vocab_size=VOCAB, vocab_multiple=1, max_length=16,
                                 scan_layers=False, tied=False)
  objective = ar.AutoRegressive(network=spec.network(), mask_id=MASK)
  draw = np.random.default_rng(3)
  params = tree.map_with_path(
      lambda path, x: jnp.asarray(scale * draw.normal(size=x.shape) / (
          x.shape[-2] ** 0.5 if path.endswith("kernel") else 3), jnp.float32),
      jax.eval_shape(objective.init, rng.root(0)))
  return objective, params


@functools.cache
def _texts():
  """All texts of a prompt, filled with ends of text: int32 [N, G]."""
  found = []
  for size in range(LENGTH + 1):
    for text in itertools.product((2, 3, 4), repeat=size):
      found.append(text + (EOS,) * (LENGTH - size))
  return np.array(found, np.int32)


@functools.cache
def _log_probs():
  """Log-probability of every text after every prompt, float64 [3, N], by one reading of each."""
  objective, params = _model()
  texts, found = _texts(), []
  for prompt in PROMPTS:
    rows = np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1)
    answer = objective.answer(params, types.Request(jnp.asarray(rows), jnp.zeros(len(rows))))
    logp = np.asarray(jax.nn.log_softmax(answer.logits), np.float64)[:, 2:]
    each = np.take_along_axis(logp, texts[..., None], axis=2)[..., 0]
    is_counted = np.cumsum(texts == EOS, axis=1) <= 1
    found.append(np.where(is_counted, each, 0).sum(axis=1))
  return np.array(found)


def _run(record="none", canvas=CANVAS, sampler=None, **fields):
  objective, params = _model()
  if sampler is None:
    fields = dict(gen_length=LENGTH) | fields
    sampler = samplers.build(fields, objective, mask_id=MASK, eos_id=EOS)
  run = jax.jit(lambda params, canvas: loop.decode(
      reading.answerer(objective, params), sampler, canvas, key=rng.root(0),
      row_index=jnp.arange(len(canvas)), start=2, record=record), compiler_options=driving.QUICK)
  return jax.device_get(run(params, jnp.asarray(canvas)))


def _best(is_allowed):
  """The most likely text with an attribute after each prompt, and its log-probability."""
  scores = np.where(is_allowed, _log_probs(), -np.inf)
  return _texts()[scores.argmax(axis=1)], scores.max(axis=1)


def test_the_probabilities_of_all_texts_sum_to_one():
  np.testing.assert_allclose(np.exp(_log_probs()).sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("cache", ["none", "block"])
def test_beams_as_many_as_texts_give_the_exact_list(cache):
  found = _run(name="beam", beams=len(_texts()) + 3, cache=cache)
  for i, scores in enumerate(_log_probs()):
    order = np.argsort(-scores)
    np.testing.assert_allclose(found.hypotheses.log_prob[i, :len(order)], scores[order], atol=1e-4)
    assert np.all(found.hypotheses.log_prob[i, len(order):] == -np.inf)
    np.testing.assert_array_equal(found.hypotheses.tokens[i, :5, 2:], _texts()[order[:5]])
    np.testing.assert_array_equal(found.tokens[i, 2:], _texts()[order[0]])
  np.testing.assert_array_equal(found.tokens[:, :2], PROMPTS)


@pytest.mark.slow
def test_narrow_beams_are_those_of_a_plain_search_with_and_without_a_cache():
  objective, params = _model()

  next_logits = jax.jit(lambda row: objective.answer(
      params, types.Request(row, jnp.zeros(1))).logits[0], compiler_options=driving.QUICK)

  def plain(prompt, width):
    beams = [((), 0.0)]
    for _ in range(LENGTH):
      grown = [beam for beam in beams if EOS in beam[0]]
      for text, score in beams:
        if EOS in text:
          continue
        row = np.array([[*prompt, *text] + [MASK] * (LENGTH - len(text))], np.int32)
        logp = np.asarray(jax.nn.log_softmax(next_logits(jnp.asarray(row))[2 + len(text)]),
                          np.float64)
        grown += [(text + (token,), score + logp[token]) for token in range(1, VOCAB)]
      beams = sorted(grown, key=lambda beam: -beam[1])[:width]
    return beams

  expected = [plain(prompt.tolist(), 3) for prompt in PROMPTS]
  for cache in ("none", "block"):
    found = _run(name="beam", beams=3, cache=cache, record="commits")
    for i, beams in enumerate(expected):
      np.testing.assert_allclose(found.hypotheses.log_prob[i], [b[1] for b in beams], atol=1e-4)
      text = beams[0][0] + (EOS,) * (LENGTH - len(beams[0][0]))
      np.testing.assert_array_equal(found.tokens[i, 2:], text)
      # The record is that of the row that the best text went through.
      assert found.trajectory.log_prob[i].sum() == pytest.approx(beams[0][1], abs=1e-4)


@pytest.mark.parametrize("branches", [2, 64])
def test_mode_search_finds_the_most_likely_text_in_fewer_calls_than_there_are_prefixes(branches):
  found = _run(name="mode_search", branches=branches)
  texts, scores = _best(True)
  exact = found.hypotheses.is_exact
  assert exact.all() if branches == 64 else True
  np.testing.assert_array_equal(found.tokens[exact, 2:], texts[exact])
  np.testing.assert_allclose(found.hypotheses.log_prob[exact, 0], scores[exact], atol=1e-4)
  assert np.all(found.hypotheses.log_prob[:, 0] <= scores + 1e-4)
  assert found.nfe.max() < 1 + 3 + 9 + 27


@pytest.mark.slow
def test_a_search_that_spends_its_budget_has_the_best_so_far_and_is_not_called_exact():
  found, whole = _run(name="mode_search", search_budget=2), _run(name="mode_search")
  is_cut = whole.nfe > 2
  assert is_cut.any() and whole.hypotheses.is_exact.all()
  np.testing.assert_array_equal(found.nfe, np.minimum(whole.nfe, 2))
  np.testing.assert_array_equal(found.hypotheses.is_exact, ~is_cut)
  assert np.all(found.hypotheses.log_prob <= whole.hypotheses.log_prob + 1e-6)
  assert np.all(found.tokens != MASK)


_ATTRIBUTES = [dict(attribute="non_empty"), dict(attribute="length", attribute_length=2),
               dict(attribute="length", attribute_length=4), dict(attribute="complete"),
               dict(attribute="complete", last_ids=(3,))]


@pytest.mark.parametrize("fields", tiny.first(_ATTRIBUTES, 2), ids=str)
def test_conditional_searches_find_the_most_likely_text_among_those_with_the_attribute(fields):
  is_allowed = attributes.Attribute(
      name=fields["attribute"], length=fields.get("attribute_length", 0),
      last_ids=fields.get("last_ids", ()), end_ids=(EOS,), mask_id=MASK).holds(_texts())
  assert 0 < is_allowed.sum() < len(is_allowed)
  texts, scores = _best(is_allowed)
  for name in (dict(name="mode_search"), dict(name="conditional_beam", beams=90)):
    found = _run(**name, **fields)
    np.testing.assert_array_equal(found.tokens[:, 2:], texts)
    np.testing.assert_allclose(found.hypotheses.log_prob[:, 0], scores, atol=1e-4)


def test_attributes_of_whole_texts_are_what_they_say():
  texts = np.array([[1, 1, 1], [2, 1, 1], [2, 3, 1], [2, 3, 2]])
  holds = lambda name, length=0, last=(): attributes.Attribute(
      name=name, length=length, last_ids=last, end_ids=(1,), mask_id=0).holds(texts).tolist()
  assert holds("none") == [True] * 4 and holds("non_empty") == [False, True, True, True]
  assert holds("length", 3) == [False, False, False, True]
  assert holds("complete") == [True, True, True, False]
  assert holds("complete", last=(3,)) == [False, False, True, False]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Oracle(search.ConditionalBeam):
  """Ranks prefixes by their exact probability of the attribute, of a table."""

  def log_attribute(self, hidden, children):
    """Log-odds that a table gives; here of the number of the token."""
    exact = super().log_attribute(hidden, children)
    return jnp.where(children.is_final | ~children.is_possible, exact,
                     -jnp.arange(children.is_final.shape[1]) * 50.0)


def test_the_term_of_the_attribute_ranks_prefixes_but_is_not_in_the_score():
  found = _run(sampler=_Oracle(mask_id=MASK, eos_id=EOS, gen_length=LENGTH, beams=1,
                               attribute="length", attribute_length=4))
  np.testing.assert_array_equal(found.tokens[:, 2:5], np.full((3, 3), 2))
  index = [np.flatnonzero((_texts() == text).all(axis=1))[0] for text in found.tokens[:, 2:]]
  np.testing.assert_allclose(found.hypotheses.log_prob[:, 0],
                             _log_probs()[np.arange(3), index], atol=1e-4)


@pytest.mark.slow
def test_beams_of_a_row_do_not_depend_on_the_other_rows():
  found, one = _run(name="beam", beams=3), _run(name="beam", beams=3, canvas=CANVAS[1:2])
  np.testing.assert_array_equal(found.tokens[1:2], one.tokens)
  np.testing.assert_allclose(found.hypotheses.log_prob[1:2], one.hypotheses.log_prob, atol=1e-5)


@pytest.mark.parametrize("fields, message", [
    (dict(name="beam", beams=0), "sampler.beams must be at least 1, got 0"),
    (dict(name="mode_search", search_budget=0), "sampler.search_budget must be at least 1, got 0"),
    (dict(name="mode_search", cache="block"), "mode_search goes back; use none"),
    (dict(name="beam", temperature=0.5), "sampler.temperature 0.5 is of draws"),
    (dict(name="beam", guidance_scale=1.0), "sampler.guidance_scale 1.0 is of draws"),
    (dict(name="beam", eos="last"), "sampler.eos last is for rules that go by the confidence"),
    (dict(name="mode_search", attribute="long"), "attribute is 'long'; choose from none, non_empty"),
    (dict(name="mode_search", attribute="length"), "attribute_length of at least 1, got 0"),
    (dict(name="conditional_beam", classifier="nowhere.npz"), "is no classifier of attributes"),
    (dict(name="autoregressive", beams=2), "has no field 'beams'; it is a field of beam")])
def test_searches_without_meaning_are_refused(fields, message):
  objective, _ = _model()
  with pytest.raises(ValueError, match=message) as caught:
    samplers.build(fields, objective, mask_id=MASK, eos_id=EOS)
  assert "\n" not in str(caught.value)


def test_a_record_of_draws_is_refused():
  with pytest.raises(ValueError, match="record full is of draws .* Beam searches"):
    _run(name="beam", record="full")


def test_a_classifier_of_another_attribute_or_of_none_is_refused(tmp_path):
  objective, _ = _model()
  zeros = attributes.Classifier(np.zeros((16, 2)), np.zeros((2, VOCAB)), np.zeros(VOCAB))
  path = str(tmp_path / "classifier.npz")
  facts = {"attribute": "complete", "length": 0, "last_ids": np.zeros(0, int), "model": "abc"}
  attributes.save(path, zeros, facts)
  build = lambda **fields: samplers.build(dict(fields, name="conditional_beam", classifier=path),
                                          objective, mask_id=MASK, eos_id=EOS)
  assert build(attribute="complete").wanted_attribute().name == "complete"
  with pytest.raises(ValueError, match="fitted to attribute 'complete', not 'non_empty'"):
    build(attribute="non_empty")
  with pytest.raises(ValueError, match=r"fitted to last_ids \[\], not \[3\]"):
    build(attribute="complete", last_ids=(3,))
