"""Tokenizers: text to ids and back, with the special ids that mdx needs.

Contents: Tokenizer (the one interface), build, from_json, load; command
`python -m mdx.data.tokenizer`, which trains a byte-level BPE.

Convention: `vocab_size` counts every id, also [MASK], [PAD] and [EOS]. `encode` adds
no special id and never makes one out of text: "[MASK]" in a text is six characters.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mdx import assets
from mdx.data import sources

FILE_NAME = "mdx_tokenizer.json"
MASK_CHAR = "_"  # how `decode` shows a masked position
PRINTABLE = "\n" + "".join(c for c in string.printable if " " <= c <= "~")
_SPECIALS = ("[PAD]", "[EOS]", "[MASK]")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
_PAD_NAMES = ("[PAD]", "<pad>", "<|endoftext|>")
_EOS_NAMES = ("[EOS]", "</s>", "[SEP]", "<|endoftext|>", "<|im_end|>")
_BOS_NAMES = ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
  """Text to ids and back.

  Attributes:
    name: what it was built from, for people.
    vocab: the codec, one of the private classes below.
    mask_id, pad_id, eos_id: special ids. pad_id may equal eos_id.
    bos_id: beginning of sequence, or None.
  """

  name: str
  vocab: Any
  mask_id: int
  pad_id: int
  eos_id: int
  bos_id: int | None = None

  @property
  def vocab_size(self) -> int:
    """Number of ids, special ones included."""
    return self.vocab.size

  @functools.cached_property
  def special_ids(self) -> frozenset[int]:
    """Ids that stand for no text."""
    ids = {self.mask_id, self.pad_id, self.eos_id, *self.vocab.control_ids}
    return frozenset(ids if self.bos_id is None else ids | {self.bos_id})

  @functools.cached_property
  def chars_per_token(self) -> np.ndarray:
    """float32 [vocab_size], characters of text that each id stands for; 0 for specials.

    Of a byte or a byte-level token, the bytes that begin a character, so that the sum
    over encode(text) is len(text) exactly. Of other subwords, their length without
    marks such as "##", which is exact where the tokenizer keeps all characters.
    """
    counts = np.asarray(self.vocab.num_chars(), np.float32)
    counts[sorted(self.special_ids)] = 0
    counts.flags.writeable = False
    return counts

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of the vocabulary and the special ids; equal if ids mean the same."""
    ids = [self.mask_id, self.pad_id, self.eos_id, self.bos_id]
    text = json.dumps([self.vocab.kind, self.vocab.identity(), ids], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def encode(self, text: str) -> np.ndarray:
    """Returns int32 [n]; no special ids.

    Raises:
      ValueError: a character that the vocabulary does not have.
    """
    return np.asarray(self.vocab.encode(text), np.int32)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text; special ids are dropped, but a mask is shown as "_".

    Raises:
      ValueError: an id outside [0, vocab_size).
    """
    ids = np.asarray(ids, np.int64).reshape(-1)
    if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
      wrong = ids[(ids < 0) | (ids >= self.vocab_size)][0]
      raise ValueError(f"id {wrong} is outside this vocabulary of {self.vocab_size} ids "
                       f"({self.name}); decode with the tokenizer that made the ids.")
    kept = [int(i) for i in ids if i == self.mask_id or int(i) not in self.special_ids]
    return self.vocab.decode(kept, self.mask_id)

  def to_json(self) -> str:
    """Everything needed to build this tokenizer again, as `from_json` reads it."""
    return json.dumps({
        "name": self.name, "kind": self.vocab.kind, "definition": self.vocab.definition(),
        "mask_id": self.mask_id, "pad_id": self.pad_id, "eos_id": self.eos_id,
        "bos_id": self.bos_id}, ensure_ascii=False)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes mdx_tokenizer.json into a directory, which is made if missing."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, FILE_NAME), "w", encoding="utf-8") as f:
      f.write(self.to_json())


class _Bytes:
  """The 256 bytes of UTF-8, then [PAD], [EOS], [MASK]."""

  kind = "byte"
  size = 256 + len(_SPECIALS)
  control_ids = frozenset()

  def definition(self) -> None:
    return None

  identity = definition

  def num_chars(self) -> list[int]:
    return [_begins_char(b) for b in range(256)] + [0] * len(_SPECIALS)

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), np.uint8)

  def decode(self, ids: list[int], mask_id: int) -> str:
    data = bytes(ord(MASK_CHAR) if i == mask_id else i for i in ids)
    return data.decode("utf-8", errors="replace")


class _Chars:
  """The characters of an alphabet, then [PAD], [EOS], [MASK]."""

  kind = "char"
  control_ids = frozenset()

  def __init__(self, alphabet: str):
    if not alphabet or len(set(alphabet)) != len(alphabet):
      raise ValueError(f"a character alphabet needs distinct characters, got {alphabet!r:.80}.")
    self._alphabet = alphabet
    self._ids = {c: i for i, c in enumerate(alphabet)}
    self.size = len(alphabet) + len(_SPECIALS)

  def definition(self) -> str:
    return self._alphabet

  identity = definition

  def num_chars(self) -> list[int]:
    return [1] * len(self._alphabet) + [0] * len(_SPECIALS)

  def encode(self, text: str) -> list[int]:
    try:
      return [self._ids[c] for c in text]
    except KeyError as e:
      c = e.args[0]
      raise ValueError(
          f"character {c!r} (U+{ord(c):04X}) at position {text.index(c)} is not in the alphabet "
          f"of {len(self._ids)} characters; use tokenizer \"byte\", or \"char:FILE\" to take "
          "the alphabet from a file that has it.") from None

  def decode(self, ids: list[int], mask_id: int) -> str:
    return "".join(MASK_CHAR if i == mask_id else self._alphabet[i] for i in ids)


class _HuggingFace:
  """A tokenizer.json, run by the `tokenizers` library."""

  kind = "huggingface"

  def __init__(self, definition: str):
    import tokenizers
    self.backend = tokenizers.Tokenizer.from_str(definition)
    self.backend.no_truncation()
    self.backend.no_padding()
    self.backend.encode_special_tokens = True  # not part of the file; "[MASK]" stays text
    self._refresh()

  def _refresh(self) -> None:
    vocab = self.backend.get_vocab(with_added_tokens=True)
    self.size = max(vocab.values()) + 1
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

  def encode(self, text: str) -> list[int]:
    return self.backend.encode(text, add_special_tokens=False).ids

  def decode(self, ids: list[int], mask_id: int) -> str:
    if self._pieces is None:
      text = self.backend.decode(ids, skip_special_tokens=False)
      return text.replace(self.backend.id_to_token(mask_id), MASK_CHAR)
    data = (MASK_CHAR.encode() if i == mask_id else self._pieces.get(i, b"") for i in ids)
    return b"".join(data).decode("utf-8", errors="replace")


def _begins_char(byte: int) -> int:
  """1 unless the byte continues a UTF-8 character."""
  return int(byte & 0xC0 != 0x80)


@functools.cache
def _byte_chars() -> dict[int, str]:
  """GPT-2's table: the character that stands for each byte in a byte-level vocabulary."""
  shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  hidden = [b for b in range(256) if b not in shown]
  return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def _with_appended_specials(vocab, name: str) -> Tokenizer:
  pad, eos, mask = range(vocab.size - len(_SPECIALS), vocab.size)
  return Tokenizer(name=name, vocab=vocab, mask_id=mask, pad_id=pad, eos_id=eos)


def build(spec: str, texts: Iterable[str] | None = None, **ids: int | None) -> Tokenizer:
  """Builds a tokenizer.

  Args:
    spec: "byte"; "char" (printable ASCII and newline, or the characters of `texts`);
      "char:FILE" (the characters of a text file or asset); "asset:NAME"; a
      tokenizer.json, a directory with one, or a directory that `save` wrote.
    texts: for "char" only, the texts whose characters form the alphabet.
    **ids: mask_id, pad_id, eos_id, bos_id of a tokenizer.json whose special tokens have
      unusual names.

  Raises:
    ValueError: missing or malformed file, or no token to end a document with.
  """
  unknown = sorted(set(ids) - {"mask_id", "pad_id", "eos_id", "bos_id"})
  if unknown:
    raise ValueError(f"unknown argument {unknown[0]!r}; expected mask_id, pad_id, eos_id, bos_id.")
  if spec.startswith("char:"):
    source = sources.Text(path=spec.removeprefix("char:"), holdout_every=0)
    texts = [record["text"] for record in source.records("train")]
  if spec == "byte":
    return _with_appended_specials(_Bytes(), "byte")
  if spec == "char" or spec.startswith("char:"):
    alphabet = PRINTABLE if texts is None else "".join(sorted(set().union(*texts)))
    return _with_appended_specials(_Chars(alphabet), spec)
  return _read(spec, ids)


def _read(spec: str, ids: dict[str, int | None]) -> Tokenizer:
  path = assets.resolve(spec)
  if os.path.isdir(path):
    saved = os.path.join(path, FILE_NAME)
    path = saved if os.path.isfile(saved) else os.path.join(path, "tokenizer.json")
  if not os.path.isfile(path):
    raise ValueError(f"no tokenizer file {path!r}; use \"byte\", \"char\", \"asset:NAME\" (one of "
                     f"{', '.join(assets.names())}), or train one: python -m mdx.data.tokenizer.")
  try:
    with open(path, encoding="utf-8") as f:
      text = f.read()
    if os.path.basename(path) == FILE_NAME:
      return from_json(text)
    vocab = _HuggingFace(text)
  except Exception as e:  # `tokenizers` raises a plain Exception for a malformed file
    raise ValueError(f"{path}: not a tokenizer file ({e}); expected the tokenizer.json of the "
                     "Hugging Face tokenizers library.") from e
  return _find_specials(vocab, spec, path, {k: v for k, v in ids.items() if v is not None})


def _find_specials(vocab: _HuggingFace, name: str, path: str, ids: dict[str, int]) -> Tokenizer:
  """Finds special ids by their usual names; appends a mask token if there is none."""
  for key, names in (("bos_id", _BOS_NAMES), ("eos_id", _EOS_NAMES), ("pad_id", _PAD_NAMES),
                     ("mask_id", _MASK_NAMES)):
    found = [i for i in map(vocab.backend.token_to_id, names) if i is not None]
    if found:
      ids.setdefault(key, found[0])
  if "eos_id" not in ids:
    raise ValueError(f"{path}: no end token (looked for {', '.join(_EOS_NAMES)}); pass eos_id.")
  ids.setdefault("pad_id", ids["eos_id"])
  if "mask_id" not in ids:
    ids["mask_id"] = vocab.add_special("[MASK]")
  for key, value in ids.items():
    if not 0 <= value < vocab.size:
      raise ValueError(f"{path}: {key} {value} is outside its {vocab.size} ids.")
  return Tokenizer(name=name, vocab=vocab, **ids)


def from_json(text: str) -> Tokenizer:
  """Builds a tokenizer from what `to_json` returned."""
  try:
    state = json.loads(text)
    kind, definition = state.pop("kind"), state.pop("definition")
    make = {"byte": lambda _: _Bytes(), "char": _Chars, "huggingface": _HuggingFace}[kind]
    return Tokenizer(vocab=make(definition), **state)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"not a saved mdx tokenizer ({type(e).__name__}: {e}).") from e


