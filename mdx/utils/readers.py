"""Readers: random-access sequences of records, and what makes a record of raw bytes.

Contents: Subset (hold-out), Concatenated, Mapped, JsonLines; read_text, read_json, read_object,
parse_json, lines, cut, record, raw, messages, two_texts, three_texts, prompt, preference,
json_record, json_rows, first_value, reason; ROLES.

Convention: an error names the file and the line, row or record, in one line.
"""

from __future__ import annotations

import abc
import codecs
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mdx.utils import streams

_CHECKED_JSONL_BYTES = 64 * 2**20
_MAX_JSON_DEPTH = 100  # lists and objects in one another
ROLES = ("system", "developer", "user", "assistant", "tool")  # of a conversation's messages
_MORE = {"name", "tool_call_id"}
_OF_ANSWERS = {"tool_calls", "reasoning_content", "reasoning", "thinking"}


class Records(Sequence):
  """Base of the sequences here: `_length` records, read by `_get(index)`."""

  _length: int

  @abc.abstractmethod
  def _get(self, index: int) -> Any:
    """The record of an index in range."""

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: Any) -> Any:
    if not 0 <= index < self._length:
      raise IndexError(index)
    return self._get(index)


class Subset(Records):
  """The train or the validation part of `records` under the hold-out rule."""

  def __init__(self, records: Sequence, holdout_every: int, is_validation: bool):
    self._records, self._every, self._is_validation = records, holdout_every, is_validation
    held_out = len(records) // holdout_every
    self._length = held_out if self._is_validation else len(records) - held_out

  def _get(self, index):
    if self._is_validation:
      return self._records[(index + 1) * self._every - 1]
    return self._records[index + index // (self._every - 1)]


class Concatenated(Records):
  """Several sequences, one after another."""

  def __init__(self, parts: Sequence[Sequence]):
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])
    self._length = int(self._ends[-1])

  def _get(self, index):
    part = int(np.searchsorted(self._ends, index, side="right"))
    return self._parts[part][index - int(self._ends[part - 1]) if part else index]


class JsonLines(Records):
  """The lines of one jsonl file, by offset; `convert` makes a record of the fields' values."""

  def __init__(self, path: str, fields: Sequence[str], convert: Callable,
               is_checked: bool = True):
    """Finds the lines that are not blank; `is_checked`: and reads those of a file below 64 MB."""
    if path.endswith((".gz", ".xz")):
      raise ValueError(f"{path}: a compressed jsonl file has no random access; unpack it.")
    self._path, self._fields, self._convert = path, fields, convert
    streams.check_regular(path)
    is_checked &= os.path.getsize(path) < _CHECKED_JSONL_BYTES
    found = []
    for number, start, line in _json_lines(path):
      if is_checked:
        json_record(line, fields, f"{path}, line {number}", convert)
      found.append((number, start))
    self._lines = np.asarray(found, np.int64).reshape(-1, 2)
    self._length = len(self._lines)

  def _get(self, index):
    number, start = self._lines[index].tolist()
    with open(self._path, "rb") as f:
      f.seek(start)
      return json_record(f.readline(), self._fields, f"{self._path}, line {number}", self._convert)


class Mapped(Records):
  """`convert(item or item[key], where=...)` of the items of another sequence."""

  def __init__(self, items: Sequence, convert: Callable, where: str, key: str | None = None):
    self._length = len(items)
    self._items, self._convert, self._where, self._key = items, convert, where, key

  def _get(self, index):
    where = f"{self._where}, record {index}"
    try:
      item = self._items[index]
    except Exception as e:  # whatever the library raises for a damaged file
      raise ValueError(f"{where}: cannot be read ({reason(e)}); is the file complete?") from e
    return self._convert(item if self._key is None else item[self._key], where=where)


def reason(error: Exception) -> str:
  """Message of an exception of another library, in one line of moderate length."""
  return " ".join(str(error).split())[:200] or type(error).__name__


