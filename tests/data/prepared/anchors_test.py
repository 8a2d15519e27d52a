"""Anchors: consistent replacement, alignment of tokens, bad files."""

import json

import numpy as np
import pytest

from mdx.data import tokenizer as tokenizer_lib
from mdx.data.prepared import anchors

BYTE = tokenizer_lib.build("byte")
BPE = tokenizer_lib.build("asset:holmes_bpe512.json")
TABLE = {"Holmes": "Brown", "Baker Street": "Mill Lane", "Holmes senior": "old Smith"}


def test_every_anchor_has_the_same_replacement_and_what_stands_again_is_a_repeat():
  seen = set()
  text, spans = anchors.translate("Holmes of Baker Street: Holmes, not Holmesian.", TABLE, seen)
  assert text == "Brown of Mill Lane: Brown, not Holmesian."
  assert [span.is_repeat for span in spans] == [False, False, True]
  assert seen == {"Holmes", "Baker Street"}
  for span, (old, new) in zip(spans, (("Holmes", "Brown"), ("Baker Street", "Mill Lane"),
                                      ("Holmes", "Brown"))):
    assert text[span.new_start:span.new_stop] == new
    assert "Holmes of Baker Street: Holmes, not Holmesian."[span.start:span.stop] == old
  assert anchors.translate("Holmes senior", TABLE, set())[0] == "old Smith"  # the longest
  assert anchors.translate("Holmes", TABLE, {"Holmes"})[1][0].is_repeat
  assert anchors.translate("Holmes", {}, set()) == ("Holmes", [])


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
def test_tokens_outside_of_anchors_correspond_by_their_characters(tokenizer):
  text = "At noon Holmes met Watson, and Holmes left Baker Street."
  new, spans = anchors.translate(text, TABLE, set())
  offsets, new_offsets = tokenizer.offsets(text), tokenizer.offsets(new)
  tokens, new_tokens = tokenizer.encode(text), tokenizer.encode(new)
  found = anchors.align(spans, offsets, new_offsets, new_tokens)
  inside = lambda offset: any(offset[0] < s.stop and offset[1] > s.start for s in spans)
  outside = [i for i in range(len(tokens)) if not inside(offsets[i])]
  same = [i for i in outside if found.index[i] >= 0]
  assert len(same) >= len(outside) - 4  # a merge over the edge of an anchor has no counterpart
  for i in same:
    assert tokens[i] == new_tokens[found.index[i]] and found.origin[found.index[i]] == i
  starts = np.flatnonzero(found.replaced >= 0)
  assert len(starts) == 3  # at each of the three occurrences
  assert (found.index[starts] >= 0).tolist() == [True, False, True]  # the second is a repeat
  for i in starts[[0, 2]]:
    assert new_tokens[found.index[i]] == found.replaced[i]
  # A replacement comes from where its anchor begins, whatever the numbers of tokens.
  new_inside = [j for j in range(len(new_tokens)) if any(
      new_offsets[j][0] < s.new_stop and new_offsets[j][1] > s.new_start for s in spans)]
  assert set(found.origin[new_inside]) == set(starts)
  assert (found.index[[i for i in range(len(tokens)) if inside(offsets[i]) and i not in starts]]
          == -1).all()


@pytest.mark.parametrize("value, message", [
    ([], "expected an object"), ({}, "with one entry or more"), ({"a": 1}, "texts that are not"),
    ({" ": "b"}, "texts that are not empty"),
    ({"Tom": "the other Ann", "Ann": "Sue"}, "'the other Ann' of 'Tom' has the anchor 'Ann'"),
    ({"Tom": "Tom"}, "has the anchor 'Tom' in it; give one that is generic")])
def test_files_without_meaning_are_refused_in_one_line(value, message, tmp_path):
  path = tmp_path / "anchors.json"
  path.write_text(json.dumps(value))
  with pytest.raises(ValueError, match=message) as error:
    anchors.read(path)
  assert "\n" not in str(error.value) and "anchors.json" in str(error.value)
  path.write_text(json.dumps(TABLE))
  assert anchors.read(path) == TABLE
