"""BiTimeBERT 2.0: its three losses, and what is masked, dated and replaced.

References: Wang et al., BiTimeBERT (arXiv:2204.13032) and BiTimeBERT 2.0 (arXiv:2406.01863).
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import temporal
from mdx.data import dated_rows
from mdx.data import news
from mdx.data import pack
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives import bitimebert
from mdx.objectives import mlm
from mdx.utils import dates
from mdx.utils import rng

import encoder_nets as nets

TOKENIZER = tokenizer_lib.build("news")
NETWORK = transformer.Transformer(
    num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=TOKENIZER.vocab_size,
    max_length=64, position="learned", init_std=1.0, scan_layers=False).network()
FIELDS = dict(network=NETWORK, mask_id=TOKENIZER.mask_id, first_date=news.FIRST_DATE,
              last_date=news.LAST_DATE, to_ids=TOKENIZER.encode,
              tokenizer_hash=TOKENIZER.fingerprint, persons="asset:news_persons.json")
NUM_ROWS, LENGTH = 160, 40
# Draws of every kind are frequent, so that few rows show them.
FREQUENT = dict(temporal_rate=0.5, signal_rate=0.5, mask_rate=0.25)


def _objective(**fields):
  return bitimebert.BiTimeBERT(**FIELDS | fields)


@pytest.fixture(scope="module", name="rows")
def _rows():
  cfg = pipeline.read_config(dict(length=LENGTH, packing="crop", source=dict(name="news")))
  source = news.News(num_documents=NUM_ROWS, date_rate=0.7)
  rows = [pack.finish_row(pack.row_of(dated_rows.row(record, cfg, TOKENIZER), LENGTH),
                          pad_id=TOKENIZER.pad_id, isolate_documents=True)
          for record in source.records("train")]
  return {k: jnp.asarray(np.stack([row[k] for row in rows])) for k in rows[0]} | {
      "example_index": jnp.arange(NUM_ROWS, dtype=jnp.int32)}


@pytest.fixture(scope="module", name="prepared")
def _prepared(rows):
  found, weights = nets.prepare(_objective(**FREQUENT), rows)
  return {k: np.asarray(v) for k, v in found.items()}, {k: float(v) for k, v in weights.items()}


def _units(rows, kind):
  """(row, first place, last place) of the spans of a kind, by a walk."""
  found = []
  for b, spans in enumerate(np.asarray(rows["spans"])):
    for first in np.flatnonzero(spans % 2 == 1):
      if kind((spans[first] + 1) // 2):
        last = first
        while last + 1 < len(spans) and spans[last + 1] == spans[first] + 1:
          last += 1
        found.append((b, first, last))
  return found


def test_the_budget_is_never_exceeded_and_times_are_masked_whole_or_not_at_all(rows, prepared):
  found, weights = prepared
  hidden = found["is_target"]
  # Tokens that may be masked: those of the text but begin, end and replaced persons.
  allowed = np.asarray(rows["loss_mask"]).copy()
  for b, first, last in _units(rows, temporal.is_person):
    if found["is_replaced"][b, first]:
      allowed[b, first:last + 1] = False
  assert not hidden[~allowed].any()
  budget = np.ceil(0.25 * allowed.sum(axis=1) - 1e-3)
  assert (hidden.sum(axis=1) <= budget).all() and (hidden.sum(axis=1) == budget).mean() > 0.95
  assert weights["mlm"] == hidden.sum()
  for kind, share in ((temporal.TEMPORAL, 0.5), (None, 0.5)):
    is_kind = (lambda k: k == temporal.TEMPORAL) if kind else (
        lambda k: k >= temporal.SIGNAL and not temporal.is_person(k))
    units = _units(rows, is_kind)
    assert all(len(set(hidden[b, first:last + 1])) == 1 for b, first, last in units)
    number, masked = np.zeros(NUM_ROWS), np.zeros(NUM_ROWS)
    for b, first, _ in units:
      number[b] += 1
      masked[b] += hidden[b, first]
    assert (masked <= np.ceil(share * number)).all() and 0.3 < masked.sum() / number.sum() < 0.9
  # What is not masked stands there as it was, but for replaced persons.
  same = found["noisy_tokens"] == np.asarray(rows["tokens"])
  assert same[~hidden & (allowed | ~np.asarray(rows["loss_mask"]))].all()


def test_replaced_persons_keep_their_length_and_are_others_of_the_month(rows, prepared):
  found, weights = prepared
  table = json.loads(open(bitimebert.assets.resolve(FIELDS["persons"]), encoding="utf-8").read())
  number = {tuple(ids): i for i, ids in enumerate(table["ids"])}
  mentions = _units(rows, temporal.is_person)
  read = np.asarray(found["noisy_tokens"])
  for b, first, last in mentions:
    before = tuple(np.asarray(rows["tokens"])[b, first:last + 1])
    after = tuple(found["tokens"][b, first:last + 1])
    if found["is_replaced"][b, first]:
      month = datetime_month(rows["labels"][b, 0])
      assert after != before and number[after] in table["months"][month]
      assert tuple(read[b, first:last + 1]) == after
    else:
      assert after == before
  # Labels stand at the first places of mentions, nowhere else.
  places = np.zeros((NUM_ROWS, LENGTH), bool)
  for b, first, _ in mentions:
    places[b, first] = True
  np.testing.assert_array_equal(found["is_judged"], places)  # all months have others
  assert not found["is_replaced"][~places].any() and weights["tser"] == places.sum()
  assert 0.2 < found["is_replaced"].sum() / places.sum() < 0.4
  for row, heads in zip(found["is_replaced"], places):
    in_order = row[heads]
    assert not (in_order[1:] & in_order[:-1]).any()
  outside = np.asarray(rows["spans"]) < temporal.code(temporal.person_kind(news.NAMES[0]), True)
  outside &= ~np.asarray(temporal.is_person(temporal.kinds(rows["spans"])))
  np.testing.assert_array_equal(found["tokens"][outside], np.asarray(rows["tokens"])[outside])


def datetime_month(day):
  """Months from January 2004 of a day."""
  date = dates.datetime.date.fromordinal(int(day))
  return 12 * (date.year - 2004) + date.month - 1


def test_the_pool_of_all_has_persons_of_other_months(rows):
  found, _ = nets.prepare(_objective(tser_pool="all"), rows)
  table = json.loads(open(bitimebert.assets.resolve(FIELDS["persons"]), encoding="utf-8").read())
  number = {tuple(ids): i for i, ids in enumerate(table["ids"])}
  is_active = []
  for b, first, last in _units(rows, temporal.is_person):
    if found["is_replaced"][b, first]:
      after = number[tuple(np.asarray(found["tokens"])[b, first:last + 1])]
      is_active.append(after in table["months"][datetime_month(rows["labels"][b, 0])])
  assert 0.03 < np.mean(is_active) < 0.3  # three others of 21


@pytest.mark.parametrize("granularity, classes", [
    ("month", 24), ("year", 2), ("week", 105), ("day", 731)])
def test_the_head_of_dating_has_the_periods_of_the_granularity(granularity, classes, rows):
  objective = _objective(granularity=granularity, tser_weight=0.0, masking="plain")
  params = jax.eval_shape(objective.init, rng.root(0))
  assert params["dating"]["out"]["kernel"].shape == (16, classes)
  if granularity == "year":
    found, weights = nets.prepare(objective, rows)
    np.testing.assert_array_equal(found["period"], [
        datetime_month(day) // 12 for day in np.asarray(rows["labels"])[:, 0]])
    assert weights["dating"] == NUM_ROWS


def test_the_losses_equal_those_worked_out_from_the_states(rows, prepared):
  objective, (found, weights) = _objective(**FREQUENT), prepared
  params = objective.init(rng.root(1))
  assert objective.scales == {"mlm": 1.0, "dating": 1.0, "tser": 1.0} == dict.fromkeys(weights, 1.0)
  totals, aux = jax.jit(objective)(params, {k: jnp.asarray(v) for k, v in found.items()},
                                   nets.CONTEXT)
  hidden = np.asarray(NETWORK.encode(
      params["model"], jnp.asarray(found["noisy_tokens"]), attention=attention_lib.Full(),
      positions=rows["positions"], segment_ids=rows["segment_ids"]), np.float64)
  heads = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  mlp = lambda p, x: np.tanh(x @ p["in"]["kernel"] + p["in"]["bias"]) @ p["out"]["kernel"] + (
      p["out"]["bias"])
  logits = mlp(heads["dating"], hidden[:, 0])
  month = [datetime_month(day) for day in np.asarray(rows["labels"])[:, 0]]
  nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(NUM_ROWS), month]
  np.testing.assert_allclose(totals["dating"], nats.sum(), rtol=1e-4)
  assert aux.metrics["dating_accuracy"] == ((logits.argmax(axis=1) == month).sum(), NUM_ROWS)
  tser = 0.0
  for b, first, last in _units(rows, temporal.is_person):
    score = mlp(heads["tser"], np.concatenate([hidden[b, first], hidden[b, last]]))[0]
    tser += np.log1p(np.exp(-score if found["is_replaced"][b, first] else score))
  np.testing.assert_allclose(totals["tser"], tser, rtol=1e-4)
  plain = mlm.MaskedLM(network=NETWORK, mask_id=TOKENIZER.mask_id, mask_rate=0.25)
  np.testing.assert_allclose(totals["mlm"], plain.score(
      params, {k: jnp.asarray(v) for k, v in found.items()}, jnp.asarray(hidden, jnp.float32),
      nets.CONTEXT)[0]["mlm"], rtol=1e-4)
  assert {"tser_auc", "tser_accuracy", "dating_nats", "masked_nats"} <= set(aux.metrics)


def test_a_masked_signal_becomes_the_mask_itself_or_one_of_another_class(rows):
  objective = _objective(signal_rate=1.0, mask_rate=0.5, replace_mask_rate=0.0,
                         replace_random_rate=1.0, tser_weight=0.0)
  assert objective.signal_ids == [[TOKENIZER.encode(f" {w}")[0]] for w in ("before", "after", "in")]
  found, _ = nets.prepare(objective, rows)
  ids = {w: int(TOKENIZER.encode(f" {w}")[0]) for w in ("before", "after", "in")}
  seen = {word: set() for word in ids}
  for b, place, _ in _units(rows, lambda k: k >= temporal.SIGNAL and not temporal.is_person(k)):
    word = next(w for w, i in ids.items() if i == rows["tokens"][b, place])
    if found["is_target"][b, place]:
      seen[word].add(int(found["noisy_tokens"][b, place]))
  for word, others in seen.items():
    assert others == set(ids.values()) - {ids[word]}, word


def test_without_terms_of_time_it_is_mlm(rows):
  objective = _objective(masking="plain", dating_weight=0.0, tser_weight=0.0, persons="")
  plain = mlm.MaskedLM(network=NETWORK, mask_id=TOKENIZER.mask_id, mask_draw="exact_count")
  one, other = nets.prepare(objective, rows), nets.prepare(plain, rows)
  assert objective.scales == {"mlm": 1.0} and objective.fresh == ()
  for name in ("noisy_tokens", "is_target"):
    np.testing.assert_array_equal(one[0][name], other[0][name])
  assert set(jax.eval_shape(objective.init, rng.root(0))) == {"model"}


def test_draws_depend_on_the_example_and_the_step_alone(rows, prepared):
  some = np.array([3, 77, 30, 12])
  few = {k: v[some] for k, v in rows.items()}
  found, _ = nets.prepare(_objective(**FREQUENT), few)
  for name in ("tokens", "noisy_tokens", "is_target", "is_replaced"):
    np.testing.assert_array_equal(found[name], prepared[0][name][some])
  again, _ = nets.prepare(_objective(**FREQUENT), rows | {"example_index": rows["example_index"] + 1})
  assert (np.asarray(again["is_target"]) != prepared[0]["is_target"]).any(axis=1).mean() > 0.8
  assert (np.asarray(again["is_replaced"]) != prepared[0]["is_replaced"]).any(axis=1).mean() > 0.3


def test_documents_of_other_dates_are_neither_dated_nor_changed(rows, tmp_path):
  late = rows | {"labels": rows["labels"].at[:, 0].add(1000)}
  found, weights = nets.prepare(_objective(), late)
  assert weights["dating"] == weights["tser"] == 0 and weights["mlm"] > 0
  np.testing.assert_array_equal(found["tokens"], rows["tokens"])


@pytest.mark.parametrize("fields, message", [
    (dict(masking="tam"), "objective.masking is 'tam'; choose from plain, tamlm, etamlm"),
    (dict(granularity="hour"), "choose from day, week, month, year"),
    (dict(tser_pool="week"), "objective.tser_pool is 'week'"),
    (dict(tser_rate=1.5), "tser_rate must lie in"), (dict(dating_weight=-1.0), "not be negative"),
    (dict(mask_draw="bernoulli"), "selects an exact share of single tokens"),
    (dict(replace_together=True), "leave unit, mask_draw, span_max and replace_together"),
    (dict(predict_rate=0.3), "reads a row once"), (dict(first_date=""), "first_date and last_date"),
    (dict(persons=""), "tser_weight needs persons, a file that python -m mdx.data.prepare persons"),
    (dict(tokenizer_hash="other"), "names in ids of another tokenizer"),
    (dict(last_date="2006-01-31"), "has the months of 2004-01-01 .. 2005-12-31, the run is from"),
    (dict(persons="asset:holmes_ngrams.json"), "cannot be read as persons")])
def test_what_does_not_go_together_is_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _objective(**fields)
  assert "\n" not in str(error.value)


def test_rows_without_dates_are_refused():
  with pytest.raises(ValueError, match="use data.source.name dated or news"):
    _objective().prepare({}, nets.batch(2), rng.root(0), nets.CONTEXT)
  assert math.isclose(_objective().mask_rate, 0.15)
