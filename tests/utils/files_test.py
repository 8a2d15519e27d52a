"""Rows of a restarted run are read again, whatever characters they have."""

import pytest

from mdx.utils import files


def test_rows_with_separators_of_unicode_are_kept_over_a_restart(tmp_path):
  path = tmp_path / "rows.jsonl"
  texts = ["one\u2028two", "a\x85b", "\u2029", "plain"]
  rows = files.PartialRows(path, "id")
  for i, text in enumerate(texts):
    rows.add(i, {"text": text})
  again = files.PartialRows(path, "id")
  assert [again.rows[i]["text"] for i in range(4)] == texts
  assert not files.PartialRows(path, "other").rows


def test_damaged_rows_are_left_out_with_a_warning_and_the_last_in_silence(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = files.PartialRows(path, "id")
  for i in range(6):
    rows.add(i, {"text": f"t{i}"})
  partial = tmp_path / "rows.partial.jsonl"
  lines = partial.read_bytes().split(b"\n")
  assert len(lines) == 8
  partial.write_bytes(b"\n".join([*lines[:7], b'{"row": 6, "te']))
  assert sorted(files.PartialRows(path, "id").rows) == list(range(6))
  damage = {1: b"\xff\xfe", 2: b"[" * 10**5, 3: b"[1]", 4: b'{"row": "x", "text": "t"}'}
  partial.write_bytes(b"\n".join(damage.get(i, line) for i, line in enumerate(lines)))
  with pytest.warns(UserWarning, match="rows.partial.jsonl: 4 damaged"):
    again = files.PartialRows(path, "id")
  assert again.rows == {4: {"text": "t4"}, 5: {"text": "t5"}}
  partial.write_bytes(b"[]\n" + b"\n".join(lines[1:]))
  assert not files.PartialRows(path, "id").rows
