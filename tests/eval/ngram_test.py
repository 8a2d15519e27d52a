"""n-gram baselines against cases worked out by hand and a chain of known entropy."""

import itertools
import math

import numpy as np
import pytest

from mdx.eval import ngram


def test_unigram_bits_of_a_small_case():
  # Counts a 3, b 1, c 0 (in the held-out text only), k 0.5: p = 3.5/5.5, 1.5/5.5, 0.5/5.5.
  expected = -(2 * math.log2(3.5 / 5.5) + math.log2(1.5 / 5.5) + math.log2(0.5 / 5.5)) / 4
  assert ngram.unigram_bits(["aa", "ab"], ["ab", "ca"], k=0.5) == pytest.approx(expected)


def test_bigram_bits_of_a_small_case():
  # Pairs ^a 2, aa 1, ab 1; contexts ^ 2, a 2; three characters with the held-out c; k 0.5.
  p_first_a, p_ab, p_bc = 2.5 / 3.5, 1.5 / 3.5, 0.5 / 1.5
  expected = -(math.log2(p_first_a) + math.log2(p_ab) + math.log2(p_bc)) / 3
  assert ngram.bigram_bits(["aa", "ab"], ["abc"], k=0.5) == pytest.approx(expected)


def test_default_smoothing_is_a_tenth():
  train, heldout = ["abracadabra"], ["cabal"]
  for bits in (ngram.unigram_bits, ngram.bigram_bits):
    assert bits(train, heldout) == bits(train, heldout, k=0.1) != bits(train, heldout, k=0.2)


@pytest.mark.parametrize("k", [0.1, 2.0])
def test_probabilities_over_the_alphabet_sum_to_one(k):
  train, alphabet = ["abracadabra", "bad", "cab"], "abcdr"
  total = sum(2 ** -ngram.unigram_bits(train, [c], k=k) for c in alphabet)
  assert total == pytest.approx(1)
  for bits in (ngram.unigram_bits, ngram.bigram_bits):
    for n in (1, 2, 3):  # over all texts of n characters
      texts = map("".join, itertools.product(alphabet, repeat=n))
      assert sum(2 ** (-n * bits(train, [t], k=k)) for t in texts) == pytest.approx(1)


def test_every_text_starts_anew():
  assert ngram.bigram_bits(["ab", "ab"], ["ab", "ab"]) == pytest.approx(
      ngram.bigram_bits(["ab"] * 2, ["ab"]))
  assert ngram.bigram_bits(["ab"] * 9, ["ab", "ab"]) < ngram.bigram_bits(["ab"] * 9, ["abab"])


def test_held_out_texts_without_characters_are_refused():
  for bits in (ngram.unigram_bits, ngram.bigram_bits):
    with pytest.raises(ValueError, match="held-out texts are empty"):
      bits(["ab"], ["", ""])


def test_long_samples_of_a_markov_chain_reach_its_entropies():
  transition = np.array([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
  values, vectors = np.linalg.eig(transition.T)
  stationary = np.real(vectors[:, np.argmax(np.real(values))])
  stationary /= stationary.sum()
  entropy = -stationary @ np.log2(stationary)
  entropy_rate = -stationary @ (transition * np.log2(transition)).sum(1)
  rng = np.random.default_rng(0)
  uniform, edges, states = rng.random(200_000), transition.cumsum(1), [0]
  for u in uniform:
    states.append(int(np.searchsorted(edges[states[-1]], u)))
  text = "".join("abc"[s] for s in states)
  train, heldout = [text[:100_000]], [text[100_000:]]
  assert ngram.unigram_bits(train, heldout) == pytest.approx(entropy, abs=0.02)
  assert ngram.bigram_bits(train, heldout) == pytest.approx(entropy_rate, abs=0.02)
  assert entropy - entropy_rate > 0.3  # so that the two cannot be mistaken
