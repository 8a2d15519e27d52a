"""Codecs: text to ids of one vocabulary and back, for `tokenizer.Tokenizer`.

Contents: Bytes, Chars, Symbols, Ids, HuggingFace; CODECS, by kind; SEPARATE, kinds whose texts are
those of their tokens; without_panic. Each is built from its definition and has `kind`, `size`,
`control_ids` (special ids that the vocabulary itself declares), definition, identity, specials,
num_chars, word_edges, encode, offsets (first and last character of each id of `encode`, half open),
decode.

Convention: `encode` makes no special ids, except where HuggingFace.encode_apart is needed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SPECIALS = ("[PAD]", "[EOS]", "[MASK]")  # follow the ordinary ids
_MAX_GAP = 2**20  # ids that a vocabulary may leave out
MASK_CHAR = "_"  # how `decode` shows a masked position


class _AppendedSpecials:
  """[PAD], [EOS], [MASK] are the last ids."""

  control_ids = frozenset()

  def specials(self) -> dict[str, int]:
    return dict(zip(SPECIALS, range(self.size - len(SPECIALS), self.size)))


class Bytes(_AppendedSpecials):
  """The 256 bytes of UTF-8, then [PAD], [EOS], [MASK]."""

  kind = "byte"
  size = 256 + len(SPECIALS)

  def __init__(self, definition: None = None):
    del definition  # as the others take one

  def definition(self) -> None:
    return None

  identity = definition

  def num_chars(self) -> list[int]:
    return [_begins_char(b) for b in range(256)] + [0] * len(SPECIALS)

  def word_edges(self) -> list[tuple[bool, bool]]:
    return [_word_edges(bytes([b]).decode("utf-8", "replace")) for b in range(256)]

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), np.uint8)

  def offsets(self, text: str, markers: Sequence[int]) -> list[tuple[int, int]]:
    del markers  # no byte is one
    return [(i, i + 1) for i, c in enumerate(text) for _ in c.encode("utf-8")]

  def decode(self, ids: list[int], mask_id: int) -> str:
    data = bytes(ord(MASK_CHAR) if i == mask_id else i for i in ids)
    return data.decode("utf-8", errors="replace")


class Chars(_AppendedSpecials):
  """The characters of an alphabet, then [PAD], [EOS], [MASK]."""

  kind = "char"

  def __init__(self, alphabet: str):
    if not alphabet or len(set(alphabet)) != len(alphabet):
      raise ValueError(f"a character alphabet needs distinct characters, got {alphabet!r:.80}.")
    self._alphabet = alphabet
    self._ids = {c: i for i, c in enumerate(alphabet)}
    self.size = len(alphabet) + len(SPECIALS)

  def definition(self) -> str:
    return self._alphabet

  identity = definition

  def num_chars(self) -> list[int]:
    return [1] * len(self._alphabet) + [0] * len(SPECIALS)

  def word_edges(self) -> list[tuple[bool, bool]]:
    return [_word_edges(c) for c in self._alphabet]

  def encode(self, text: str) -> list[int]:
    try:
      return [self._ids[c] for c in text]
    except KeyError as e:
      c = e.args[0]
      raise ValueError(
          f"character {c!r} (U+{ord(c):04X}) at position {text.index(c)} is not in the alphabet "
          f"of {len(self._ids)} characters; use tokenizer \"byte\", or \"char:FILE\" to take "
          "the alphabet from a file that has it.") from None

  def offsets(self, text: str, markers: Sequence[int]) -> list[tuple[int, int]]:
    del markers  # no character is one
    return [(i, i + 1) for i in range(len(text))]

  def decode(self, ids: list[int], mask_id: int) -> str:
    return "".join(MASK_CHAR if i == mask_id else self._alphabet[i] for i in ids)


class Symbols(_AppendedSpecials):
  """A few strings, one id each, then [PAD], [EOS], [MASK]; the longest that fits is taken."""

  kind = "symbols"

  def __init__(self, symbols: Sequence[str]):
    if not symbols or len(set(symbols)) != len(symbols) or "" in symbols:
      raise ValueError(f"a vocabulary of symbols needs distinct, non-empty ones, got "
                       f"{' '.join(symbols)!r:.80}.")
    self._symbols = list(symbols)
    self._ids = {symbol: i for i, symbol in enumerate(symbols)}
    longest_first = sorted(symbols, key=len, reverse=True)
    self._pattern = re.compile("|".join(map(re.escape, longest_first)))
    self.size = len(symbols) + len(SPECIALS)

  def definition(self) -> list[str]:
    return self._symbols

  identity = definition

  def num_chars(self) -> list[int]:
    return [len(symbol) for symbol in self._symbols] + [0] * len(SPECIALS)

  def word_edges(self) -> list[tuple[bool, bool]]:
    return [(False, False)] * len(self._symbols)  # each is a word

  def encode(self, text: str) -> list[int]:
    ids, place = [], 0
    while place < len(text):
      match = self._pattern.match(text, place)
      if match is None:
        raise ValueError(f"{text[place:]!r:.40} does not begin with one of the "
                         f"{len(self._symbols)} symbols of this vocabulary.")
      ids.append(self._ids[match.group()])
      place = match.end()
    return ids

  def offsets(self, text: str, markers: Sequence[int]) -> list[tuple[int, int]]:
    del markers  # no symbol is one
    ends = np.cumsum([0, *(len(self._symbols[i]) for i in self.encode(text))]).tolist()
    return list(zip(ends, ends[1:]))

  def decode(self, ids: list[int], mask_id: int) -> str:
    return "".join(MASK_CHAR if i == mask_id else self._symbols[i] for i in ids)


class Ids:
  """No vocabulary: a text is ids, separated by spaces. Decoding shows every id, special or not."""

  kind = "ids"
  control_ids = frozenset()

  def __init__(self, size: int):
    self.size = size

  def definition(self) -> int:
    return self.size

  identity = definition

  def specials(self) -> dict[str, int]:
    return {}

  def num_chars(self) -> list[int]:
    return [0] * self.size

  def word_edges(self) -> list[tuple[bool, bool]]:
    return [(False, False)] * self.size

  def encode(self, text: str) -> list[int]:
    words = text.split()
    wrong = next((w for w in words if not (w.isdecimal() and int(w) < self.size)), None)
    if wrong is not None:
      raise ValueError(f"{wrong!r:.40} is no id below {self.size}; this model has no tokenizer, so "
                       "a text is ids separated by spaces.")
    return [int(word) for word in words]

  def encode_apart(self, text: str, markers: Sequence[int]) -> list[int]:
    del markers  # ids are meant as they stand
    return self.encode(text)

  def offsets(self, text: str, markers: Sequence[int]) -> list[tuple[int, int]]:
    del markers
    return [match.span() for match in re.finditer(r"\S+", text)]

  def decode(self, ids: list[int], mask_id: int) -> str:
    return " ".join(MASK_CHAR if i == mask_id else str(i) for i in ids)


class HuggingFace:
  """A tokenizer.json, run by the `tokenizers` library."""

  kind = "huggingface"

  def __init__(self, definition: str):
    import tokenizers
    with without_panic():
      self.backend = tokenizers.Tokenizer.from_str(definition)
      self.backend.no_truncation()
      self.backend.no_padding()
      self.backend.encode_special_tokens = True  # not part of the file; "[MASK]" stays text
      self._refresh()

  def _refresh(self) -> None:
    vocab = self.backend.get_vocab(with_added_tokens=True)
    self.size = max(vocab.values(), default=-1) + 1
    if self.size > 2 * len(vocab) + _MAX_GAP:
      raise ValueError(f"the vocabulary has the id {self.size - 1}, but only {len(vocab)} tokens; "
                       "number them without such a gap")
    added = self.backend.get_added_tokens_decoder()
    self.control_ids = frozenset(i for i, token in added.items() if token.special)
    state = json.loads(self.backend.to_str())
    self._pieces = None
    if "ByteLevel" in json.dumps([state["pre_tokenizer"], state["decoder"]]):
      to_byte = {c: b for b, c in _byte_chars().items()}
      self._pieces = {i: token.content.encode() for i, token in added.items()}
      for token, i in vocab.items():
        if i not in added:
          self._pieces[i] = bytes(to_byte[c] for c in token)

  def add_special(self, token: str) -> int:
    """Appends one special token and returns its id, the old size."""
    old_size = self.size
    self.backend.add_special_tokens([token])
    self._refresh()
    if self.size != old_size + 1 or self.backend.token_to_id(token) != old_size:
      raise ValueError(f"the vocabulary has gaps in its ids, so {token} got an id in use; "
                       "add it to tokenizer.json with its own id.")
    return old_size

  def __reduce__(self):
    return type(self), (self.definition(),)

  def definition(self) -> str:
    return self.backend.to_str()

  def specials(self) -> dict[str, int]:
    return {self.backend.id_to_token(i): i for i in sorted(self.control_ids)}

  def identity(self) -> list:
    return sorted(self.backend.get_vocab(with_added_tokens=True).items())

  def num_chars(self) -> np.ndarray:
    counts = np.zeros(self.size)
    for token, i in self.backend.get_vocab(with_added_tokens=True).items():
      if self._pieces is not None:
        counts[i] = sum(map(_begins_char, self._pieces[i]))
      elif fallback := re.fullmatch("<0x([0-9A-F]{2})>", token):
        counts[i] = _begins_char(int(fallback[1], 16))
      else:
        counts[i] = len(token.removeprefix("##"))
    return counts

  def word_edges(self) -> list[tuple[bool, bool]]:
    model = json.loads(self.backend.to_str())["model"]
    prefix, suffix = (model.get(k) or "" for k in ("continuing_subword_prefix",
                                                   "end_of_word_suffix"))
    vocab = self.backend.get_vocab(with_added_tokens=True)
    has_spaces = self._pieces is not None or any(token.startswith("\u2581") for token in vocab)
    edges = [(False, False)] * self.size
    for token, i in vocab.items():
      if self._pieces is not None:
        edges[i] = _word_edges(self._pieces[i].decode("utf-8", "replace"))
      elif prefix or suffix:  # "##s" goes on a word; "s</w>" ends one
        edges[i] = (token.startswith(prefix), not suffix or not token.endswith(suffix))
      elif re.fullmatch("<0x[89A-F][0-9A-F]>", token):
        edges[i] = (True, True)
      elif has_spaces:
        edges[i] = _word_edges(token)
    return edges

  def encode(self, text: str) -> list[int]:
    return self._encoding(text, self._without_offsets).ids

  def _without_offsets(self, text: str, **options: Any):
    return self.backend.encode_batch_fast([text], **options)[0]

  def _encoding(self, text: str, encode: Callable | None = None):
    try:
      with without_panic():
        return (encode or self.backend.encode)(text, add_special_tokens=False)
    except TypeError:
      text.encode("utf-8")  # a lone surrogate; UnicodeEncodeError says where
      raise

  def encode_apart(self, text: str, markers: Sequence[int]) -> list[int]:
    """Encodes like `encode`, but text that became one of `markers` character by character.

    A model whose own vocabulary has "[MASK]" (Unigram, WordLevel), or an added token not
    flagged as special, finds it in text in spite of `encode_special_tokens`.
    """
    encoding, ids = self._encoding(text), []
    for i, (start, end) in zip(encoding.ids, encoding.offsets):
      ids += [j for c in text[start:end] for j in self.encode(c)] if i in markers else [i]
    return ids

  def offsets(self, text: str, markers: Sequence[int]) -> list[tuple[int, int]]:
    encoding, found = self._encoding(text), []
    for i, (start, end) in zip(encoding.ids, encoding.offsets):
      found += [(place, place + 1) for place in range(start, end)
                for _ in self.encode(text[place])] if i in markers else [(start, end)]
    return found

  def decode(self, ids: list[int], mask_id: int) -> str:
    with without_panic():
      return self._decode(ids, mask_id)

  def _decode(self, ids: list[int], mask_id: int) -> str:
    if self._pieces is None:
      read = functools.partial(self.backend.decode, skip_special_tokens=False)
      marks = [i for i, x in enumerate(ids) if x == mask_id]
      if (mask := self.backend.id_to_token(mask_id)) is None:
        marks = [-1, *marks, len(ids)]
        return MASK_CHAR.join(read(ids[a + 1:b]) for a, b in zip(marks, marks[1:]))
      text = read(ids)
      if text.count(mask) == len(marks):
        return text.replace(mask, MASK_CHAR)
      for i in reversed(marks):  # "[MASK]" is also in the text itself, where it stays
        start = read(ids[:i + 1]).rfind(mask)
        text = text[:start] + MASK_CHAR + text[start + len(mask):]
      return text
    data = (MASK_CHAR.encode() if i == mask_id else self._pieces.get(i, b"") for i in ids)
    return b"".join(data).decode("utf-8", errors="replace")


@contextlib.contextmanager
def without_panic():
  """Turns a panic of the library `tokenizers`, which is no Exception, into a ValueError."""
  try:
    yield
  except BaseException as e:  # pylint: disable=broad-except
    if type(e).__name__ != "PanicException":
      raise
    raise ValueError("the tokenizers library fails on this tokenizer "
                     f"({' '.join(str(e).split())[:200]}); correct its tokenizer.json.") from None


SEPARATE = (Chars.kind, Symbols.kind)
CODECS = {codec.kind: codec for codec in (Bytes, Chars, Symbols, Ids, HuggingFace)}


def _word_edges(piece: str) -> tuple[bool, bool]:
  """Whether a piece begins, and ends, as the middle of a word does.

  With a letter, mark or digit, or with a part of a character: of a byte that is no text by
  itself, U+FFFD is made.
  """
  inside = [c == "\ufffd" or unicodedata.category(c)[0] in "LMN" for c in piece]
  return (inside[0], inside[-1]) if inside else (False, False)


def _begins_char(byte: int) -> int:
  """1 unless the byte continues a UTF-8 character."""
  return int(byte & 0xC0 != 0x80)


@functools.cache
def _byte_chars() -> dict[int, str]:
  """GPT-2's table: the character that stands for each byte in a byte-level vocabulary."""
  shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  hidden = [b for b in range(256) if b not in shown]
  return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}
