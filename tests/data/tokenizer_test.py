"""Tokenizers: round trips, special ids, character counts, files and the command."""

import json
import pickle

import numpy as np
import pytest
import tokenizers

from mdx.data import prepare
from mdx.data import tokenizer as tokenizer_lib

UNICODE = "  Héllo, wörld!\r\n\t漢字 🙂👩‍🚀 [MASK] <mask> [PAD] \0 naïve\n\n"


def _wordpiece() -> tokenizers.Tokenizer:
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "[", "]",
           "mask", "."]
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(
      {w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
  backend.normalizer = tokenizers.normalizers.BertNormalizer()
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  backend.decoder = tokenizers.decoders.WordPiece()
  backend.add_special_tokens(words[:5])
  return backend


def _word_level(is_special: bool) -> tokenizers.Tokenizer:
  words = ["a", "[MASK]", "[EOS]", "[UNK]", *"[MASK]"]
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  if is_special:
    backend.add_special_tokens(["[MASK]", "[EOS]"])
  return backend


def _unigram() -> tokenizers.Tokenizer:
  pieces = [("[UNK]", 0.0), ("[EOS]", 0.0), ("<mask>", 0.0)]
  backend = tokenizers.Tokenizer(tokenizers.models.Unigram(
      pieces + [(c, -2.0) for c in "b<mask>▁"], unk_id=0))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  backend.add_special_tokens(["[UNK]", "[EOS]", "<mask>"])
  return backend


def _bpe(special: bool = True) -> tokenizers.Tokenizer:
  backend = prepare.train_bpe(["the cat sat on the mat. " * 20], 280)
  state = json.loads(backend.to_str())
  for token in state["added_tokens"]:
    token["special"] = special
  return tokenizers.Tokenizer.from_str(json.dumps(state))


def _built(backend: tokenizers.Tokenizer, folder, **ids) -> tokenizer_lib.Tokenizer:
  path = str(folder / "tokenizer.json")
  backend.save(path)
  return tokenizer_lib.build(path, **ids)


@pytest.fixture(name="byte_level", scope="module")
def _byte_level():
  return tokenizer_lib.build("asset:holmes_bpe512.json")


@pytest.mark.parametrize("spec", ["byte", "asset:holmes_bpe512.json"])
def test_any_text_comes_back_and_its_characters_are_counted(spec):
  tokenizer = tokenizer_lib.build(spec)
  for text in (UNICODE, "", "plain", "é" * 50, "🙂"):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.chars_per_token[ids].sum() == len(text)
    assert not set(ids.tolist()) & tokenizer.special_ids


def test_char_tokenizer_has_one_id_a_character():
  tokenizer = tokenizer_lib.build("char", ["hello", "wörld"])
  assert tokenizer.vocab_size == len(set("hellowörld")) + 3
  ids = tokenizer.encode("wöhle")
  assert tokenizer.decode(ids) == "wöhle"
  assert tokenizer.chars_per_token[ids].tolist() == [1] * 5
  with pytest.raises(ValueError, match="'x'.*U\\+0078.*position 2.*\"byte\""):
    tokenizer.encode("hexe")


@pytest.mark.parametrize("spec", ["byte", "char", "symbols:a bc . 12", "asset:holmes_bpe512.json"])
def test_rows_are_decoded_together_as_one_by_one(spec):
  tokenizer = tokenizer_lib.build(spec)
  draw = np.random.default_rng(0)
  rows, lengths = draw.integers(0, tokenizer.vocab_size, (50, 9)), draw.integers(0, 10, 50)
  rows[:, 0] = tokenizer.mask_id
  found = tokenizer.decode_rows(rows, lengths)
  assert found == [tokenizer.decode(row[:n]) for row, n in zip(rows, lengths)] and any(found)
  assert tokenizer.decode_rows(rows[:0], lengths[:0]) == []
  rows[3, 5] = tokenizer.vocab_size  # behind the end it is not read
  assert tokenizer.decode_rows(rows[3:4], np.array([5])) == [tokenizer.decode(rows[3, :5])]
  for wrong in (tokenizer.vocab_size, -1):
    rows[3, 5] = wrong
    with pytest.raises(ValueError, match=f"id {wrong} is outside this vocabulary"):
      tokenizer.decode_rows(rows, np.full(50, 9))


def test_char_without_texts_is_printable_ascii():
  tokenizer = tokenizer_lib.build("char")
  text = "The end.\n~ [MASK]"
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.vocab_size == 96 + 3


def test_char_file_takes_the_whole_file(tmp_path):
  lines = ["abc" * 33 + "\n"] * 1000
  lines[19 * 40 + 5] = "z\n"  # in the document that the text source would hold out
  (tmp_path / "text.txt").write_text("".join(lines), encoding="utf-8")
  tokenizer = tokenizer_lib.build(f"char:{tmp_path / 'text.txt'}")
  assert tokenizer.decode(tokenizer.encode("zab\n")) == "zab\n"
  assert tokenizer_lib.build("char:asset:holmes.txt.xz").vocab_size == 79 + 3


@pytest.mark.parametrize("spec", ["byte", "char", "asset:holmes_bpe512.json"])
def test_special_ids_are_distinct_and_stand_for_no_text(spec):
  tokenizer = tokenizer_lib.build(spec)
  specials = [tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id]
  assert len(set(specials)) == 3 and set(specials) == tokenizer.special_ids
  assert len(specials) and all(0 <= i < tokenizer.vocab_size for i in specials)
  assert (tokenizer.chars_per_token[specials] == 0).all()
  assert tokenizer.chars_per_token.shape == (tokenizer.vocab_size,)


@pytest.mark.parametrize("spec", ["byte", "char", "asset:holmes_bpe512.json"])
def test_decode_shows_masks_and_drops_other_specials(spec):
  tokenizer = tokenizer_lib.build(spec)
  a, b = tokenizer.encode("a"), tokenizer.encode("b")
  ids = [*a, tokenizer.mask_id, tokenizer.pad_id, *b, tokenizer.eos_id]
  assert tokenizer.decode(ids) == "a_b"
  for wrong in (-1, tokenizer.vocab_size):
    with pytest.raises(ValueError, match=f"id {wrong} is outside"):
      tokenizer.decode([wrong])


def test_word_piece_round_trip_counts_and_specials(tmp_path):
  tokenizer = _built(_wordpiece(), tmp_path)
  ids = tokenizer.encode("the cats sat.")
  assert ids.tolist() == [5, 6, 7, 8, 12]  # the cat ##s sat .
  assert tokenizer.decode(ids) == "the cats sat."
  assert tokenizer.chars_per_token[ids].tolist() == [3, 3, 1, 3, 1]
  assert (tokenizer.mask_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (4, 0, 3, 2)
  assert tokenizer.special_ids == {0, 1, 2, 3, 4}
  assert tokenizer.decode([5, 4, 8, 3]) == "the _ sat"


@pytest.mark.parametrize("backend, text", [
    (_wordpiece(), "the [MASK] sat [SEP] [PAD]"),
    (_word_level(True), "a [MASK] a [EOS]"),
    (_word_level(False), "a [MASK] a [EOS]"),
    (_unigram(), "a <mask> b [EOS]"),
    (_bpe(), "a [MASK] b [EOS] [PAD]"),
    (_bpe(special=False), "a [MASK] b [EOS] [PAD]"),
], ids=["wordpiece", "wordlevel", "wordlevel_plain", "unigram", "bpe", "bpe_not_special"])
def test_text_never_becomes_a_special_id(backend, text, tmp_path):
  tokenizer = _built(backend, tmp_path)
  ids = set(tokenizer.encode(text).tolist())
  assert not ids & {tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id}
  assert len(ids) > 1


def _split_characters():
  """A vocabulary of characters without bytes, that marks spaces."""
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab={p: i for i, p in enumerate(["[MASK]", "[EOS]", *dict.fromkeys("[MASK]ab▁")])},
      merges=[]))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
  backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="never")
  backend.add_special_tokens(["[MASK]", "[EOS]"])
  return backend


