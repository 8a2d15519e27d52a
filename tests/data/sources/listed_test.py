"""Texts are read in their order, with ids, from any table; what cannot be is named with its line."""

import json

import pytest

from mdx.data.sources import listed


@pytest.mark.parametrize("name, content", [
    ("a.txt", "one\n\ntwo\n"), ("a.csv", 'id,text\n0,one\n1,two\n'),
    ("a.jsonl", '{"id": "0", "text": "one"}\n{"id": "1", "text": "two"}\n')])
def test_texts_have_ids_in_their_order(name, content, tmp_path):
  (tmp_path / name).write_text(content)
  for id_field in ("", "id"):
    found = listed.read(str(tmp_path / name), field="text", id_field=id_field)
    assert found == listed.Listed(["0", "1"], ["one", "two"])


@pytest.mark.parametrize("rows, words", [
    ([dict(id="a", text="x"), dict(id="a", text="y")], "line 2: the id 'a' is also that of .*line 1"),
    ([dict(id="a", text=" ")], "line 1: the text is empty"), ([dict(id="a")], "no column 'text'"),
    ([], "has no rows")])
def test_rows_that_cannot_be_are_refused(rows, words, tmp_path):
  file = tmp_path / "a.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  with pytest.raises(ValueError, match=words):
    listed.read(str(file), field="text", id_field="id")
