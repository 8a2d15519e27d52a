"""Small grey images of shapes: a class is a shape and the direction of its stripes.

Contents: Shapes, SHAPES, NUM_CLASSES.

Convention: image i of a split is a function of (seed, split, i). Position, size, contrast and noise
are drawn, so that no pixel tells the class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.sources import images

# Disk, square, cross, triangle: of offsets from the centre, in units of the radius.
SHAPES = (lambda y, x: y ** 2 + x ** 2 <= 1,
          lambda y, x: np.maximum(abs(y), abs(x)) <= 0.85,
          lambda y, x: (np.minimum(abs(y), abs(x)) <= 0.35) & (np.maximum(abs(y), abs(x)) <= 1),
          lambda y, x: (y <= 0.8) & (abs(x) <= 0.6 * (y + 1)))
NUM_CLASSES = 2 * len(SHAPES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes(images.Pictures):
  """Disks, squares, crosses and triangles with stripes across or along.

  Attributes (more in `sources.images.Pictures`):
    num_train, num_validation: images of the splits.
    noise: standard deviation of the pixels' noise, of 255.
    seed: of the images.
  """

  layout = "patches"
  in_memory = True
  height: int = 16
  width: int = 16
  num_train: int = 4000
  num_validation: int = 400
  noise: float = 30.0
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", at_least=dict(num_train=1, num_validation=1, noise=0))
    if self.colors != 1 or min(self.height, self.width) < 8:
      raise ValueError(f"source shapes makes grey images of at least 8 x 8 pixels, got colors "
                       f"{self.colors} and {self.height} x {self.width}; use source images.")

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"x", "label"} of "train" or "validation"."""
    is_validation = source.is_validation(split)
    number = self.num_validation if is_validation else self.num_train
    items = [((int(is_validation), i), {"label": i % NUM_CLASSES}) for i in range(number)]
    return images.Cut(items, self, self._image)

  def _image(self, item: tuple[int, int]) -> np.ndarray:
    draw = np.random.default_rng([self.seed, *item])
    shape, is_across = divmod(item[1] % NUM_CLASSES, 2)
    radius = draw.uniform(0.28, 0.4) * min(self.height, self.width)
    centre = [draw.uniform(radius, size - radius) for size in (self.height, self.width)]
    y, x = np.mgrid[:self.height, :self.width] + 0.5
    inside = SHAPES[shape]((y - centre[0]) / radius, (x - centre[1]) / radius)
    stripe = (np.floor((y if is_across else x) / 2 + draw.uniform(0, 2)) % 2).astype(bool)
    dark, light = draw.uniform(20, 90), draw.uniform(150, 235)
    low, high = (dark, light) if draw.random() < 0.5 else (light, dark)
    image = np.where(inside, np.where(stripe, high, (high + low) / 2), low)
    image = image + draw.normal(0, self.noise, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)[:, :, None]