def test_the_name_of_the_mask_in_a_text_is_text_when_it_is_decoded(tmp_path):
  tokenizer = _built(_split_characters(), tmp_path)
  text = "a [MASK] b [MASK]"
  ids = tokenizer.encode(text).tolist()
  assert tokenizer.decode(ids) == text
  mask = [tokenizer.mask_id]
  assert tokenizer.decode([*ids[:2], *mask, *ids[2:], *mask, *mask]) == "a _[MASK] b [MASK]__"
  assert tokenizer.decode([*mask, *ids]) == "_" + text


@pytest.mark.parametrize("value", [None, b"abc", 5, ["a"], float("nan")])
def test_what_is_no_text_is_refused(value):
  with pytest.raises(ValueError, match="byte: expected text, got"):
    tokenizer_lib.build("byte").encode(value)


def test_added_token_that_is_not_special_still_comes_back(tmp_path):
  tokenizer = _built(_bpe(special=False), tmp_path)
  text = "a [MASK] b"
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.chars_per_token[tokenizer.encode(text)].sum() == len(text)


def test_truncation_and_padding_of_a_file_are_ignored(tmp_path):
  backend = _bpe()
  backend.enable_truncation(3)
  backend.enable_padding(length=50, pad_id=9, pad_token="x")
  tokenizer = _built(backend, tmp_path)
  for text in ("the cat sat on the mat", "x"):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not set(tokenizer.encode(text).tolist()) & tokenizer.special_ids