def record(value: Any, where: str) -> dict[str, Any]:
  """Makes {"text": str} or {"tokens": int32 [n]} of a raw value."""
  if isinstance(value, bytes):
    if _is_example(value):
      raise ValueError(f"{where}: it is a tf.train.Example, no text; write the texts themselves, "
                       "with python -m mdx.data.prepare records.")
    try:
      return {"text": value.decode("utf-8")}
    except UnicodeDecodeError as e:
      raise ValueError(f"{where}: not UTF-8 text ({e.reason}); re-encode it, or set `field` "
                       "if the records are JSON.") from e
  if isinstance(value, str):
    return {"text": value}
  if isinstance(value, (Sequence, np.ndarray)):
    try:
      tokens = np.asarray(value)
    except ValueError:  # ragged
      tokens = np.asarray(None)
    if tokens.ndim == 1 and (not tokens.size or tokens.dtype.kind in "iu"):
      if tokens.size and (tokens.min() < 0 or tokens.max() >= 2**31):
        raise ValueError(f"{where}: token ids must be in [0, 2**31), got "
                         f"{tokens.min()} to {tokens.max()}.")
      return {"tokens": tokens.astype(np.int32)}
  shown = " ".join(repr(value).split())
  raise ValueError(f"{where}: expected text or a flat list of token ids, got {shown:.60}.")


def _is_example(value: bytes) -> bool:
  """Whether bytes are a serialized tf.train.Example: a message of entries, to the last byte."""
  features = _message(value, 0)
  if not features or features[1] != len(value):
    return False
  start, end = features
  while start < end:
    entry = _message(value, start)
    if not entry or entry[1] > end or not _message(value, entry[0]):
      return False
    start = entry[1]
  return features[0] < end


def _message(value: bytes, start: int) -> tuple[int, int] | None:
  """Begin and end of a protocol buffer's field 1 of bytes that starts here, or None."""
  if value[start:start + 1] != b"\n":
    return None
  size = shift = 0
  for i in range(start + 1, min(start + 11, len(value))):
    size |= (value[i] & 127) << shift
    shift += 7
    if value[i] < 128:
      return (i + 1, i + 1 + size) if i + 1 + size <= len(value) else None
  return None


def raw(found: Mapping[str, Any]) -> str | list[int]:
  """The value that `record` made a record of."""
  return found["text"] if "text" in found else found["tokens"].tolist()


def messages(value: Any, where: str) -> dict[str, Any]:
  """Makes {"messages": [{"role", "content", ...}, ...]} of a raw value; ValueError names `where`.

  A message may have what else templates read (`name`, `tool_calls`, ...); the content of an
  assistant's may be None. Keys that are None, as columns of a table are, are left out.
  """
  if not isinstance(value, Sequence) or isinstance(value, str) or not value:
    raise ValueError(f"{where}: expected a list of messages, got {value!r:.60}.")
  found = []
  for i, message in enumerate(value):
    if isinstance(message, Mapping):
      message = {"content": None} | {k: v for k, v in message.items() if v is not None}
    more = set(message) - {"role", "content"} if isinstance(message, Mapping) else {"?"}
    is_answer = isinstance(message, Mapping) and message.get("role") == "assistant"
    if more - _MORE - (_OF_ANSWERS if is_answer else set()) or "role" not in message or (
        message["content"] is None and not is_answer):
      raise ValueError(f"{where}: message {i} must have role and content, and nothing else but "
                       f"{', '.join(sorted(_MORE))}, and of an assistant "
                       f"{', '.join(sorted(_OF_ANSWERS))}; got {message!r:.60}.")
    if message["role"] not in ROLES:
      raise ValueError(f"{where}: message {i} has the role {message['role']!r:.40}; choose from "
                       f"{', '.join(ROLES)}.")
    if not isinstance(message["content"], (str, type(None))):
      raise ValueError(f"{where}: the content of message {i} is {message['content']!r:.40}; "
                       "expected text.")
    calls = message.get("tool_calls", [])
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
      raise ValueError(f"{where}: tool_calls of message {i} are {calls!r:.40}; expected a list of "
                       "calls, as chat templates read them.")
    found.append(message)
  return {"messages": found}


