"""Tokenizers: text to ids and back, with the special ids that mdx needs.

Contents: Tokenizer (the one interface), build, of_ids, from_json, load. `mdx.data.prepare`
trains one.

Convention: `vocab_size` counts every id, also [MASK], [PAD] and [EOS]. `encode` adds
no special id and never makes one out of text: "[MASK]" in a text is six characters.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mdx import assets
from mdx.data import codecs
from mdx.data import hf_tokenizer
from mdx.data.sources import text as text_lib
from mdx.data.toys import grammar
from mdx.data.toys import news
from mdx.utils import files
from mdx.utils import readers

FILE_NAME = "mdx_tokenizer.json"
PRINTABLE = "\n" + "".join(c for c in string.printable if " " <= c <= "~")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
_PAD_NAMES = ("[PAD]", "<pad>", "<|endoftext|>")
_EOS_NAMES = ("[EOS]", "</s>", "[SEP]", "<|endoftext|>", "<|im_end|>", "<eos>", "<|end_of_text|>",
              "<|eot_id|>", "<｜end▁of▁sentence｜>", "<|eos|>")
_BOS_NAMES = ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]")


_MAX_IDS = 2**24  # no vocabulary is near, and a model has a row for each
_MORE_IDS = ("prefix_ids", "suffix_ids", "other_eos_ids")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
  """Text to ids and back.

  Attributes:
    name: what it was built from, for people.
    vocab: the codec, of `mdx.data.codecs`.
    mask_id, pad_id, eos_id: special ids. pad_id may equal eos_id, which is -1 if there is none.
    bos_id: beginning of sequence, or None.
    chat_template: Jinja source that makes a text of messages, or None; see `mdx.data.chat`.
    num_ids: ids of the model; those beyond the vocabulary stand for no text. 0 = the vocabulary's.
    prefix_ids, suffix_ids: ids that belong around a text that the model is given, by the
      tokenizer's own rule ([CLS] and [SEP]); `encode` does not add them.
    other_eos_ids: further ids that end a text; they may be ordinary tokens.
  """

  name: str
  vocab: Any
  mask_id: int
  pad_id: int
  eos_id: int
  bos_id: int | None = None
  chat_template: str | None = None
  num_ids: int = 0
  prefix_ids: tuple[int, ...] = ()
  suffix_ids: tuple[int, ...] = ()
  other_eos_ids: tuple[int, ...] = ()

  def __post_init__(self):
    if self.vocab_size > _MAX_IDS:
      raise ValueError(f"{self.name}: {self.vocab_size} ids; expected at most {_MAX_IDS}. Correct "
                       "the id that is so large.")
    ids = {k: v for k in ("mask_id", "pad_id", "eos_id", "bos_id")
           if (v := getattr(self, k)) is not None and (k, v) != ("eos_id", -1)}
    for key, value in ids.items():
      if not 0 <= value < self.vocab_size:
        raise ValueError(f"{self.name}: {key} {value} is outside its {self.vocab_size} ids.")
      if key != "mask_id" and value == self.mask_id:
        raise ValueError(f"{self.name}: mask_id and {key} are both {value}; the mask needs an id "
                         "that stands for nothing else.")
    for key in _MORE_IDS:
      object.__setattr__(self, key, tuple(getattr(self, key)))
      wrong = [i for i in getattr(self, key) if not 0 <= i < self.vocab_size or i == self.mask_id]
      if wrong:
        raise ValueError(f"{self.name}: {key} has {wrong[0]}; expected ids below "
                         f"{self.vocab_size} that are not the mask.")

  @property
  def eos_ids(self) -> tuple[int, ...]:
    """Ids that end a text, `eos_id` first; none if there is none."""
    return (*((self.eos_id,) if self.eos_id >= 0 else ()), *self.other_eos_ids)

  def ends(self, tokens: np.ndarray) -> np.ndarray:
    """Returns whether each token ends a text, bool of the shape of `tokens`."""
    return np.isin(tokens, self.eos_ids)

  @property
  def vocab_size(self) -> int:
    """Number of ids, special ones included."""
    return max(self.vocab.size, self.num_ids)

  @functools.cached_property
  def special_ids(self) -> frozenset[int]:
    """Ids that stand for no text."""
    ids = {self.mask_id, self.pad_id, self.eos_id, *self.vocab.control_ids}
    return frozenset((ids if self.bos_id is None else ids | {self.bos_id}) - {-1})

  @functools.cached_property
  def special_texts(self) -> dict[str, int]:
    """The names of special tokens, as a chat template writes them, and their ids."""
    return self.vocab.specials()

  @functools.cached_property
  def chars_per_token(self) -> np.ndarray:
    """float32 [vocab_size], characters of text that each id stands for; 0 for specials.

    Of a byte or a byte-level token, the bytes that begin a character, so that the sum
    over encode(text) is len(text) exactly. Of other subwords, their length without
    marks such as "##", which is exact where the tokenizer keeps all characters.
    """
    counts = np.zeros(self.vocab_size, np.float32)
    counts[:self.vocab.size] = self.vocab.num_chars()
    counts[sorted(self.special_ids)] = 0
    counts.flags.writeable = False
    return counts

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    """bool [vocab_size, 2]: whether an id can go on a word, and whether a word can go on after it.

    Two neighbours belong to one word if the second can go on what the first leaves open. Words
    are runs of letters and digits, a space before them included; every other token is a word by
    itself. Where a vocabulary marks the parts of words ("##s", "s</w>"), its marks decide.
    """
    edges = np.zeros((self.vocab_size, 2), bool)
    found = self.vocab.word_edges()
    edges[:len(found)] = found
    edges[sorted(self.special_ids)] = False
    edges.flags.writeable = False
    return edges

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of the vocabulary and the special ids; equal if ids mean the same."""
    ids = [self.mask_id, self.pad_id, self.eos_id, self.bos_id]
    ids += [self.num_ids] if self.num_ids else []
    text = json.dumps([self.vocab.kind, self.vocab.identity(), ids], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def encode(self, text: str) -> np.ndarray:
    """Returns int32 [n]; no special ids.

    Raises:
      ValueError: what is no text (another type, or half of a surrogate pair), a character that
        the vocabulary does not have, or text that it can only write with the mask id.
    """
    if not isinstance(text, str):
      raise ValueError(f"{self.name}: expected text, got {text!r:.40}; correct the record.")
    try:
      ids = np.asarray(self.vocab.encode(text), np.int32)
    except UnicodeEncodeError as e:
      raise ValueError(f"{self.name}: surrogates not allowed, which are no characters, got U+"
                       f"{ord(text[e.start]):04X} at position {e.start}; correct the \\u escapes "
                       "of the file.") from None
    if any((ids == marker).any() for marker in self._markers):
      ids = np.asarray(self.vocab.encode_apart(text, self._markers), np.int32)
      if (ids == self.mask_id).any():
        raise ValueError(f"{self.name}: mask_id {self.mask_id} is an ordinary token, of text such "
                         f"as {text!r:.40}; the mask needs an id that stands for nothing else.")
    return ids

  @property
  def _markers(self) -> list[int]:
    return [i for i in (self.mask_id, self.pad_id, self.eos_id, self.bos_id) if i is not None]

  def offsets(self, text: str) -> np.ndarray:
    """The characters that each id of `encode(text)` stands for: int32 [n, 2], begin and end.

    A subword may have the space before it. Parts of one character have all of it.
    """
    return np.asarray(self.vocab.offsets(text, self._markers), np.int32).reshape(-1, 2)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text; special ids are dropped, but a mask is shown as "_".

    Raises:
      ValueError: an id outside [0, vocab_size).
    """
    ids = np.asarray(ids, np.int64).reshape(-1)
    if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
      wrong = ids[(ids < 0) | (ids >= self.vocab_size)][0]
      raise ValueError(f"id {wrong} is outside this vocabulary of {self.vocab_size} ids "
                       f"({self.name}); decode with the tokenizer that made the ids.")
    if self.vocab.kind == "ids":
      return self.vocab.decode(ids.tolist(), self.mask_id)
    kept = [int(i) for i in ids if i == self.mask_id or (
        i < self.vocab.size and int(i) not in self.special_ids)]
    return self.vocab.decode(kept, self.mask_id)

  @functools.cached_property
  def _texts(self) -> np.ndarray | None:
    """The text of each id, object [vocab_size]; None where neighbours change it."""
    if self.vocab.kind not in codecs.SEPARATE:
      return None
    return np.array([self.decode([i]) for i in range(self.vocab_size)], object)

  def decode_rows(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Returns the texts of the first tokens of rows, as `decode` gives them one by one.

    Args:
      tokens: int [N, L].
      lengths: int [N], tokens of each row that are read.

    Raises:
      ValueError: an id outside [0, vocab_size).
    """
    texts = self._texts
    if texts is None or not tokens.size or tokens.min() < 0 or tokens.max() >= len(texts):
      return [self.decode(row[:length]) for row, length in zip(tokens, lengths)]
    read = np.arange(tokens.shape[1])[None] < lengths[:, None]
    return ["".join(row) for row in np.where(read, texts[tokens], "").tolist()]

  def to_json(self) -> str:
    """Everything needed to build this tokenizer again, as `from_json` reads it."""
    return json.dumps({
        "name": self.name, "kind": self.vocab.kind, "definition": self.vocab.definition(),
        "mask_id": self.mask_id, "pad_id": self.pad_id, "eos_id": self.eos_id,
        "bos_id": self.bos_id, "chat_template": self.chat_template,
        "num_ids": self.num_ids, **{key: list(getattr(self, key)) for key in _MORE_IDS
                                    if getattr(self, key)}}, ensure_ascii=False)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes mdx_tokenizer.json into a directory, which is made if missing."""
    os.makedirs(directory, exist_ok=True)
    files.write_text(os.path.join(directory, FILE_NAME), self.to_json())


def _with_appended_specials(vocab, name: str) -> Tokenizer:
  pad, eos, mask = range(vocab.size - len(codecs.SPECIALS), vocab.size)
  return Tokenizer(name=name, vocab=vocab, mask_id=mask, pad_id=pad, eos_id=eos)


def of_ids(num_ids: int, name: str, *, mask_id: int | None = None, pad_id: int | None = None,
           eos_id: int = -1, bos_id: int | None = None) -> Tokenizer:
  """A tokenizer of bare ids, all of them ordinary; without `mask_id` the mask is one more.

  Padding is never read as text, so it may share an ordinary id.
  """
  mask_id = num_ids if mask_id is None else mask_id
  if pad_id is None:
    pad_id = next(i for i in (eos_id, 0, 1) if i not in (-1, mask_id))
  return Tokenizer(name=name, vocab=codecs.Ids(num_ids), mask_id=mask_id, pad_id=pad_id,
                   eos_id=eos_id, bos_id=bos_id, num_ids=max(num_ids, mask_id + 1))


def build(spec: str, texts: Iterable[str] | None = None, *, chat_template: str = "",
          num_ids: int = 0, **ids: int | None) -> Tokenizer:
  """Builds a tokenizer.

  Args:
    spec: "byte"; "char" (printable ASCII and newline, or the characters of `texts`);
      "char:FILE" (the characters of a text file or asset); "symbols:A B C" (those
      strings, separated by spaces, are the vocabulary); "grammar" and "news" (the words of
      `toys.grammar` and `toys.news`); "asset:NAME"; a tokenizer.json, a directory with
      one, or a directory that `save` wrote.
    texts: for "char" only, the texts whose characters form the alphabet.
    chat_template: a file or asset with a Jinja template; "": the one that stands beside the
      tokenizer.json, if any.
    num_ids: ids of the model that a tokenizer.json belongs to; a mask token that the file does
      not have comes behind them.
    **ids: mask_id, pad_id, eos_id, bos_id of a tokenizer.json whose special tokens have
      unusual names.

  Raises:
    ValueError: missing or malformed file, or no token to end a document with.
  """
  unknown = sorted(set(ids) - {"mask_id", "pad_id", "eos_id", "bos_id"})
  if unknown:
    raise ValueError(f"unknown argument {unknown[0]!r}; expected mask_id, pad_id, eos_id, bos_id.")
  given = {k: v for k, v in ids.items() if v is not None}
  if chat_template:
    template = _chat_template_file(chat_template)
    return dataclasses.replace(build(spec, texts, num_ids=num_ids, **ids), chat_template=template)
  if spec == "grammar":
    spec = f"symbols:{' '.join(grammar.WORDS)}"
  if given and (spec in ("byte", "char", "news") or spec.startswith(("char:", "symbols:"))):
    raise ValueError(f"tokenizer {spec!r} has special ids of its own; leave out "
                     f"{', '.join(given)}.")
  if spec.startswith("char:"):
    source = text_lib.Text(path=spec.removeprefix("char:"), holdout_every=0)
    texts = [record["text"] for record in source.records("train")]
  if spec.startswith("symbols:"):
    return _with_appended_specials(codecs.Symbols(spec.removeprefix("symbols:").split()), spec)
  if spec == "news":
    return _with_appended_specials(codecs.Symbols(news.WORDS), spec)
  if spec == "byte":
    return _with_appended_specials(codecs.Bytes(), "byte")
  if spec == "char" or spec.startswith("char:"):
    alphabet = PRINTABLE if texts is None else "".join(sorted(set().union(*texts)))
    return _with_appended_specials(codecs.Chars(alphabet), spec)
  return _read(spec, given, num_ids)


def _read(spec: str, ids: dict[str, int], num_ids: int = 0) -> Tokenizer:
  path, text = assets.resolve(spec), ""
  if os.path.isdir(path):
    saved = os.path.join(path, FILE_NAME)
    is_converted = not os.path.isfile(saved) and hf_tokenizer.is_in(path)
    text = hf_tokenizer.definition(path) if is_converted else ""
    path = saved if os.path.isfile(saved) else os.path.join(path, hf_tokenizer.FILE)
  if not text and not os.path.isfile(path):
    raise ValueError(f"no tokenizer file {path!r}; use \"byte\", \"char\", \"asset:NAME\" (one of "
                     f"{', '.join(assets.names())}), or train one: python -m mdx.data.prepare.")
  is_saved = os.path.basename(path) == FILE_NAME
  if is_saved and ids:
    raise ValueError(f"{path} has special ids of its own; leave out {', '.join(ids)}.")
  text = text or readers.read_text(path)
  if is_saved:
    try:
      return from_json(text)
    except ValueError as e:
      raise ValueError(f"{path}: {e}") from e
  try:
    vocab = codecs.HuggingFace(text)
  except Exception as e:  # `tokenizers` raises a plain Exception for a malformed file
    raise ValueError(f"{path}: not a tokenizer file ({readers.reason(e)}); expected the "
                     "tokenizer.json of the Hugging Face tokenizers library.") from e
  is_whole = os.path.basename(path) == hf_tokenizer.FILE
  template = hf_tokenizer.chat_template(os.path.dirname(path)) if is_whole else None
  return _find_specials(vocab, spec, path, dict(ids) | {"chat_template": template,
                                                        "num_ids": num_ids})


def _chat_template_file(path: str) -> str:
  path = assets.resolve(path)
  if not os.path.isfile(path):
    raise ValueError(f"no chat template {path!r}; give a Jinja file, or asset:chat.jinja.")
  return readers.read_text(path)


def _find_specials(vocab: codecs.HuggingFace, name: str, path: str,
                   ids: dict[str, Any]) -> Tokenizer:
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
    is_behind = ids["num_ids"] > vocab.size
    ids["mask_id"] = ids["num_ids"] if is_behind else vocab.add_special("[MASK]")
    ids["num_ids"] += is_behind
  return Tokenizer(name=name, vocab=vocab, **ids)


def from_json(text: str) -> Tokenizer:
  """Builds a tokenizer from what `to_json` returned."""
  try:
    state = json.loads(text)
    kind, definition = state.pop("kind"), state.pop("definition")
    return Tokenizer(vocab=codecs.CODECS[kind](definition), **state)
  except Exception as e:  # `tokenizers` raises a plain Exception for a malformed definition
    raise ValueError(f"not a saved mdx tokenizer ({type(e).__name__}: {readers.reason(e)}); "
                     "expected what Tokenizer.to_json returns.") from e


def load(directory: str | os.PathLike) -> Tokenizer:
  """Builds the tokenizer that `save` wrote into a directory."""
  return _read(os.path.join(directory, FILE_NAME), {})
