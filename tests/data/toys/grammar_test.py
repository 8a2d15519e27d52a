"""The toy grammar: what its rules say of every sentence, and of how often."""

import numpy as np
import pytest

from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.toys import grammar

import oracle

DRAWN = grammar.Grammar()
SAMPLE = [DRAWN.document([0, 0, i], 2, 4) for i in range(400)]
KIND = np.array([w.rstrip("0123456789") for w in grammar.WORDS])
NUMBER = np.array([int(w.lstrip("abcdefghijklmnopqrstuvwxyz")) for w in grammar.WORDS])


def _sentences():
  for topic, paragraphs in SAMPLE:
    for paragraph in paragraphs:
      for sentence in paragraph:
        yield topic, sentence


def test_sentences_have_the_form_of_the_grammar_and_determiners_agree():
  has_adjective, collocations, chosen = [], [], []
  for _, sentence in _sentences():
    kinds = list(KIND[sentence])
    assert kinds[-1] == "end"
    tail = tuple(int(x) for x in sentence[:-1] if KIND[x] == "part")
    collocations.append(bool(tail))
    assert not tail or tail in DRAWN.collocations
    assert [k for k in kinds if k not in ("adj", "part", "end")] == [
        "det", "noun", "verb", "det", "noun"]
    for i in np.flatnonzero(KIND[sentence] == "det"):
      adjective = kinds[i + 1] == "adj"
      has_adjective.append(adjective)
      noun = NUMBER[sentence[i + 1 + adjective]]
      assert kinds[i + 1 + adjective] == "noun"
      assert NUMBER[sentence[i]] // 2 == grammar.Grammar.gender(noun)
      chosen.append(NUMBER[sentence[i]] % 2)
    verb, thing = NUMBER[sentence[KIND[sentence] == "verb"]][0], NUMBER[sentence[
        KIND[sentence] == "noun"]][1]
    assert DRAWN.takes(verb, thing) and not DRAWN.is_held_out(verb, thing)
  for draws, rate in ((has_adjective, 0.5), (collocations, 0.2), (chosen, 0.5)):
    assert abs(oracle.z_score(np.array(draws), rate)) < 4


def test_verbs_and_adjectives_prefer_the_topic_as_often_as_they_should():
  for kind in ("verb", "adj"):
    own = [grammar.Grammar.topic(kind, NUMBER[x]) == topic
           for topic, sentence in _sentences() for x in sentence if KIND[x] == kind]
    assert abs(oracle.z_score(np.array(own), 0.8 + 0.2 / 8)) < 4
    assert DRAWN.probs(kind, 3).sum() == pytest.approx(1)


def test_the_topic_is_found_from_a_bag_of_words_by_its_posterior():
  probs = {kind: np.log([DRAWN.probs(kind, t) for t in range(8)]) for kind in ("verb", "adj")}
  right = []
  for topic, paragraphs in SAMPLE:
    words = np.concatenate(paragraphs[0][:2])  # two sentences leave some doubt
    score = sum(probs[KIND[x]][:, NUMBER[x]] for x in words if KIND[x] in probs)
    right.append(score.argmax() == topic)
  # Of n independent words the best guess is right with a probability between these.
  assert 0.85 < np.mean(right) < 0.995


def test_subjects_return_in_the_next_sentence():
  pairs = [(NUMBER[a[KIND[a] == "noun"]][0] == NUMBER[b[KIND[b] == "noun"]][0])
           for _, paragraphs in SAMPLE for paragraph in paragraphs
           for a, b in zip(paragraph, paragraph[1:])]
  assert 0.38 < np.mean(pairs) < 0.55  # 0.5, less 0.15 of new key nouns, plus chance


def test_held_out_pairs_occur_only_where_they_are_asked_for():
  source = sources.build(dict(name="grammar", num_documents=40, num_validation=4, held_out=True))
  for record in source.records("train"):
    ids = record["tokens"]
    verbs, nouns = NUMBER[ids[KIND[ids] == "verb"]], NUMBER[ids[KIND[ids] == "noun"]][1::2]
    assert grammar.Grammar.is_held_out(verbs, nouns).all()


def test_documents_depend_on_seed_and_split_and_have_the_topic_as_label():
  fields = dict(name="grammar", num_documents=20, num_validation=20, num_sentences=2)
  one, other = sources.build(fields | dict(seed=1)), sources.build(fields | dict(seed=2))
  train, again = one.records("train"), sources.build(fields | dict(seed=1)).records("train")
  assert len(again) and all((a["tokens"] == b["tokens"]).all() for a, b in zip(train, again))
  tokens = [set(map(tuple, (r["tokens"] for r in s))) for s in (
      train, one.records("validation"), other.records("train"))]
  assert not tokens[0] & tokens[1] and not tokens[0] & tokens[2]
  assert {r["label"] for r in train} <= set(range(8))
  tokenizer = tokenizer_lib.build("grammar")
  assert tokenizer.vocab_size == len(grammar.WORDS) + 3
  assert tokenizer.decode(train[0]["tokens"][-1:]) == "end0"
  with pytest.raises(ValueError, match="num_sentences must be at least 1"):
    sources.build(dict(name="grammar", num_sentences=0))


def test_pairs_of_passages_have_the_similarity_that_they_say():
  tokenizer = tokenizer_lib.build("grammar")
  records = sources.build(dict(name="grammar_pairs", num_pairs=300)).records("validation")
  assert [record["label"] for record in records] == ["0", "1", "2"] * 100
  shares, shared = {"0": [], "1": [], "2": []}, {"0": [], "1": [], "2": []}
  for record in records:
    topics, nouns = [], []
    for text in record["texts"]:
      ids = tokenizer.encode(text)
      owners = [grammar.Grammar.topic(kind, NUMBER[i]) for i in ids
                if (kind := KIND[i]) in ("noun", "verb", "adj")]
      topics.append(np.bincount(owners, minlength=8).argmax())
      nouns.append({int(i) for i in ids if KIND[i] == "noun"})
    shares[record["label"]].append(topics[0] == topics[1])
    shared[record["label"]].append(len(nouns[0] & nouns[1]))
  assert np.mean(shares["0"]) < 0.1 and min(np.mean(shares["1"]), np.mean(shares["2"])) > 0.8
  assert np.mean(shared["2"]) > np.mean(shared["1"]) + 0.1 > np.mean(shared["0"]) + 0.5