def test_bytes_of_a_character_count_once(tmp_path):
  pieces = ["<unk>", "</s>", "a", "<0xC3>", "<0xA9>"]
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True))
  backend.decoder = tokenizers.decoders.Sequence(
      [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
  backend.add_special_tokens(["<unk>", "</s>"])
  tokenizer = _built(backend, tmp_path)
  ids = tokenizer.encode("éa")
  assert ids.tolist() == [3, 4, 2] and tokenizer.decode(ids) == "éa"
  assert tokenizer.chars_per_token[ids].tolist() == [1, 0, 1]


def test_mask_is_appended_where_there_is_none_and_padding_is_the_end_token(tmp_path):
  gpt = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
  gpt.decoder = tokenizers.decoders.Fuse()
  gpt.add_special_tokens(["</s>"])
  tokenizer = _built(gpt, tmp_path)
  assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id) == (2, 2, 3)
  assert tokenizer.vocab_size == 4 and tokenizer.decode([0, 3, 2, 1]) == "a_b"
  tokenizer.save(tmp_path / "saved")
  assert tokenizer_lib.load(tmp_path / "saved").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("name", ["<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"])
def test_the_end_token_is_found_by_its_usual_names(tmp_path, name):
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
  backend.add_special_tokens([name])
  assert _built(backend, tmp_path).eos_id == 2


def test_ids_of_unusual_names_are_taken_from_the_caller(tmp_path):
  gpt = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
  gpt.add_special_tokens(["<stop>", "<hole>"])
  with pytest.raises(ValueError, match="no end token.*pass eos_id"):
    _built(gpt, tmp_path)
  tokenizer = _built(gpt, tmp_path, eos_id=2, mask_id=3)
  assert (tokenizer.eos_id, tokenizer.mask_id, tokenizer.vocab_size) == (2, 3, 4)
  for ids, message in (({"eos_id": 2, "mask_id": 4}, "mask_id 4 is outside its 4 ids"),
                       ({"eos_id": 2, "mask_id": 2}, "mask_id and pad_id are both 2"),
                       ({"eos_id": 2, "end_id": 2}, "unknown argument 'end_id'")):
    with pytest.raises(ValueError, match=message):
      _built(gpt, tmp_path, **ids)
  assert _built(_wordpiece(), tmp_path, pad_id=1).pad_id == 1  # rather than its [PAD], 0
  ordinary = _built(gpt, tmp_path, eos_id=2, mask_id=0)
  with pytest.raises(ValueError, match="mask_id 0 is an ordinary token"):
    ordinary.encode("ab")


def test_ids_are_refused_where_they_cannot_apply(tmp_path):
  with pytest.raises(ValueError, match="'byte' has special ids of its own; leave out mask_id"):
    tokenizer_lib.build("byte", mask_id=3)
  tokenizer_lib.build("byte", mask_id=None).save(tmp_path)
  with pytest.raises(ValueError, match="special ids of its own; leave out eos_id"):
    tokenizer_lib.build(str(tmp_path), eos_id=3)


@pytest.mark.parametrize("make", [
    lambda tmp: tokenizer_lib.build("byte"),
    lambda tmp: tokenizer_lib.build("char", ["zyxé🙂"]),
    lambda tmp: tokenizer_lib.build("asset:holmes_bpe512.json"),
    lambda tmp: _built(_wordpiece(), tmp)], ids=["byte", "char", "bpe", "wordpiece"])
def test_a_saved_or_pickled_tokenizer_is_the_same(make, tmp_path):
  tokenizer = make(tmp_path)
  tokenizer.save(tmp_path / "deep" / "er")
  text = "xyzé" if "char" in tokenizer.name else "the cats [MASK] sat"
  for other in (tokenizer_lib.load(tmp_path / "deep" / "er"),
                tokenizer_lib.build(str(tmp_path / "deep" / "er")),
                tokenizer_lib.from_json(tokenizer.to_json()),
                pickle.loads(pickle.dumps(tokenizer))):
    assert other.fingerprint == tokenizer.fingerprint
    assert other.special_ids == tokenizer.special_ids
    np.testing.assert_array_equal(other.encode(text), tokenizer.encode(text))
    np.testing.assert_array_equal(other.chars_per_token, tokenizer.chars_per_token)


def test_fingerprint_tells_vocabularies_and_special_ids_apart(tmp_path, byte_level):
  swapped = json.loads(byte_level.to_json())
  swapped["pad_id"], swapped["eos_id"] = swapped["eos_id"], swapped["pad_id"]
  prints = [byte_level.fingerprint, tokenizer_lib.from_json(json.dumps(swapped)).fingerprint,
            _built(_bpe(), tmp_path).fingerprint, tokenizer_lib.build("byte").fingerprint,
            tokenizer_lib.build("char", ["ab"]).fingerprint,
            tokenizer_lib.build("char", ["ac"]).fingerprint]
  assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("name, content, message", [
    ("tokenizer.json", b"hello", "not a tokenizer file .*Hugging Face"),
    ("tokenizer.json", b'{"a": 1}', "not a tokenizer file .*Hugging Face"),
    ("tokenizer.json", b"\xff\xfe", "line 1: not UTF-8"),
    ("mdx_tokenizer.json", b"hello", "not a saved mdx tokenizer"),
    ("mdx_tokenizer.json", b'{"kind": "byte"}', "not a saved mdx tokenizer .*definition"),
    ("mdx_tokenizer.json", b'{"kind": "huggingface", "definition": "x"}', "not a saved mdx"),
    ("mdx_tokenizer.json", b'{"kind": "zip", "definition": null}', "not a saved mdx"),
], ids=range(7))
def test_a_malformed_file_is_named_in_one_line(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_lib.build(str(tmp_path))
  assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_or_asset_is_named_with_the_choices(tmp_path):
  with pytest.raises(ValueError, match="nothing.json.*holmes_bpe512.json.*mdx.data.prepare"):
    tokenizer_lib.build(str(tmp_path / "nothing.json"))
  with pytest.raises(ValueError, match="no asset 'none.json'.*holmes_bpe512.json"):
    tokenizer_lib.build("asset:none.json")
  with pytest.raises(ValueError, match="no tokenizer file"):
    tokenizer_lib.load(tmp_path)


@pytest.mark.parametrize("spec", ["byte", "asset:holmes_bpe512.json"])
def test_a_lone_surrogate_is_an_error_of_the_text(spec):
  with pytest.raises(ValueError, match="surrogates not allowed"):
    tokenizer_lib.build(spec).encode("a\ud800")


def test_symbols_are_cut_greedily_and_come_back():
  tokenizer = tokenizer_lib.build("symbols:1 12 2 + =")
  ids = tokenizer.encode("12+21=")
  assert ids.tolist() == [1, 3, 2, 0, 4] and tokenizer.decode(ids) == "12+21="
  assert tokenizer.vocab_size == 8 and tokenizer.mask_id == 7
  assert tokenizer.chars_per_token[ids].sum() == 6
  again = tokenizer_lib.from_json(tokenizer.to_json())
  assert again.fingerprint == tokenizer.fingerprint
  assert again.fingerprint != tokenizer_lib.build("symbols:12 1 2 + =").fingerprint
  with pytest.raises(ValueError, match="'3' does not begin with one of the 5 symbols"):
    tokenizer.encode("1+3")
  with pytest.raises(ValueError, match="needs distinct, non-empty"):
    tokenizer_lib.build("symbols:1 1")


def test_word_edges_follow_the_marks_of_a_vocabulary(tmp_path):
  wordpiece = _built(_wordpiece(), tmp_path)
  ids = wordpiece.encode("the cats sat.")
  assert [wordpiece.vocab.backend.id_to_token(i) for i in ids] == ["the", "cat", "##s", "sat", "."]
  assert wordpiece.word_edges[ids].tolist() == [
      [False, True], [False, True], [True, True], [False, True], [False, True]]
  assert not wordpiece.word_edges[sorted(wordpiece.special_ids)].any()
  (tmp_path / "unigram").mkdir()
  unigram = _built(_unigram(), tmp_path / "unigram")
  b, space = (unigram.vocab.backend.token_to_id(c) for c in "b\u2581")
  assert unigram.word_edges[[b, space]].tolist() == [[True, True], [False, False]]
  assert not _word_level_edges(tmp_path).any()  # every token is a word


def _word_level_edges(folder):
  (folder / "words").mkdir()
  return _built(_word_level(True), folder / "words").word_edges


def test_word_edges_see_letters_digits_and_parts_of_characters_inside_words(byte_level):
  edges = lambda text: byte_level.word_edges[byte_level.encode(text)].tolist()
  assert edges(" the") == [[False, True]] and edges(",") == [[False, False]]
  assert edges("é") == [[True, True]] * len(byte_level.encode("é"))
  assert edges("7") == [[True, True]]
  assert byte_level.word_edges.shape == (byte_level.vocab_size, 2)
  symbols = tokenizer_lib.build("symbols:ab c")
  assert not symbols.word_edges.any()
