"""Tokenizers of Hugging Face directories without a tokenizer.json, and the ids around a text."""

import json
import sys

import pytest
import tokenizers

from mdx.data import hf_tokenizer
from mdx.data import tokenizer as tokenizer_lib

TEXT = "Hello you're THE 12345 été\n\n  the end."
_LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "hell", "##o", "you", "'", "end", "ete",
          "été", "THE", "."]


def _pairs(path, kind, specials=("<|endoftext|>",), added=(), **settings):
  """A directory with vocab.json and merges.txt."""
  path.mkdir()
  merges = [("H", "e"), ("l", "l"), ("He", "ll"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("1", "2")]
  tokens = [*specials, *_LETTERS, *map("".join, merges)]
  (path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
  lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
  (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  added = {len(tokens) + i: dict(content=x, special=True) for i, x in enumerate(added)}
  (path / "tokenizer_config.json").write_text(json.dumps(
      dict(tokenizer_class=kind, added_tokens_decoder=added, **settings)))
  return path


def _words(path, **settings):
  path.mkdir()
  (path / "vocab.txt").write_text("\n".join(_WORDS) + "\n", encoding="utf-8")
  (path / "tokenizer_config.json").write_text(json.dumps(
      dict(tokenizer_class="BertTokenizer", **settings)))
  return path


def _around(path):
  return hf_tokenizer.around(hf_tokenizer.definition(path))


def test_vocab_json_with_merges_is_byte_level_with_the_cuts_of_its_kind(tmp_path):
  gpt, qwen = (tokenizer_lib.build(str(_pairs(tmp_path / kind, kind, added=["<|im_end|>", "<|mask|>"])))
               for kind in ("GPT2Tokenizer", "DreamTokenizer"))
  for tokenizer in (gpt, qwen):
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.special_texts["<|mask|>"] == tokenizer.mask_id == tokenizer.vocab_size - 1
    assert tokenizer.encode("<|im_end|>").size > 1  # text stays text
  assert len(gpt.encode("12")) == 1 and len(qwen.encode("12")) == 2  # a digit by itself
  saved = tmp_path / "saved"
  qwen.save(saved)
  assert tokenizer_lib.load(saved).fingerprint == qwen.fingerprint


def test_vocab_txt_is_word_piece(tmp_path):
  lower = tokenizer_lib.build(str(_words(tmp_path / "lower")))
  ids = lower.encode("Hello THE été")
  assert [_WORDS[i] for i in ids] == ["hell", "##o", "the", "ete"]
  assert (lower.bos_id, lower.eos_id, lower.mask_id, lower.pad_id) == (2, 3, 4, 0)
  cased = tokenizer_lib.build(str(_words(tmp_path / "cased", do_lower_case=False)))
  assert [_WORDS[i] for i in cased.encode("THE été")] == ["THE", "été"]
  assert _around(tmp_path / "lower") == ((2,), (3,))


def test_the_ids_around_a_text_are_those_of_the_post_processor(tmp_path):
  assert _around(_pairs(tmp_path / "a", "GPT2Tokenizer")) == ((), ())
  bos = dict(add_bos_token=True, bos_token="<|endoftext|>")
  assert _around(_pairs(tmp_path / "b", "GPT2Tokenizer", **bos)) == ((0,), ())
  specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
  assert _around(_pairs(tmp_path / "c", "RobertaTokenizer", specials)) == ((0,), (2,))
  text = hf_tokenizer.definition(tmp_path / "c")
  one = tokenizers.Tokenizer.from_str(text)
  one.post_processor = tokenizers.processors.Sequence([
      tokenizers.processors.ByteLevel(), tokenizers.processors.TemplateProcessing(
          single="<s> <unk> $A </s>", special_tokens=[("<s>", 0), ("<unk>", 3), ("</s>", 2)])])
  assert hf_tokenizer.around(one.to_str()) == ((0, 3), (2,))


@pytest.mark.parametrize("name, text, message", [
    ("vocab.json", "[]", "vocab.json: not JSON settings of a tokenizer"),
    ("vocab.json", '{"a": "b"}', "vocab.json: not the vocabulary of a tokenizer"),
    ("merges.txt", "a\n", "merges.txt: expected two pieces a line"),
    ("merges.txt", "a zz\n", "vocab.json: not the vocabulary .*out of vocabulary"),
    ("tokenizer_config.json", '{"tokenizer_class": "Odd"}', "class 'odd' cuts a text is not known; "),
    ("tokenizer_config.json", '{"tokenizer_class": "GPT2", "added_tokens_decoder": {"9": {'
     '"content": "<x>"}}}', "the added token '<x>' has the id 9, but 264 is the next"),
    ("tokenizer_config.json", '{"tokenizer_class": "GPT2", "added_tokens_decoder": [1]}',
     "not the vocabulary"),
])
def test_a_malformed_vocabulary_is_one_line(name, text, message, tmp_path):
  path = _pairs(tmp_path / "a", "GPT2Tokenizer")
  (path / name).write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_lib.build(str(path))
  assert "\n" not in str(error.value)


def test_what_needs_a_converter_names_it_where_it_is_missing(tmp_path, monkeypatch):
  (tmp_path / "tokenizer.model").write_bytes(b"no model")
  assert hf_tokenizer.is_in(tmp_path)
  with pytest.raises(ValueError, match="tokenizer.model is not converted by transformers|which is not "
                                       "installed") as error:
    tokenizer_lib.build(str(tmp_path))
  assert "\n" not in str(error.value) and "AutoTokenizer, save_pretrained" in str(error.value)
  monkeypatch.setitem(sys.modules, "transformers", None)
  with pytest.raises(ValueError, match="which is not installed; pip install transformers"):
    tokenizer_lib.build(str(tmp_path))
  (tmp_path / "tokenizer.model").rename(tmp_path / "qwen.tiktoken")
  with pytest.raises(ValueError, match="qwen.tiktoken is converted by transformers"):
    tokenizer_lib.build(str(tmp_path))


def _panics(**parts):
  backend = json.loads(tokenizers.Tokenizer(
      tokenizers.models.BPE({"a": 0, "b": 1, "</s>": 2}, [])).to_str())
  return json.dumps(backend | parts)


@pytest.mark.parametrize("parts, use", [
    (dict(normalizer=dict(type="Precompiled", precompiled_charsmap="AAAA")), lambda t: None),
    (dict(pre_tokenizer=dict(type="FixedLength", length=0)), lambda t: t.encode("ab")),
    (dict(decoder=dict(type="Strip", content="a", start=5, stop=5)), lambda t: t.decode([0, 1]))])
def test_a_panic_of_the_library_is_one_line(parts, use, tmp_path):
  (tmp_path / "tokenizer.json").write_text(_panics(**parts))
  with pytest.raises(ValueError, match="the tokenizers library fails on this tokenizer"):
    use(tokenizer_lib.build(str(tmp_path)))


def test_an_id_that_is_far_too_large_is_refused_before_anything_is_made(tmp_path):
  model = dict(type="WordLevel", vocab={"</s>": 0, "a": 10**9}, unk_token="a")
  (tmp_path / "tokenizer.json").write_text(_panics(model=model))
  with pytest.raises(ValueError, match="has the id 1000000000, but only 2 tokens"):
    tokenizer_lib.build(str(tmp_path))
  with pytest.raises(ValueError, match="1000000001 ids; expected at most"):
    tokenizer_lib.of_ids(100, "here", mask_id=10**9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GPT2", "Qwen2", "Roberta", "Bert", "BertCased"])
def test_ids_are_those_of_transformers(kind, tmp_path):
  transformers = pytest.importorskip("transformers")
  if kind.startswith("Bert"):
    path = _words(tmp_path / "a", do_lower_case=kind == "Bert")
  else:
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if kind == "Roberta" else (
        "<|endoftext|>",)
    path = _pairs(tmp_path / "a", f"{kind}Tokenizer", specials)
  theirs = getattr(transformers, f"{kind.removesuffix('Cased')}Tokenizer").from_pretrained(path)
  ours = tokenizer_lib.build(str(path))
  before, after = _around(path)
  for text in (TEXT, "the", "12 12", " x"):
    assert [*before, *ours.encode(text).tolist(), *after] == theirs.encode(text)
