"""The t-statistic of n-grams, and the command that finds them."""

import collections
import json
import math

import numpy as np
import pytest

from mdx.data import prepare
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.prepared import ngrams


def test_the_statistic_is_that_of_the_formula():
  # 6 of 48 bigrams, of two ids with shares 1/4 and 1/5: p = 1/8, p0 = 1/20.
  expected = (1 / 8 - 1 / 20) / math.sqrt(1 / 8 * 7 / 8 / 48)
  assert ngrams.t_statistic(np.array([6]), 48, np.array([0.05]))[0] == pytest.approx(expected)
  assert ngrams.t_statistic(np.array([6]), 48, np.array([1 / 8]))[0] == pytest.approx(0)


def _by_hand(texts, size, num, excluded):
  count, single = collections.Counter(), collections.Counter()
  for text in texts:
    single.update(text)
    count.update(tuple(text[i:i + size]) for i in range(len(text) - size + 1))
  total, t = sum(count.values()), {}
  for gram, times in count.items():
    p, p0 = times / total, math.prod(single[i] / sum(single.values()) for i in gram)
    value = (p - p0) / math.sqrt(p * (1 - p) / total)
    if times > 1 and value > 0 and not excluded & set(gram):
      t[gram] = value
  return [list(gram) for gram in sorted(t, key=lambda gram: (-t[gram], gram))[:num]]


def test_the_lexicon_has_the_highest_of_each_size(monkeypatch):
  monkeypatch.setattr(ngrams, "_MERGE", 50)  # counts are merged several times
  draw = np.random.default_rng(0)
  texts = [draw.choice(6, draw.integers(1, 30), p=[.4, .2, .1, .1, .1, .1]).tolist()
           + [4, 5, 3] * 2 for _ in range(40)]
  found = ngrams.lexicon(map(np.array, texts), 6, {2: 7, 3: 5}, {2})
  assert found == _by_hand(texts, 2, 7, {2}) + _by_hand(texts, 3, 5, {2})
  assert len(found) == 12 and [4, 5, 3] in found
  with pytest.raises(ValueError, match="no n-gram occurs twice"):
    ngrams.lexicon([np.array([0, 1])], 6, {2: 7})
  with pytest.raises(ValueError, match="too many to count"):
    ngrams.lexicon([], 1 << 22, {3: 1})


def test_the_command_writes_which_tokenizer_the_lexicon_is_of(tmp_path, capsys):
  path, out = tmp_path / "a.txt", tmp_path / "out.json"
  path.write_text("the cat sat on the mat.\nthe dog ate the cat.\n" * 20)
  prepare.main(["lexicon", f"--input={path}", f"--output={out}", "--tokenizer=char",
                "--num_bigrams=4", "--num_trigrams=2", "--holdout_every=0"])
  assert "6 n-grams" in capsys.readouterr().out
  found, tokenizer = json.loads(out.read_text()), tokenizer_lib.build("char")
  assert found["tokenizer"] == tokenizer.fingerprint
  assert tokenizer.encode("the").tolist() in found["grams"]
