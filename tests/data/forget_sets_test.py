"""Rows to forget and to keep: files, their forms, overlaps, parts, questions."""

import json

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib

BYTE = tokenizer_lib.build("byte")


def _write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def _tofu(tmp_path, **fields):
  """Files in the form of TOFU, with made-up rows."""
  forget = [{"question": f"Who wrote book {i}?", "answer": f"Ada {i} did."} for i in range(2)]
  retain = [{"question": f"Who found star {i}?", "answer": f"Bo {i}."} for i in range(6)]
  return dict(name="unlearning", path=_write(tmp_path / "forget01.jsonl", forget),
              retain_path=_write(tmp_path / "retain99.jsonl", retain), holdout_every=3) | fields


def test_questions_of_two_files_become_pairs_and_all_texts_are_evaluated(tmp_path):
  source = sources.build(_tofu(tmp_path))
  train, held_out = source.records("train"), source.records("validation")
  answers = lambda rows, name: [row[name]["answer"] for row in rows if row[name]]
  assert answers(train, "forget") == ["Ada 0 did.", "Ada 1 did."] * 2  # the shorter is repeated
  assert answers(train, "retain") == ["Bo 0.", "Bo 1.", "Bo 3.", "Bo 4."]
  assert answers(held_out, "forget") == ["Ada 0 did.", "Ada 1 did."]
  assert answers(held_out, "retain") == ["Bo 2.", "Bo 5."]
  assert train[0]["forget"]["prompt"] == "Question: Who wrote book 0?\nAnswer: "
  assert "forget01.jsonl, line 1 and" in train[0]["where"]
  assert source.probes("validation")["forget"][1] == (
      "Question: Who wrote book 1?\nAnswer: ", "Ada 1 did.")
  everything = sources.build(_tofu(tmp_path, holdout_every=0))
  assert len(answers(everything.records("validation"), "retain")) == 6


def test_one_file_may_say_the_set_of_each_line_and_texts_are_probed_by_their_second_half(tmp_path):
  rows = [{"text": "one two three four", "set": "forget"}, {"text": "five six", "set": "retain"},
          {"prompt": "p", "completion": "c", "set": "retain"}]
  fields = dict(name="unlearning", path=_write(tmp_path / "all.jsonl", rows), holdout_every=2)
  source = sources.build(fields)
  assert source.probes("train")["forget"] == [("one two", "three four")]
  assert source.layout == "unlearning"
  parts = {part: sources.build(fields | {"part": part}) for part in ("all", "forget", "retain")}
  assert {x.layout for x in parts.values()} == {"answered"}
  texts = {k: [r["prompt"] + r["answer"] for r in v.records("train")] for k, v in parts.items()}
  assert texts == {"all": ["one two three four", "five six"], "forget": ["one two three four"],
                   "retain": ["five six"]}
  assert [r["answer"] for r in parts["retain"].records("validation")] == ["c"]


def test_a_row_of_both_sets_is_refused_by_the_first_such_line(tmp_path):
  fields = _tofu(tmp_path)
  _write(tmp_path / "forget01.jsonl", [
      {"question": "New?", "answer": "Yes."}, {"question": "Who found  star 4?", "answer": "bo 4."}])
  with pytest.raises(ValueError, match="forget01.jsonl, line 2 is to be forgotten, and .*retain99"
                                       ".jsonl, line 5 with the same text") as error:
    sources.build(fields).records("train")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("row, message", [
    ({"question": "a"}, "line 1: expected `text`, or `question`"), ([1], "line 1: expected a JSON object"),
    ({"prompt": "a", "answer": " "}, "an answer that is not empty"),
    ({"text": 3}, "line 1: expected texts")])
def test_lines_without_meaning_are_refused(row, message, tmp_path):
  fields = _tofu(tmp_path)
  _write(tmp_path / "forget01.jsonl", [row])
  with pytest.raises(ValueError, match=message):
    sources.build(fields).records("train")


def test_fields_without_meaning_are_refused(tmp_path):
  fields = _tofu(tmp_path)
  for change, message in (({"part": "some"}, "part is 'some'; choose from"),
                          ({"template": "Q"}, "must have {question} once"),
                          ({"retain_path": None}, "line 1: expected \"set\": \"forget\"")):
    with pytest.raises(ValueError, match=message):
      sources.build(fields | change).records("train")
  _write(tmp_path / "retain99.jsonl", [])
  with pytest.raises(ValueError, match="there are no rows to keep"):
    sources.build(fields).records("train")


def test_a_row_has_both_texts_and_the_translation_of_the_one_to_forget(tmp_path):
  anchors = tmp_path / "anchors.json"
  anchors.write_text(json.dumps({"Ada": "Eve", "book": "large work"}))
  cfg = dict(length=64, packing="pad", source=_tofu(
      tmp_path, anchors=str(anchors), template="{question}"))
  build = lambda split: next(iter(pipeline.build(
      cfg, BYTE, split=split, batch_size=4, seed=0, shuffle=False, repeat=False,
      drop_remainder=False)))
  batch = build("train")
  text = lambda name, row: BYTE.decode(batch[name][0][row])
  real = batch["segment_ids"][0] > 0
  assert text("tokens", batch["loss_mask"][0]).startswith("Ada 0 did.")
  assert text("retain", batch["retain_loss_mask"][0]).startswith("Bo 0.")
  assert text("generic", batch["generic_segment_ids"][0] > 0).startswith(
      "Who wrote large work 0?Eve 0 did.")
  index, origin = batch["generic_index"][0], batch["generic_origin"][0]
  aligned = real & (index >= 0)
  is_anchor = batch["replaced"][0] >= 0
  assert is_anchor.sum() == 2 and aligned.sum() == real.sum() - len("ookda")  # the rest of anchors
  np.testing.assert_array_equal(batch["tokens"][0][aligned & ~is_anchor],
                                batch["generic"][0][index[aligned & ~is_anchor]])
  np.testing.assert_array_equal(origin[index[aligned]], np.flatnonzero(aligned))
  assert index[real][-1] >= 0 and batch["tokens"][0][real][-1] == BYTE.eos_id
  held_out = build("validation")
  assert held_out["loss_mask"][:2].any(axis=1).all() and not held_out["loss_mask"][2:].any()
  with pytest.raises(ValueError, match="translation of the text to forget has 34 tokens"):
    cfg["length"] = 30
    build("train")


def test_habits_are_peculiar_to_those_who_are_forgotten():
  source = sources.build(dict(name="habits", num_retain=50, num_validation=9))
  train = source.records("train")
  common, peculiar = ({row[name]["answer"] for row in train} for name in ("retain", "forget"))
  assert common and peculiar and not common & peculiar
  assert len(source.records("validation")) == 8 * 6 * 4
  assert set(train[0]["anchors"]) >= peculiar and not set(train[0]["anchors"].values()) & peculiar
  plain = sources.build(dict(name="habits", num_retain=50, num_validation=9, has_anchors=False))
  assert plain.records("train")[0]["anchors"] == {}