def two_texts(value: Any, where: str) -> dict[str, Any]:
  """Makes {"texts": [str, str]} of a raw value, a list of two texts or one text that is both."""
  found = [value, value] if isinstance(value, str) else value
  if not isinstance(found, list) or len(found) != 2 or not all(isinstance(x, str) for x in found):
    raise ValueError(f"{where}: expected a list of two texts, or a text, got {value!r:.60}.")
  return {"texts": found}


def three_texts(value: Any, where: str) -> dict[str, Any]:
  """Makes {"texts": [str, str, str]} of a raw value, a list of three texts."""
  if (not isinstance(value, list) or len(value) != 3
      or not all(isinstance(x, str) and x for x in value)):
    raise ValueError(f"{where}: expected a list of three texts that are not empty (a text, one "
                     f"like it and one unlike it), got {value!r:.60}.")
  if value[1] == value[2]:
    raise ValueError(f"{where}: the positive and the negative text are the same, {value[1]!r:.40}; "
                     "leave the record out.")
  return {"texts": value}


def prompt(value: Any, answer: Any, where: str) -> dict[str, Any]:
  """Makes {"prompt", "answer", "blank"} of two texts, the answer one that follows its prompt."""
  for x in (value, answer):
    if not isinstance(x, str):
      raise ValueError(f"{where}: expected texts as prompt and answer, got {x!r:.60}.")
  return {"prompt": value, "answer": answer, "blank": ""}


def preference(value: Any, chosen: Any, rejected: Any, where: str) -> dict[str, Any]:
  """Makes {"prompt", "chosen", "rejected"} of a prompt, text or messages, and two answers."""
  for name, answer in (("chosen", chosen), ("rejected", rejected)):
    if not isinstance(answer, str) or not answer:
      raise ValueError(f"{where}: {name} must be a text that is not empty, got {answer!r:.60}.")
  if chosen == rejected:
    raise ValueError(f"{where}: chosen and rejected are the same text, {chosen!r:.40}; leave the "
                     "pair out.")
  if not isinstance(value, str):
    value = messages(value, f"{where}, prompt")["messages"]
  return {"prompt": value, "chosen": chosen, "rejected": rejected}


def json_record(line: bytes, fields: Sequence[str], where: str,
                convert: Callable = record) -> dict[str, Any]:
  """Makes a record of the values of fields of a JSON object; ValueError names `where` it stands."""
  item = parse_json(line, where, f"write one object a line, such as {{\"{fields[0]}\": ...}}")
  for field in fields:
    if not isinstance(item, dict) or field not in item:
      found = ", ".join(item) if isinstance(item, dict) else f"no fields, it is {item!r:.40}"
      raise ValueError(f"{where}: no field {field!r} but {found}. Set `field` of the source.")
  return convert(*(item[field] for field in fields), where=where)


def json_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """(file and line, object) of the lines of a text file that are not blank; may be compressed."""
  for number, line in enumerate(lines(read_text(path)), 1):
    if not line.strip(" \t"):
      continue
    where = f"{path}, line {number}"
    row = parse_json(line, where, "write one object a line")
    if not isinstance(row, dict):
      raise ValueError(f"{where}: expected a JSON object, got {line!r:.60}.")
    yield where, row


def first_value(path: str, field: str) -> Any:
  """The value of a field of the first object of a jsonl file; None if there is none."""
  try:
    return next(json.loads(line)[field] for _, _, line in _json_lines(path))
  except (OSError, ValueError, RecursionError, KeyError, TypeError, StopIteration):
    return None  # readers of records say what is wrong


def _json_lines(path: str) -> Iterator[tuple[int, int, bytes]]:
  """(number, offset, line) of the lines of a file that are not blank, without a BOM."""
  start = 0
  streams.check_regular(path)
  with open(path, "rb") as f:
    for number, line in enumerate(f, 1):
      mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
      if line[mark:].strip(b" \t\r\n"):
        yield number, start + mark, line[mark:]
      start += len(line)


