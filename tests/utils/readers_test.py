"""Readers: where lines end, what is no text, and what is not read as text."""

import gzip
import json

import pytest

from mdx.data import sources
from mdx.modes import sample
from mdx.tasks import problems
from mdx.utils import readers

# Line ends of str.splitlines and of Unicode that are characters of a text.
SEPARATORS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_lines_end_at_newlines_alone():
  text = f"one{SEPARATORS}one\r\n\ntwo\r"
  assert readers.lines(text) == [f"one{SEPARATORS}one", "", "two"]
  assert readers.lines("a\n") == ["a"] and not readers.lines("") and readers.lines("\n") == [""]


@pytest.mark.parametrize("suffix, pack", [("txt", bytes), ("txt.gz", gzip.compress)])
def test_a_bom_is_no_text(suffix, pack, tmp_path):
  path = tmp_path / f"a.{suffix}"
  path.write_bytes(pack("\ufeffone\ufeff\n".encode()))
  assert readers.read_text(str(path)) == "one\ufeff\n"


def _jsonl(path, data: bytes):
  path.write_bytes(data)
  return sources.build(dict(name="jsonl", path=str(path), holdout_every=0)).records("train")


@pytest.mark.parametrize("limit", [0, 2**20])
def test_jsonl_is_read_over_boms_blank_lines_and_separators(limit, tmp_path, monkeypatch):
  monkeypatch.setattr(readers, "_CHECKED_JSONL_BYTES", limit)
  texts = ["one", f"two{SEPARATORS}two", "three"]
  first, second, third = (json.dumps({"text": x}, ensure_ascii=False) for x in texts)
  data = f"\ufeff{first}\r\n\n  \t\r\n{second}\n\n{third}\n\n\n".encode()
  records = _jsonl(tmp_path / "a.jsonl", data)
  assert [r["text"] for r in records] == texts
  records = _jsonl(tmp_path / "a.jsonl", b"\xef\xbb\xbf\n\n" + data.removeprefix(b"\xef\xbb\xbf"))
  assert [r["text"] for r in records] == texts


def test_the_line_of_an_error_counts_blank_lines(tmp_path, monkeypatch):
  data = b'\xef\xbb\xbf{"text": "a"}\n\n\n{"text": \n'
  with pytest.raises(ValueError, match="a.jsonl, line 4: not JSON"):
    _jsonl(tmp_path / "a.jsonl", data)
  monkeypatch.setattr(readers, "_CHECKED_JSONL_BYTES", 0)
  records = _jsonl(tmp_path / "a.jsonl", data)
  with pytest.raises(ValueError, match="a.jsonl, line 4: not JSON"):
    records[1]  # pylint: disable=pointless-statement


def _field(number: int, content: bytes) -> bytes:
  """A protocol buffer's field of bytes."""
  size, found = len(content), bytearray([8 * number + 2])
  while True:
    found.append(size & 127 | (128 if size > 127 else 0))
    size >>= 7
    if not size:
      return bytes(found) + content


def _example(**features: bytes) -> bytes:
  """tf.train.Example of features of one bytes value each."""
  return _field(1, b"".join(_field(1, _field(1, k.encode()) + _field(2, _field(1, _field(1, v))))
                            for k, v in features.items()))


@pytest.mark.parametrize("features", [dict(text=b"a text"), dict(a=b"", b=b"two"),
                                      dict(text=b"long " * 3000)])
def test_a_tensorflow_example_is_refused_as_text(features):
  with pytest.raises(ValueError, match="record 3: it is a tf.train.Example") as error:
    readers.record(_example(**features), "record 3")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "\n\x05\n\x03abc", "\n\x06\n\x02ab", "text",
                                  "\n" * 12, "\nan ordinary line\n"])
def test_texts_that_begin_with_a_line_end_are_texts(text):
  assert readers.record(text.encode(), "x") == {"text": text}


_DEEP = "[" * 100_000 + "]" * 100_000
_NESTED = '{"text": ' + "[" * 300 + "]" * 300 + "}"
_DIGITS = '{"text": ' + "9" * 5000 + "}"


@pytest.mark.parametrize("line, message", [
    (_DEEP, "levels of lists and objects"), (_NESTED, "levels of lists and objects"),
    ('{"a":' * 5000, "not JSON"), (_DIGITS, "an integer has more than 4300 digits")])
@pytest.mark.parametrize("read", [
    lambda path: readers.JsonLines(path, ("text",), readers.record),
    lambda path: list(readers.json_rows(path)), readers.read_json,
    lambda path: sources.build({"name": "jsonl", "path": path}).records("train"),
    lambda path: sources.build({"name": "chat", "path": path, "field": "text"}).records("train"),
    lambda path: sources.build({"name": "table", "path": path}).records("train"),
    lambda path: problems.read_rows(path), sample.read_prompts],
    ids=["lines", "rows", "file", "jsonl", "chat", "table", "task", "prompts"])
def test_json_that_python_cannot_read_is_refused_in_one_line(tmp_path, read, line, message):
  path = tmp_path / "a.jsonl"
  path.write_text(line + "\n")
  with pytest.raises(ValueError, match=message) as error:
    read(str(path))
  text = str(error.value)
  assert str(path) in text and "\n" not in text and len(text) < 600


def test_json_of_ordinary_depth_is_read():
  for depth in (1, 50, 100):
    assert readers.parse_json("[" * depth + "]" * depth, "here", "x") is not None
  wide = json.dumps([{"a": [1]}] * 500)
  assert len(readers.parse_json(wide, "here", "x")) == 500
