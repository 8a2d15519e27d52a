"""Views: two texts of a record side by side."""

import json

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib

BYTE = tokenizer_lib.build("byte")


def _batch(source, size=4, **fields):
  cfg = dict(length=12, packing="pad", source=source) | fields
  return next(iter(pipeline.build(cfg, BYTE, split="train", batch_size=size, seed=0,
                                  shuffle=False)))


def _decoded(batch, name):
  return [BYTE.decode(row) for row in batch[name]]


def test_two_texts_of_a_line_are_a_row(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text("".join(json.dumps({"texts": pair}) + "\n" for pair in (
      ["one", "other one"], ["ab", "c"])))
  batch = _batch(dict(name="jsonl", path=str(path), field="texts", holdout_every=0), 2)
  assert _decoded(batch, "tokens") == ["one", "ab"]
  assert _decoded(batch, "other") == ["other one", "c"]
  np.testing.assert_array_equal(batch["segment_ids"].sum(axis=1), [4, 3])  # with the end
  np.testing.assert_array_equal(batch["other_segment_ids"].sum(axis=1), [10, 2])
  np.testing.assert_array_equal(batch["other"][:, -1], BYTE.pad_id)
  np.testing.assert_array_equal(batch["loss_mask"].sum(axis=1), [3, 2])  # without it


def test_a_text_is_both_views_of_itself():
  documents = dict(name="memory", documents=("abc", "de"), holdout_every=0)
  batch = _batch(documents, 2, layout="views")
  np.testing.assert_array_equal(batch["tokens"], batch["other"])
  np.testing.assert_array_equal(batch["segment_ids"], batch["other_segment_ids"])
  assert _decoded(batch, "tokens") == ["abc", "de"]


def test_each_view_is_cut_on_its_own_and_keeps_its_end(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps({"texts": ["a" * 30, "b"]}) + "\n")
  source = dict(name="jsonl", path=str(path), field="texts", holdout_every=0)
  batch = _batch(source, 1, packing="crop")
  assert _decoded(batch, "tokens") == ["a" * 11] and _decoded(batch, "other") == ["b"]
  assert batch["tokens"][0, -1] == BYTE.eos_id
  with pytest.raises(ValueError, match=f"record 0 of .*{path}: 31 tokens, but packing='pad'"):
    _batch(source, 1)


@pytest.mark.parametrize("value", [["a"], ["a", "b", "c"], ["a", 1]])
def test_a_value_that_is_no_pair_is_named(value, tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text("".join(json.dumps({"texts": x}) + "\n" for x in (["a", "b"], value)))
  source = sources.build(dict(name="jsonl", path=str(path), field="texts", holdout_every=0))
  with pytest.raises(ValueError, match="line 2: expected a list of two texts, or a text"):
    source.records("train")
