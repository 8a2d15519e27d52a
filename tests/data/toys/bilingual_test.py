"""The toy languages: word for word by a lexicon, adjectives and particles behind."""

import pytest

from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.toys import bilingual


def test_a_translation_moves_adjectives_and_particles_and_is_a_function_of_words():
  clauses = [["adj01", "noun02", "verb03", "noun04"], ["noun02", "verb04", "adj01", "noun04"]]
  found = bilingual.translate(clauses)
  noun, adjective, verb, other, particle = found[:5]
  assert (noun[:4], adjective[:3], verb[:4], other[:4], particle) == (
      "NOUN", "ADJ", "VERB", "NOUN", "UP")
  assert found[5:] == [noun, bilingual.translate([["verb04"]])[0], other, adjective]
  every = [bilingual.translate([[f"noun{i:02}"]])[0] for i in range(20)]
  assert len(set(every)) == 20


def test_pairs_and_texts_are_drawn_alike_from_a_seed_and_fit_the_tokenizer():
  fields = dict(name="bilingual", num_train=40, num_validation=9)
  pairs, again, other = (list(sources.build(fields | more).records("train")) for more in (
      {}, {}, dict(seed=1)))
  assert pairs == again != other and len(pairs) == 40
  source = sources.build(fields | dict(kind="texts"))
  texts = [x["text"] for x in source.records("train")]
  assert all(x.islower() for x in texts[::2]) and all(x.isupper() for x in texts[1::2])
  assert source.layout == "text" and not {x["source"] for x in pairs} >= set(texts[::2])
  tokenizer = tokenizer_lib.build(bilingual.TOKENIZER)
  sizes = [max(len(tokenizer.encode(x[k])) for k in x) for x in pairs]
  assert 3 <= min(sizes) and max(sizes) <= 12


def test_another_kind_is_one_line():
  with pytest.raises(ValueError, match="kind is 'words'; choose from pairs, texts"):
    sources.build(dict(name="bilingual", kind="words"))
