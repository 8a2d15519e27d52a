"""Words as noisy images: DejaVu Sans, with a bar that hides a part.

Contents: Rendered, TOKENIZER, words.

Convention: the words of validation are no words of training. Image i of a split is a function of
(seed, split, i).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import images as images_lib
from mdx.data import source
from mdx.data.sources import images
from mdx.data.sources import text

TOKENIZER = "symbols:" + " ".join("abcdefghijklmnopqrstuvwxyz")


@functools.lru_cache(maxsize=4)
def words(path: str, shortest: int, longest: int) -> tuple[str, ...]:
  """The distinct words of lower case letters of a text, in the order of the alphabet."""
  found = set()
  for record in text.Text(path=path, holdout_every=0).records("train"):
    found.update(re.findall(r"\b[a-z]+\b", record["text"]))
  kept = tuple(sorted(x for x in found if shortest <= len(x) <= longest))
  if len(kept) < 2:
    raise ValueError(f"{path} has {len(kept)} words of {shortest} to {longest} letters a to z; "
                     "give a longer text, or other lengths.")
  return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered(images.Pictures):
  """Images of words of a text.

  Attributes (more in `sources.images.Pictures`):
    path: the text.
    shortest, longest: letters of a word.
    held_out: share of the words that are those of validation.
    num_train, num_validation: images of the splits, of one word each; words are drawn for them.
    size: of the font, in pixels.
    noise: standard deviation of the pixels' noise, of 255.
    bar: width in pixels of the bar, in noise alone; bar_rate: share of the images that have one.
    seed: of the split of the words and of the images.
  """

  layout = "captioned"
  in_memory = True
  height: int = 16
  width: int = 64
  patch: int | tuple[int, int] = (16, 4)
  path: str = "asset:holmes.txt.xz"
  shortest: int = 3
  longest: int = 8
  held_out: float = 0.15
  num_train: int = 20_000
  num_validation: int = 500
  size: int = 12
  noise: float = 60.0
  bar: int = 5
  bar_rate: float = 0.9
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", at_least=dict(
        shortest=1, num_train=1, num_validation=1, size=6, noise=0, bar=0, longest=self.shortest),
                     between=dict(held_out="(0, 1)", bar_rate="[0, 1]"))
    if self.colors != 1 or self.bar >= self.width:
      raise ValueError(f"source rendered makes grey images wider than the bar, got colors "
                       f"{self.colors}, width {self.width} and bar {self.bar}; correct them.")
    object.__setattr__(self, "path", source.find(self.path)[0])

  @functools.lru_cache(maxsize=4)  # pylint: disable=method-cache-max-size-none  (few sources)
  def vocabulary(self, split: str) -> tuple[str, ...]:
    """Words of a split."""
    found = words(self.path, self.shortest, self.longest)
    order = np.random.default_rng(self.seed).permutation(len(found))
    number = max(1, round(self.held_out * len(found)))
    chosen = order[:number] if source.is_validation(split) else order[number:]
    return tuple(found[i] for i in sorted(chosen))

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"x", "text"} of "train" or "validation"."""
    is_validation = source.is_validation(split)
    own = self.vocabulary(split)
    number = self.num_validation if is_validation else self.num_train
    index = np.random.default_rng([self.seed, int(is_validation)]).integers(len(own), size=number)
    items = [((int(is_validation), i, own[word]), {"text": own[word]})
             for i, word in enumerate(index)]
    return images.Cut(items, self, self._image)

  def _image(self, item: tuple[int, int, str]) -> np.ndarray:
    split, i, word = item
    draw = np.random.default_rng([self.seed, 2 + split, i])
    clean = _clean(word, self.height, self.width, self.size)
    image = 64 + clean.astype(np.float32) / 2
    if self.bar and draw.random() < self.bar_rate:
      left = draw.integers(0, self.width - self.bar + 1)
      image[:, left:left + self.bar] = 128
    image += draw.normal(0, self.noise, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)


@functools.lru_cache(maxsize=10_000)
def _clean(word: str, height: int, width: int, size: int) -> np.ndarray:
  return images_lib.text_image(word, height, width, size)
