"""BiTimeBERT 2.0: its three losses, and what is masked, dated and replaced.

References: Wang et al., BiTimeBERT (arXiv:2204.13032) and BiTimeBERT 2.0 (arXiv:2406.01863).
"""

import datetime
import functools
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from mdx import assets
from mdx.build import setup as setup_lib
from mdx.configs import bitimebert as config
from mdx.corruption import temporal
from mdx.data import pack
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import dated
from mdx.data.toys import news
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives import reading
from mdx.objectives.tokens import bitimebert
from mdx.objectives.tokens import mlm
from mdx.utils import rng

import encoder_nets as nets
import tiny

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


@functools.cache
def _jitted(objective):
  return jax.jit(lambda rows, key: objective.prepare({}, rows, key, nets.CONTEXT))


def _prepare(objective, rows):
  """The prepared rows and the weights, from key 0."""
  return _jitted(objective)(rows, rng.root(0))


def _objective(**fields):
  return bitimebert.BiTimeBERT(**FIELDS | fields)


@pytest.fixture(scope="module", name="rows")
def _rows():
  cfg = pipeline.read_config(dict(length=LENGTH, packing="crop", source=dict(name="news")))
  source = news.News(num_documents=NUM_ROWS, date_rate=0.7)
  form = pipeline.form(cfg, [dated.Dated()], TOKENIZER)
  rows = [pack.finish_row(pack.row_of(dated.Dated().row(record, cfg, TOKENIZER), form), form)
          for record in source.records("train")]
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]} | {
      "example_index": np.arange(NUM_ROWS, dtype=np.int32)}


@pytest.fixture(scope="module", name="prepared")
def _prepared(rows):
  found, weights = _prepare(_objective(**FREQUENT), rows)
  return {k: np.asarray(v) for k, v in found.items()}, {k: float(v) for k, v in weights.items()}


