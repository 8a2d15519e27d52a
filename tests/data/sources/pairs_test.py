"""Premises with candidates: where each comes from, and how a row is laid out."""

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.sources import pairs

# Every id says where it stands: document, paragraph, sentence.
DOCUMENTS = [[[np.array([100 * d + 10 * p + s] * 2, np.int32) for s in range(4)]
              for p in range(3)] for d in range(4)]


def _drawn(task, **fields):
  return list(pairs.Pairs(DOCUMENTS, task, 600, (0, 0), **fields))


@pytest.mark.parametrize("task", pairs.TASKS)
@pytest.mark.parametrize("k, right", [(1, (1, 2)), (5, (1, 2)), (3, (0, 1))])
def test_candidates_come_from_where_their_label_says(task, k, right):
  hard = easy = yes = 0
  for row in _drawn(task, num_candidates=k, right=right):
    document, paragraph, premise = row.places[0]
    assert len(row.labels) == k == len(row.parts) - 1
    if k > 1:
      assert right[0] <= sum(row.labels) <= right[1]
    for part, place in zip(row.parts, row.places):
      assert [x[0] for x in part] == [100 * place[0] + 10 * place[1] + s for s in place[2]]
    for label, (d, p, sentences) in zip(row.labels, row.places[1:]):
      yes += label
      assert sentences and len(sentences) <= 4
      if label and task == "psd":
        assert d == document and p != paragraph and len(sentences) == 4
      elif label:
        assert (d, p) == (document, paragraph) and not set(sentences) & set(premise)
        if task == "sp":
          assert set(sentences) | set(premise) == set(range(4))
      elif d == document:
        assert p != paragraph and task != "psd"
        hard += 1
      else:
        easy += 1
  assert easy > 50 and 50 < yes
  if task != "psd":
    assert abs(hard / (hard + easy) - 0.5) < 0.1
  if k == 1:
    assert abs(yes / 600 - 0.5) < 0.08


def test_rows_depend_on_seed_and_number_alone():
  rows = pairs.Pairs(DOCUMENTS, "ssp", 50, (3, 0))
  again = pairs.Pairs(DOCUMENTS, "ssp", 50, (3, 0))
  assert [rows[i].places for i in (7, 3)] == [again[i].places for i in (7, 3)]
  assert rows[3].places != pairs.Pairs(DOCUMENTS, "ssp", 50, (4, 0))[3].places


def test_documents_without_paragraphs_are_refused():
  with pytest.raises(ValueError, match="ssp needs two documents or more"):
    pairs.Pairs([d[:1] for d in DOCUMENTS], "ssp", 5, (0,))[0]


def test_sentences_end_at_marks_and_short_ones_are_joined():
  text = 'He came in. "Who is there?" she asked him at once. No. It was the wind, I think.'
  assert pairs.sentences_of(text) == [
      'He came in. "Who is there?"', "she asked him at once. No.", "It was the wind, I think."]


def test_a_question_is_the_rarest_words_in_their_order():
  counts = pairs.word_counts([[["a a the fog", "the wind a"]]])
  assert pairs.rarest(["the wind a fog", "a"], counts, 2) == "wind fog"
  ids = pairs.rarest([np.array([3, 1, 2], np.int32)], {3: 1, 1: 9, 2: 1}, 2)
  assert ids.tolist() == [3, 2]


def _config(**fields):
  data = dict(length=12, packing="pad", append_eos=False, source=dict(
      name="structure", documents=dict(name="grammar", num_documents=6, num_validation=4,
                                       num_paragraphs=2, num_sentences=3)))
  data["source"] |= fields
  return data


def test_batches_have_labels_types_and_padding_that_nobody_sees():
  grammar = tokenizer_lib.build("grammar")
  batch = next(iter(pipeline.build(
      _config(num_candidates=2, right_max=1), grammar, split="train", batch_size=8, seed=0)))
  np.testing.assert_array_equal(batch["labels"][:, [4, 8]].max(axis=1), 2)
  assert (batch["labels"][:, [4, 8]] > 0).all() and (batch["labels"] > 0).sum() == 16
  np.testing.assert_array_equal(batch["token_types"][0], np.repeat([0, 1, 2], 4))
  assert not batch["loss_mask"][:, ::4].any() and batch["segment_ids"][:, ::4].all()
  np.testing.assert_array_equal(batch["segment_ids"] > 0, batch["tokens"] != grammar.pad_id)


@pytest.mark.parametrize("fields, message", [
    (dict(task="nsp"), "task is 'nsp'; choose from ssp, sp, psd"),
    (dict(hard_rate=2.0), "hard_rate must lie in"),
    (dict(num_candidates=2, right_min=2, right_max=1), "must be ordered numbers"),
    (dict(documents=dict(name="memory", documents=("a",))), "unknown source of documents with paragraphs name 'memory'; choose from grammar, text")])
def test_sources_that_cannot_be_drawn_from_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    sources.build(_config(**fields)["source"])


def test_questions_have_one_right_candidate():
  for question in sources.build(_config()["source"]).questions("validation", 20):
    assert len(question["parts"]) == 6 and sum(question["labels"]) == 1
    assert len(question["parts"][0]) == 3
