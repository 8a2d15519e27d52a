"""Tokenizers of Hugging Face directories, in any form that they are published in.

Contents: is_in, definition, chat_template, start_token, around.

Convention: everything becomes the text of a tokenizer.json. vocab.json with merges.txt (byte-level
BPE) and vocab.txt (WordPiece) are read here; a tokenizer.model of SentencePiece and the ranks of
tiktoken are converted by `transformers`, where it is installed. The ids around a text are those of
the post-processor, so `add_bos_token` of tokenizer_config.json counts where there is no
tokenizer.json, as in `transformers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors

from mdx.data import codecs
from mdx.utils import readers

FILE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_PAIR, _WORDS, _FOREIGN = ("vocab.json", "merges.txt"), "vocab.txt", "tokenizer.model"
_TIKTOKEN = ".tiktoken"
# How Qwen2 and its descendants cut a text before merging (Yang et al. 2024, arXiv:2407.10671).
_QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
# Begin of the class of a tokenizer, or of the type of its model -> whether it cuts as Qwen2 does.
_CUTS = {"qwen": True, "dream": True, "sdar": True, "gpt2": False, "roberta": False,
         "longformer": False, "bart": False}
_ENCLOSED = ("roberta", "longformer", "bart")  # <s> text </s>


def is_in(path: str | os.PathLike) -> bool:
  """Whether a directory has a tokenizer, in a form that is read or converted."""
  return _form(path) is not None


def _form(path):
  """The file that says what the vocabulary is, or None."""
  has = lambda name: os.path.isfile(os.path.join(path, name))
  if all(map(has, _PAIR)):
    found = _PAIR[0]
  else:
    found = next((name for name in (_WORDS, _FOREIGN) if has(name)), None)
  if has(FILE):
    return FILE
  names = os.listdir(path) if found is None and os.path.isdir(path) else ()
  return found or next((name for name in sorted(names) if name.endswith(_TIKTOKEN)), None)


def definition(path: str | os.PathLike) -> str:
  """The text of the tokenizer.json of a directory, converted where it has another form.

  Raises:
    ValueError: no tokenizer, a malformed one, or one that is not converted.
  """
  form = _form(path)
  if form is None:
    raise ValueError(f"{path} has no tokenizer; expected {FILE}, {' and '.join(_PAIR)}, {_WORDS} "
                     f"or {_FOREIGN}.")
  file = os.path.join(path, form)
  if form == FILE:
    return readers.read_text(file)
  if form not in (_PAIR[0], _WORDS):
    return _converted(path, form)
  try:
    settings = _settings(path, _SETTINGS)
    with codecs.without_panic():
      backend = _word_pieces(path, settings) if form == _WORDS else _byte_pairs(path, settings)
      _add_tokens(backend, _added(path, settings))
      _enclose(backend, settings, form, _kind(path, settings))
      return backend.to_str()
  except (KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"{file}: not the vocabulary of a tokenizer ({type(e).__name__}: "
                     f"{readers.reason(e)}).") from None
  except Exception as e:  # `tokenizers` raises a plain Exception
    if file in str(e) or os.fspath(path) in str(e):
      raise
    raise ValueError(f"{file}: not the vocabulary of a tokenizer ({readers.reason(e)}).") from None


def _settings(path, name) -> dict[str, Any]:
  """The object of a JSON file; {} if there is none."""
  file = os.path.join(path, name)
  if not os.path.isfile(file):
    return {}
  found = readers.read_json(file, "fetch it again")
  if not isinstance(found, dict):
    raise ValueError(f"{file}: not JSON settings of a tokenizer (expected an object).")
  return found


def _kind(path, settings) -> str:
  """The class of the tokenizer in small letters, or the type of its model."""
  return str(settings.get("tokenizer_class")
             or _settings(path, "config.json").get("model_type") or "").lower()


def _name(settings: Mapping[str, Any], key: str, default: str) -> str:
  value = settings.get(key) or default
  return value["content"] if isinstance(value, dict) else value


def _word_pieces(path, settings):
  words = readers.read_text(os.path.join(path, _WORDS)).split("\n")
  words = [word.removesuffix("\r") for word in (words if words[-1] else words[:-1])]
  backend = tokenizers.Tokenizer(models.WordPiece(
      {word: i for i, word in enumerate(words)}, unk_token=_name(settings, "unk_token", "[UNK]")))
  backend.normalizer = normalizers.BertNormalizer(
      clean_text=True, handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
      strip_accents=settings.get("strip_accents"), lowercase=settings.get("do_lower_case", True))
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.decoder = decoders.WordPiece(prefix="##")
  names = [_name(settings, f"{key}_token", f"[{key.upper()}]") for key in
           ("unk", "sep", "pad", "cls", "mask")]
  backend.add_special_tokens([name for name in names if backend.token_to_id(name) is not None])
  return backend


def _byte_pairs(path, settings):
  kind = _kind(path, settings)
  cuts = next((cuts for begin, cuts in _CUTS.items() if kind.startswith(begin)), None)
  if cuts is None:
    raise ValueError(f"{path}: how a tokenizer of class {kind!r} cuts a text is not known; write "
                     f"its {FILE} with transformers (AutoTokenizer, save_pretrained).")
  lines = readers.read_text(os.path.join(path, _PAIR[1])).split("\n")
  merges = [tuple(line.split()) for line in lines if line.strip() and not (
      line.startswith("#version"))]
  if any(len(pair) != 2 for pair in merges):
    raise ValueError(f"{os.path.join(path, _PAIR[1])}: expected two pieces a line.")
  backend = tokenizers.Tokenizer(models.BPE(_settings(path, _PAIR[0]), merges))
  spaced = bool(settings.get("add_prefix_space"))
  if cuts:
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(_QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)])
  else:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
  backend.decoder = decoders.ByteLevel()
  if kind.startswith(_ENCLOSED):
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    backend.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
  elif backend.token_to_id("<|endoftext|>") is not None:
    backend.add_special_tokens(["<|endoftext|>"])
  return backend


def _added(path, settings) -> dict[int, tokenizers.AddedToken]:
  """Tokens beside the vocabulary, by id."""
  found = {i: tokenizers.AddedToken(content, special=True, normalized=False)
           for content, i in _settings(path, "added_tokens.json").items()}
  for i, token in (settings.get("added_tokens_decoder") or {}).items():
    flags = {k: bool(token[k]) for k in ("lstrip", "rstrip", "single_word", "normalized", "special")
             if k in token}
    found[int(i)] = tokenizers.AddedToken(token["content"], **flags)
  return found


def _add_tokens(backend, added):
  for i, token in sorted(added.items()):
    backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
    if backend.token_to_id(token.content) != i:
      raise ValueError(f"the added token {token.content!r} has the id {i}, but "
                       f"{backend.token_to_id(token.content)} is the next")


def _enclose(backend, settings, form, kind):
  """Sets the post-processor."""
  pair = lambda name: (name, backend.token_to_id(name))
  if form == _WORDS or kind.startswith(_ENCLOSED):
    names = ("[CLS]", "[SEP]") if form == _WORDS else ("<s>", "</s>")
    cls, sep = (pair(_name(settings, f"{key}_token", name)) for key, name in
                zip(("cls", "sep"), names))
    if form == _WORDS:
      backend.post_processor = processors.BertProcessing(sep, cls)
    else:
      backend.post_processor = processors.RobertaProcessing(
          sep, cls, trim_offsets=True, add_prefix_space=bool(settings.get("add_prefix_space")))
  elif settings.get("add_bos_token") and settings.get("bos_token"):
    name, i = pair(_name(settings, "bos_token", ""))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, i)])


def _converted(path, form) -> str:
  """By `transformers`."""
  file = os.path.join(path, form)
  remedy = (f"pip install transformers sentencepiece tiktoken protobuf, or put its {FILE} beside "
            "it (AutoTokenizer, save_pretrained)")
  try:
    import transformers  # pylint: disable=g-import-not-at-top  (an extra)
  except ImportError:
    raise ValueError(f"{file} is converted by transformers, which is not installed; "
                     f"{remedy}.") from None
  named = str(_settings(path, _SETTINGS).get("tokenizer_class", ""))
  own = getattr(transformers, named.removesuffix("Fast"), None) if named.isidentifier() else None
  failed = ""
  for one in (own, transformers.AutoTokenizer):
    try:
      found = one and one.from_pretrained(os.fspath(path), local_files_only=True,
                                          trust_remote_code=False)
      if found:
        return found.backend_tokenizer.to_str()
    except Exception as e:  # pylint: disable=broad-except  (of whatever library converts)
      failed = failed or readers.reason(e)
  raise ValueError(f"{file} is not converted by transformers ({failed}); {remedy}.")


def chat_template(path: str | os.PathLike) -> str | None:
  """The chat template that a directory has, or None."""
  if os.path.isfile(alone := os.path.join(path, "chat_template.jinja")):
    return readers.read_text(alone)
  found = _settings(path, _SETTINGS).get("chat_template")
  if isinstance(found, list):  # several, by name
    found = {x.get("name"): x.get("template") for x in found if isinstance(x, dict)}.get("default")
  return found if isinstance(found, str) else None


def start_token(path: str | os.PathLike) -> str:
  """The token that tokenizer_config.json names for the begin of a text, or else for its end."""
  settings = _settings(path, _SETTINGS)
  return _name(settings, "bos_token", "") or _name(settings, "eos_token", "")


def around(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The ids that a tokenizer.json puts before and after a text."""
  return _around(json.loads(text).get("post_processor"))


def _around(processor):
  kind = processor["type"] if processor else ""
  if kind == "Sequence":
    before, after = (), ()
    for one in processor["processors"]:
      outer = _around(one)
      before, after = outer[0] + before, after + outer[1]
    return before, after
  if kind in ("BertProcessing", "RobertaProcessing"):
    return (processor["cls"][1],), (processor["sep"][1],)
  found, is_behind = ([], []), False
  for piece in processor["single"] if kind == "TemplateProcessing" else ():
    if "Sequence" in piece:
      is_behind = True
    else:
      found[is_behind].extend(processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
  return tuple(found[0]), tuple(found[1])