def _units(rows, kind):
  """(row, first place, last place) of the spans of a kind, by a walk."""
  found = []
  for b, spans in enumerate(rows["spans"]):
    for first in np.flatnonzero(spans % 2 == 1):
      if kind((spans[first] + 1) // 2):
        last = first
        while last + 1 < len(spans) and spans[last + 1] == spans[first] + 1:
          last += 1
        found.append((b, first, last))
  return found


def _month(day):
  """Months from January 2004 of a day."""
  date = datetime.date.fromordinal(int(day))
  return 12 * (date.year - 2004) + date.month - 1


def _table():
  return json.loads(pathlib.Path(assets.resolve(FIELDS["persons"])).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_budget_is_never_exceeded_and_times_are_masked_whole_or_not_at_all(rows, prepared):
  found, weights = prepared
  hidden = found["is_target"]
  # Tokens that may be masked: those of the text but begin, end and replaced persons.
  allowed = rows["loss_mask"].copy()
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
    assert len(units) and all(len(set(hidden[b, first:last + 1])) == 1 for b, first, last in units)
    number, masked = np.zeros(NUM_ROWS), np.zeros(NUM_ROWS)
    for b, first, _ in units:
      number[b] += 1
      masked[b] += hidden[b, first]
    assert (masked <= np.ceil(share * number)).all() and 0.3 < masked.sum() / number.sum() < 0.9
  # What is not masked stands there as it was, but for replaced persons.
  same = found["noisy_tokens"] == rows["tokens"]
  assert same[~hidden & (allowed | ~rows["loss_mask"])].all()


@pytest.mark.slow
def test_replaced_persons_keep_their_length_and_are_others_of_the_month(rows, prepared):
  found, weights = prepared
  table = _table()
  number = {tuple(ids): i for i, ids in enumerate(table["ids"])}
  mentions = _units(rows, temporal.is_person)
  read = np.asarray(found["noisy_tokens"])
  for b, first, last in mentions:
    before = tuple(rows["tokens"][b, first:last + 1])
    after = tuple(found["tokens"][b, first:last + 1])
    if found["is_replaced"][b, first]:
      month = _month(rows["labels"][b, 0])
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
  outside = rows["spans"] < temporal.code(temporal.person_kind(news.NAMES[0]), True)
  outside &= ~np.asarray(temporal.is_person(temporal.kinds(rows["spans"])))
  np.testing.assert_array_equal(found["tokens"][outside], rows["tokens"][outside])


@pytest.mark.slow
def test_with_the_pool_of_all_others_are_of_any_month_and_signals_become_others(rows):
  objective = _objective(tser_pool="all", signal_rate=1.0, mask_rate=0.5, replace_mask_rate=0.0,
                         replace_random_rate=1.0)
  found = {k: np.asarray(v) for k, v in _prepare(objective, rows)[0].items()}
  table, is_active = _table(), []
  number = {tuple(ids): i for i, ids in enumerate(table["ids"])}
  for b, first, last in _units(rows, temporal.is_person):
    if found["is_replaced"][b, first]:
      after = number[tuple(found["tokens"][b, first:last + 1])]
      is_active.append(after in table["months"][_month(rows["labels"][b, 0])])
  assert 0.03 < np.mean(is_active) < 0.3  # three others of 21
  # A signal is never masked, for random tokens alone are written here, and of another class.
  ids = [int(TOKENIZER.encode(f" {word}")[0]) for word in ("before", "after", "in")]
  assert objective.signal_ids == [[i] for i in ids]
  seen = {i: set() for i in ids}
  for b, place, _ in _units(rows, lambda k: k >= temporal.SIGNAL and not temporal.is_person(k)):
    if found["is_target"][b, place]:
      seen[int(rows["tokens"][b, place])].add(int(found["noisy_tokens"][b, place]))
  assert seen == {i: set(ids) - {i} for i in ids}


@pytest.mark.parametrize("granularity, classes", [
    ("month", 24), ("year", 2), ("week", 105), ("day", 731)])
def test_the_head_of_dating_has_the_periods_of_the_granularity(granularity, classes):
  params = jax.eval_shape(_objective(granularity=granularity).init, rng.root(0))
  assert params["dating"]["out"]["kernel"].shape == (16, classes)
  assert set(params) == {"model", "dating", "tser"}


def test_without_masks_of_time_it_masks_like_mlm_and_without_terms_it_is_mlm(rows):
  fields = dict(masking="plain", tser_weight=0.0, persons="")
  plain = mlm.MaskedLM(network=NETWORK, mask_id=TOKENIZER.mask_id, mask_draw="exact_count")
  found, weights = _prepare(_objective(granularity="year", **fields), rows)
  other, _ = _prepare(plain, rows)
  for name in ("noisy_tokens", "is_target"):
    np.testing.assert_array_equal(found[name], other[name])
  np.testing.assert_array_equal(found["period"], [
      _month(day) // 12 for day in rows["labels"][:, 0]])
  assert weights["dating"] == NUM_ROWS
  objective = _objective(dating_weight=0.0, **fields)
  assert objective.scales == {"mlm": 1.0} and set(objective.parts()) == {"model"}
  assert set(jax.eval_shape(objective.init, rng.root(0))) == {"model"}


def test_the_losses_equal_those_worked_out_from_the_states(rows, prepared):
  objective, (found, weights) = _objective(**FREQUENT, dating_weight=0.5), prepared
  assert objective.scales == {"mlm": 1.0, "dating": 0.5, "tser": 1.0}
  assert set(weights) == set(objective.scales) == {"mlm", *objective.parts()} - {"model"}
  params = jax.jit(objective.init)(rng.root(1))

  def run(params, rows):
    hidden = reading.encode(NETWORK, params["model"], rows, tokens=rows["noisy_tokens"],
                            attention=attention_lib.Full())
    return objective(params, rows, nets.CONTEXT), hidden, jax.nn.log_softmax(
        NETWORK.head(params["model"], hidden, "lm"))

  (totals, aux), hidden, log_probs = jax.jit(run)(params, found)
  hidden = np.asarray(hidden, np.float64)
  heads = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  mlp = lambda p, x: np.tanh(x @ p["in"]["kernel"] + p["in"]["bias"]) @ p["out"]["kernel"] + (
      p["out"]["bias"])
  logits = mlp(heads["dating"], hidden[:, 0])
  month = [_month(day) for day in rows["labels"][:, 0]]
  nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(NUM_ROWS), month]
  np.testing.assert_allclose(totals["dating"], nats.sum(), rtol=1e-4)
  assert aux.metrics["dating_accuracy"] == ((logits.argmax(axis=1) == month).sum(), NUM_ROWS)
  tser = 0.0
  for b, first, last in _units(rows, temporal.is_person):
    score = mlp(heads["tser"], np.concatenate([hidden[b, first], hidden[b, last]]))[0]
    tser += np.log1p(np.exp(-score if found["is_replaced"][b, first] else score))
  np.testing.assert_allclose(totals["tser"], tser, rtol=1e-4)
  picked = np.take_along_axis(np.asarray(log_probs), rows["tokens"][..., None], 2)
  np.testing.assert_allclose(totals["mlm"], -picked[..., 0][found["is_target"]].sum(), rtol=1e-4)
  assert {"tser_auc", "tser_accuracy", "dating_nats", "masked_nats"} <= set(aux.metrics)


def test_draws_depend_on_the_example_and_the_step_alone(rows, prepared):
  order = np.random.default_rng(0).permutation(NUM_ROWS)
  found, _ = _prepare(_objective(**FREQUENT), {k: v[order] for k, v in rows.items()})
  for name in ("tokens", "noisy_tokens", "is_target", "is_replaced"):
    np.testing.assert_array_equal(found[name], prepared[0][name][order])
  again, _ = _prepare(_objective(**FREQUENT), rows | {"example_index": rows["example_index"] + 1})
  assert (np.asarray(again["is_target"]) != prepared[0]["is_target"]).any(axis=1).mean() > 0.8
  assert (np.asarray(again["is_replaced"]) != prepared[0]["is_replaced"]).any(axis=1).mean() > 0.3


def test_documents_of_other_dates_are_neither_dated_nor_changed(rows):
  late = rows | {"labels": np.where(rows["labels"] > 0, rows["labels"] + 1000, 0)}
  found, weights = _prepare(_objective(**FREQUENT), late)
  assert weights["dating"] == weights["tser"] == 0 and weights["mlm"] > 0
  np.testing.assert_array_equal(found["tokens"], rows["tokens"])


@pytest.mark.parametrize("fields, message", [
    (dict(masking="tam"), "objective.masking is 'tam'; choose from plain, tamlm, etamlm"),
    (dict(granularity="hour"), "choose from day, week, month, year"),
    (dict(tser_pool="week"), "objective.tser_pool is 'week'"),
    (dict(tser_rate=1.5), "tser_rate must lie in"), (dict(dating_weight=-1.0), "dating_weight must be at least 0"),
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


def test_a_run_takes_the_dates_of_its_data_and_refuses_others(tmp_path):
  cfg = config.get_config()
  cfg.data.source.update(num_documents=40, num_validation=10)
  run = setup_lib.setup(cfg, str(tmp_path / "run"))
  assert run.objective.first_date == run.config["objective"]["first_date"] == news.FIRST_DATE
  assert run.objective.calendar.num_periods("month") == 24 and set(run.objective.parts()) == {
      "model", "dating", "tser"}
  cfg.objective.last_date = "2007-06-19"
  with pytest.raises(ValueError, match="last_date is 2007-06-19, that of the data 2005-12-31; lea"):
    setup_lib.setup(cfg, str(tmp_path / "run"))
  cfg = tiny.config("bitimebert")
  cfg.data.source = dict(name="memory", documents=("a",) * 9, holdout_every=3)
  with pytest.raises(ValueError, match="first_date and last_date are needed; the sources dated"):
    setup_lib.setup(cfg, str(tmp_path / "run"))


def test_rows_without_dates_are_refused():
  with pytest.raises(ValueError, match="use data.source.name dated or news"):
    _objective().prepare({}, nets.batch(2), rng.root(0), nets.CONTEXT)
  assert math.isclose(_objective().mask_rate, 0.15)
