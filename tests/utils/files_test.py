"""Rows of a restarted run are read again, whatever characters they have."""

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