def read_text(path: str | os.PathLike) -> str:
  """Reads a UTF-8 file, plain, .xz or .gz, without a BOM; ValueError names file and line.

  A packed file holds at most `streams.MAX_UNPACKED_BYTES`.
  """
  try:
    data = streams.read_bytes(path)
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise ValueError(f"{path}, line {line}: not UTF-8 text ({e.reason}); re-encode the file, "
                     "for instance with iconv.") from e
  except (OSError, EOFError, lzma.LZMAError, zlib.error) as e:
    raise ValueError(f"{path}: cannot be read ({e}); is the file complete?") from e


def read_json(path: str | os.PathLike, remedy: str = "restore the file or make it again") -> Any:
  """The value of a JSON file; ValueError, which names the file, unless it is there and is JSON."""
  return _parse(read_text(path), f"{os.fspath(path)} is not JSON", remedy)


def read_object(path: str | os.PathLike, *names: str) -> dict[str, Any]:
  """The object of a JSON file that has these entries; ValueError, which names the file."""
  found = read_json(path)
  if not isinstance(found, dict) or (missing := [name for name in names if name not in found]):
    lacks = f"an object without {', '.join(missing)}" if isinstance(found, dict) else (
        f"{found!r:.40}")
    raise ValueError(f"{os.fspath(path)}: expected an object{' with ' if names else ''}"
                     f"{', '.join(names)}, got {lacks}; restore the file or make it again.")
  return found


def parse_json(text: str | bytes, where: str, remedy: str) -> Any:
  """The value of a JSON text.

  Args:
    text: of one value.
    where: it stands, for messages.
    remedy: what to do about a text that is none, for messages.

  Raises:
    ValueError: no JSON, lists and objects more than 100 levels deep, or an integer of more digits
      than Python reads (4300).
  """
  return _parse(text, f"{where}: not JSON", remedy)


def _parse(text: str | bytes, complaint: str, remedy: str) -> Any:
  """`parse_json`, whose messages begin with a complaint."""
  try:
    value = json.loads(text)
    is_deep = _is_deep(text, value)
  except RecursionError:
    is_deep = True
  except json.JSONDecodeError as e:
    raise ValueError(f"{complaint} ({reason(e)}): {text!r:.60}; {remedy}.") from None
  except UnicodeDecodeError as e:
    raise ValueError(f"{complaint} (not utf-8: {e.reason}); {remedy}.") from None
  except ValueError:
    raise ValueError(f"{complaint} that can be read (an integer has more than "
                     f"{sys.get_int_max_str_digits()} digits); {remedy}.") from None
  if is_deep:
    raise ValueError(f"{complaint} that can be read (more than {_MAX_JSON_DEPTH} levels of "
                     f"lists and objects); {remedy}.")
  return value


def _is_deep(text: Any, value: Any) -> bool:
  """Whether a value has more than _MAX_JSON_DEPTH levels, of which a text shows the brackets."""
  brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
  if sum(map(text.count, brackets)) <= _MAX_JSON_DEPTH:
    return False
  level = [value]
  for _ in range(_MAX_JSON_DEPTH + 1):
    level = [x for v in level if isinstance(v, (list, dict))
             for x in (v.values() if isinstance(v, dict) else v)]
  return any(isinstance(x, (list, dict)) for x in level)


def lines(text: str) -> list[str]:
  r"""Lines of a text; they end at \n or \r\n alone, as those of files of lines do."""
  found = text.split("\n")
  return [line.removesuffix("\r") for line in (found if found[-1] else found[:-1])]


def cut(text: str, document_chars: int) -> list[str]:
  """Cuts text at line ends into pieces of at most document_chars, if lines allow."""
  pieces, start, end = [], 0, 0
  while end < len(text):
    line_end = text.find("\n", end) + 1 or len(text)
    if line_end - start > document_chars and end > start:
      pieces.append(text[start:end])
      start = end
    end = line_end
  return pieces + [text[start:]] if start < len(text) else pieces
