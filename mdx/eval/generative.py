"""Quality of samples as texts: perplexity under a second model, and diversity.

Contents: Scores, evaluate, unigram_entropy, distinct, self_bleu.

Convention: texts are scored as text. The scorer cuts them into tokens of its own, and its
perplexity is that of a corpus, exp(sum of nats / number of tokens), of at most the first
`max_length` tokens of each text (1024 in the literature). A low perplexity alone means little:
repeating one likely phrase has it. So the entropy of each text's own token frequencies stands
beside it always, as in Zheng et al. 2024, arXiv:2409.02908; it alone is high for noise.

References: distinct-n, Li et al. 2016, arXiv:1510.03055; self-BLEU, Zhu et al. 2018,
arXiv:1802.01886; the protocol of Sahoo et al. 2024, arXiv:2406.07524.
"""

from __future__ import annotations

import bisect
import collections
import math
from typing import NamedTuple, Sequence

import numpy as np

from mdx.eval import likelihood

_SMOOTHED = 0.1  # matches of an order that has none, Chen and Cherry's first method


class Scores(NamedTuple):
  """Scores of texts.

  Attributes:
    nll: float64 [N], nats of the scored tokens (a bound if the scorer has no better).
    count: float64 [N], how many they are; 0 for a text that is too short.
    chars: float64 [N], the characters they stand for.
    tokens: the scorer's ids of every text, as far as it is read.
    is_cut: bool [N], texts that are longer than what is read of them.
  """
  nll: np.ndarray
  count: np.ndarray
  chars: np.ndarray
  tokens: list[np.ndarray]
  is_cut: np.ndarray


def evaluate(texts: Sequence[str], scores: Scores) -> dict[str, float]:
  """The quality of some texts.

  Args:
    texts: the samples, without their prompts.
    scores: of a scorer that has read them.

  Returns:
    generative_perplexity, _nats_per_token and _bits_per_char, unigram_entropy (mean over the
    texts, nats), each with `_stderr` over texts; distinct_1, distinct_2 and self_bleu over words;
    num_texts, num_scored (those that are long enough) and num_cut. What is not defined, such as
    the error of one text, is left out.
  """
  is_scored = scores.count > 0
  results = {"num_texts": len(texts), "num_scored": int(is_scored.sum()),
             "num_cut": int(scores.is_cut.sum())}
  if is_scored.any():
    parts = (x[is_scored] for x in (scores.nll, scores.count, scores.chars))
    entropies = np.array([unigram_entropy(x) for x in scores.tokens if len(x)])
    found = likelihood.summarize(*parts)
    found = {f"generative_{k}": v for k, v in found.items() if not k.startswith("num_")}
    results |= found | {
        "unigram_entropy": float(entropies.mean()),
        "unigram_entropy_stderr": float(entropies.std(ddof=1) / math.sqrt(len(entropies)))
                                  if len(entropies) > 1 else math.inf}
  words = [text.split() for text in texts]
  results |= {"distinct_1": distinct(words, 1), "distinct_2": distinct(words, 2),
              "self_bleu": self_bleu(words)}
  return {k: v for k, v in results.items() if math.isfinite(v)}


def unigram_entropy(tokens: Sequence[int]) -> float:
  """Entropy of the frequencies of the tokens of one text, nats."""
  counts = np.unique(np.asarray(tokens), return_counts=True)[1]
  rates = counts / counts.sum()
  return float(-(rates * np.log(rates)).sum()) + 0.0


def _grams(words: Sequence[str], order: int) -> collections.Counter:
  return collections.Counter(zip(*(words[i:] for i in range(order))))


def distinct(texts: Sequence[Sequence[str]], order: int) -> float:
  """Distinct n-grams of all texts over the number of n-grams; NaN where there is none."""
  counts = sum((_grams(words, order) for words in texts), collections.Counter())
  return len(counts) / counts.total() if counts else math.nan


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> float:
  """Mean BLEU of each text with all others as references: 1 where all are the same.

  The precisions of 1 to `order` words, clipped at the most that one reference has, have
  equal weights; the brevity penalty takes the reference of the nearest length. A text that
  shares no word with another has 0.

  Args:
    texts: words of each text.
    order: longest n-gram.

  Returns:
    NaN for fewer than two texts.
  """
  if len(texts) < 2:
    return math.nan
  lengths = sorted(map(len, texts))
  log_precision = np.zeros(len(texts))
  shares_words = np.zeros(len(texts), bool)
  for n in range(1, order + 1):
    counts = [_grams(words, n) for words in texts]
    most = _two_largest(counts)
    for i, own in enumerate(counts):
      # The most of a reference: the largest count, or the second if the largest is its own.
      matches = sum(min(c, most[gram][1 if c == most[gram][0] else 0]) for gram, c in own.items())
      shares_words[i] |= n == 1 and matches > 0
      log_precision[i] += math.log((matches or _SMOOTHED) / max(own.total(), 1)) / order
  penalty = np.array([_log_brevity(len(words), lengths) for words in texts])
  return float((np.exp(log_precision + penalty) * shares_words).mean())


def _two_largest(counts: Sequence[collections.Counter]) -> dict[tuple, tuple[int, int]]:
  """The two largest counts of every n-gram among the texts."""
  most = {}
  for own in counts:
    for gram, c in own.items():
      first, second = most.get(gram, (0, 0))
      most[gram] = (c, first) if c > first else (first, max(c, second))
  return most


def _log_brevity(length: int, lengths: Sequence[int]) -> float:
  """log of BLEU's penalty of a text among texts of sorted `lengths`, its own among them."""
  place = bisect.bisect_left(lengths, length)
  others = lengths[max(place - 1, 0):place] + lengths[place + 1:place + 2]
  nearest = min(others, key=lambda other: (abs(other - length), other))
  return min(0.0, 1 - nearest / length) if length else 0.0