def load(directory: str | os.PathLike) -> Tokenizer:
  """Builds the tokenizer that `save` wrote into a directory."""
  return _read(os.path.join(directory, FILE_NAME), {})


def train_bpe(texts: Iterable[str], vocab_size: int):
  """Trains a byte-level BPE with [PAD] 0, [EOS] 1, [MASK] 2; returns tokenizers.Tokenizer."""
  import tokenizers
  smallest = 256 + len(_SPECIALS)
  if vocab_size < smallest:
    raise ValueError(f"vocab_size must be at least {smallest} (256 bytes and the specials), "
                     f"got {vocab_size}.")
  byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend = tokenizers.Tokenizer(tokenizers.models.BPE())
  backend.pre_tokenizer, backend.decoder = byte_level, tokenizers.decoders.ByteLevel()
  backend.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
      vocab_size=vocab_size, special_tokens=list(_SPECIALS), show_progress=False,
      initial_alphabet=byte_level.alphabet()))
  return backend


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description="Trains a byte-level BPE tokenizer.json.")
  parser.add_argument("--input", action="append", required=True,
                      help="text file (.xz, .gz too), glob or asset:NAME; may be repeated")
  parser.add_argument("--output", required=True, help="tokenizer.json to write")
  parser.add_argument("--vocab_size", type=int, default=512, help="ids in all, specials too")
  parser.add_argument("--holdout_every", type=int, default=20,
                      help="leave out one document in this many, as the text source does; 0: none")
  args = parser.parse_args(argv)
  source = sources.Text(path=tuple(args.input), holdout_every=args.holdout_every)
  backend = train_bpe((r["text"] for r in source.records("train")), args.vocab_size)
  if backend.get_vocab_size() < args.vocab_size:
    print(f"warning: the text allows only {backend.get_vocab_size()} ids.")
  backend.save(args.output)
  print(f"wrote {args.output}: {build(args.output).vocab_size} ids.")


if __name__ == "__main__":
  main()
