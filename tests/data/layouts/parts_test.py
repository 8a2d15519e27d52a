"""Premises with candidates: how a row is laid out."""

import pytest

from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import parts as parts_lib

TOKENIZER = tokenizer_lib.build("char")


def _row(parts, labels, length):
  cfg = pipeline.Config(length=length, source={}, packing="pad", append_eos=False)
  return parts_lib.Parts().row({"parts": parts, "labels": labels}, cfg, TOKENIZER)


def test_a_pair_is_two_texts_between_special_tokens():
  row = _row(["abc", "de"], [True], 16)
  eos = TOKENIZER.eos_id
  ids = TOKENIZER.encode
  assert row["tokens"].tolist() == [eos, *ids("abc"), eos, *ids("de"), eos]
  assert row["is_given"].tolist() == [1, 0, 0, 0, 1, 0, 0, 1]
  assert row["token_types"].tolist() == [0] * 4 + [1] * 4
  assert row["labels"].tolist() == [2] + [0] * 7
  longer = _row(["a" * 30, "bcd"], [False], 16)
  assert len(longer["tokens"]) == 16 and longer["labels"][0] == 1
  assert longer["tokens"][-4:].tolist() == [*ids("bcd"), eos]  # the longer text was cut


def test_several_candidates_have_slots_with_padding():
  row = _row(["abc", "de", "f"], [True, False], 12)
  eos, pad, ids = TOKENIZER.eos_id, TOKENIZER.pad_id, TOKENIZER.encode
  assert row["tokens"].tolist() == [
      eos, *ids("abc"), eos, *ids("de"), pad, eos, *ids("f"), pad, pad]
  assert row["labels"].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]
  assert row["is_empty"].tolist() == [0] * 7 + [1] + [0] * 2 + [1] * 2
  with pytest.raises(ValueError, match="use a multiple of 3 as data.length"):
    _row(["abc", "de", "f"], [True, False], 13)
