"""Synthetic speech: frames of hidden phones, in and out of a domain, with bursts of junk.

Contents: Phones, LETTERS, TOKENIZER.

A recording is a path of a sparse Markov chain over ten phones, each held for 2 to 4 frames; a frame
is the mean vector of its phone plus an offset of the recording and Gaussian noise. Recordings of
the other domain have means and successors of their own. Junk replaces stretches of frames by noise
without phones, quieter than speech.

Convention: recording i of a split is a function of (seed, split, i); its label is 0 in the domain
and 1 outside. A frame's label is its phone, 0 .. 9 (of the other domain 10 .. 19), -1 in junk. The
transcript has a letter for each phone of the path; a letter is a token of TOKENIZER.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source

LETTERS = "abcdefghij"
TOKENIZER = "symbols:" + " ".join(LETTERS)
_PHONES, _SUCCESSORS, _CHANNELS = len(LETTERS), 3, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phones(source.Source):
  """Recordings of one length.

  Attributes:
    length: frames of a recording.
    other_share: share of the training recordings that are of the other domain; validation has none.
    junk_share: share of the frames of training recordings that are junk; validation has none.
    junk_scale: spread of junk, in units of that of the phones' means.
    noise: standard deviation of the noise of a frame.
    num_train, num_validation: recordings of the splits.
    seed: of the domains and the recordings.
  """

  layout = "speech"
  in_memory = True
  length: int = 32
  other_share: float = 0.0
  junk_share: float = 0.0
  junk_scale: float = 0.5
  noise: float = 0.5
  num_train: int = 2500
  num_validation: int = 200
  seed: int = 0

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(length=4, num_train=1, num_validation=1,
                                                        junk_scale=0, noise=0, seed=0),
                     between=dict(other_share="[0, 1]", junk_share="[0, 1)"))

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns the recordings of "train" or "validation"."""
    is_validation = source.is_validation(split)
    number = self.num_validation if is_validation else self.num_train
    return tuple(self._record(is_validation, i) for i in range(number))

  def _record(self, is_validation, i):
    draw = np.random.default_rng([self.seed, int(is_validation), i])
    is_other = not is_validation and draw.random() < self.other_share
    means, successors = _domain(self.seed, int(is_other))
    phones, labels = [int(draw.integers(_PHONES))], []
    while True:
      labels += [phones[-1]] * int(draw.integers(2, 5))
      if len(labels) >= self.length:
        break
      phones.append(int(successors[phones[-1], draw.integers(_SUCCESSORS)]))
    labels = np.array(labels[:self.length])
    offset = 0.5 * draw.normal(size=_CHANNELS)
    x = means[labels] + offset + self.noise * draw.normal(size=(self.length, _CHANNELS))
    labels = labels + _PHONES * is_other
    if self.junk_share and not is_validation:
      is_junk = self._junk(draw)
      x = np.where(is_junk[:, None], offset + self.junk_scale * draw.normal(size=x.shape), x)
      labels = np.where(is_junk, -1, labels)
    return {"x": x.astype(np.float32), "frame_labels": labels.astype(np.int32),
            "label": int(is_other), "text": "".join(LETTERS[p] for p in phones)}

  def _junk(self, draw):
    """Junk frames, bool [length]: exactly their share, in bursts of 8."""
    count, is_junk = round(self.junk_share * self.length), np.zeros(self.length, bool)
    while (missing := count - is_junk.sum()) > 0:
      begin = int(draw.integers(self.length))
      free = np.flatnonzero(~is_junk[begin:begin + 8])[:missing]
      is_junk[begin + free] = True
    return is_junk


@functools.lru_cache(maxsize=16)
def _domain(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Means [phones, channels] and successors [phones, 3], none of them the phone itself."""
  draw = np.random.default_rng([seed, 1000 + number])
  successors = np.stack([draw.permutation(np.delete(np.arange(_PHONES), phone))[:_SUCCESSORS]
                         for phone in range(_PHONES)])
  return draw.normal(size=(_PHONES, _CHANNELS)), successors
