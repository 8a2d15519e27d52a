"""Units: words as the tokenizer's table tells them, and where no unit may reach."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import unit as unit_lib
from mdx.data import tokenizer as tokenizer_lib

TEXT = ('"Well, Watson," said Holmes; it\'s café — at 12 o\'clock... naïvely extraordinary\n'
        "The end.")


def _parts(tokenizer, ids, **fields):
  batch = {"tokens": jnp.asarray(ids)[None], **{k: jnp.asarray(v)[None] for k, v in fields.items()}}
  units = np.asarray(unit_lib.words(batch, tokenizer.word_edges))[0]
  first = np.flatnonzero(units == np.arange(len(ids)))
  # An id is the first place of its unit, and a unit is one run.
  np.testing.assert_array_equal(units, np.repeat(first, np.diff([*first, len(ids)])))
  return [tokenizer.decode(part) for part in np.split(np.asarray(ids), first[1:])]


def test_words_of_a_byte_level_vocabulary_are_runs_of_letters_with_the_space_before_them():
  tokenizer = tokenizer_lib.build("asset:holmes_bpe512.json")
  assert _parts(tokenizer, tokenizer.encode(TEXT)) == [
      '"', "Well", ",", " Watson", ',"', " said", " Holmes", ";", " it", "'s", " café", " ", "—",
      " at", " ", "12", " o", "'", "clock", ".", ".", ".", " naïvely", " extraordinary", "\n",
      "The", " end", "."]


@pytest.mark.slow
def test_words_of_characters_and_bytes_are_runs_of_letters_and_digits():
  text = "it's café 12, no"
  expected = ["it", "'", "s", " ", "café", " ", "12", ",", " ", "no"]
  for spec, texts in (("char", [text]), ("byte", None)):
    tokenizer = tokenizer_lib.build(spec, texts)
    assert _parts(tokenizer, tokenizer.encode(text)) == expected, spec


@pytest.mark.parametrize("field,expected", [
    ("segment_ids", ["abc", "def"]), ("loss_mask", ["abc", "def"]), (None, ["abcdef"])])
def test_no_word_reaches_across_a_document_a_prompt_or_padding(field, expected):
  tokenizer = tokenizer_lib.build("char", ["abcdef"])
  fields = {"segment_ids": np.array([1, 1, 1, 2, 2, 2]), "loss_mask": np.arange(6) >= 3}
  assert _parts(tokenizer, tokenizer.encode("abcdef"),
                **{field: fields[field]} if field else {}) == expected


def test_special_ids_are_words_by_themselves():
  tokenizer = tokenizer_lib.build("char", ["ab"])
  a, b = tokenizer.encode("ab")
  batch = {"tokens": jnp.array([[a, tokenizer.mask_id, b, tokenizer.eos_id, a, b]])}
  np.testing.assert_array_equal(unit_lib.words(batch, tokenizer.word_edges), [[0, 1, 2, 3, 4, 4]])


def test_shared_places_are_one_unit_and_the_others_their_own():
  shared = jnp.array([[False, True, False, True], [False] * 4])
  np.testing.assert_array_equal(unit_lib.joined(shared), [[0, 1, 2, 1], [0, 1, 2, 3]])
