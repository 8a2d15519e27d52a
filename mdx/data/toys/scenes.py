"""Small coloured images of one or two shapes, and what is seen in them.

Contents: Scenes, SHOWN.

A scene has one or two objects in the quarters of an image, each a shape in a colour. Its answer
names them in the order of the quarters: "red disk upper-left and blue cross lower-right", in tokens
without spaces. Objects of training images have 12 of the 16 combinations of colour and shape,
those of validation images the other four, where the number of the shape is that of the colour: so a
colour tells which shape it never has in training, and a reader that learns this is always wrong.

Convention: scene i of a split is a function of (seed, split, i). Size, shift, shade and noise are
drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import source
from mdx.data.sources import images
from mdx.data.toys import scene_words
from mdx.data.toys import shapes

SHOWN = ("own", "other", "blank", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(images.Pictures):
  """Images of scenes with a prompt and an answer.

  Attributes (more in `sources.images.Pictures`):
    num_train, num_validation: scenes of the splits.
    most: objects of a scene, at most; 1 or 2.
    held_out: whether objects of validation have the held-out combinations, or those of training.
    shown: "own", the image of the scene; "other", that of another scene; "blank", one without
      objects; "none", no image: texts of all combinations, in both splits.
    noise: standard deviation of the pixels' noise, of 255.
    seed: of the scenes.
  """

  layout = "pictured"
  in_memory = True
  height: int = 16
  width: int = 16
  colors: int = 3
  num_train: int = 4000
  num_validation: int = 400
  most: int = 2
  held_out: bool = True
  shown: str = "own"
  noise: float = 15.0
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", choices=dict(shown=SHOWN), at_least=dict(
        num_train=2, num_validation=2, noise=0, seed=0), between=dict(most="[1, 2]"))
    if self.colors != 3 or min(self.height, self.width) < 16:
      raise ValueError(f"source scenes makes images of at least 16 x 16 pixels in 3 colors, got "
                       f"colors {self.colors} and {self.height} x {self.width}; use source images.")
    if self.shown == "none":
      object.__setattr__(self, "layout", "answered")

  def records(self, split: str) -> Sequence[dict[str, Any]]:
    """Returns {"x", "prompt", "answer", "blank"}, without x where no image is shown."""
    is_validation = source.is_validation(split)
    number = self.num_validation if is_validation else self.num_train
    scenes = [self.objects(split, i) for i in range(number)]
    texts = [{"prompt": scene_words.PROMPT, "answer": scene_words.answer(scene), "blank": ""}
             for scene in scenes]
    if self.shown == "none":
      return texts
    drawn = {"own": lambda i: scenes[i], "other": lambda i: scenes[(i + 1) % number],
             "blank": lambda i: []}[self.shown]
    items = [((int(is_validation), i, drawn(i)), text) for i, text in enumerate(texts)]
    return images.Cut(items, self, self._image)

  def objects(self, split: str, i: int) -> scene_words.Objects:
    """Colour, shape and quarter of the objects of a scene."""
    is_validation, number = source.is_validation(split), len(scene_words.SHAPES)
    draw = np.random.default_rng([self.seed, int(is_validation), i])
    places = sorted(draw.permutation(len(scene_words.PLACES))[:draw.integers(1, self.most + 1)])
    found = []
    for place in places:
      colour = int(draw.integers(len(scene_words.COLOURS)))
      if self.shown == "none":
        shape = int(draw.integers(number))
      elif is_validation and self.held_out:
        shape = colour
      else:
        shape = (colour + 1 + int(draw.integers(number - 1))) % number
      found.append((colour, shape, int(place)))
    return found

  def _image(self, item: tuple[int, int, scene_words.Objects]) -> np.ndarray:
    split, i, objects = item
    draw = np.random.default_rng([self.seed, 2 + split, i])
    tall, wide = self.height // 2, self.width // 2
    y, x = np.mgrid[:self.height, :self.width] + 0.5
    image = np.full((self.height, self.width, 3), draw.uniform(60, 100))
    for colour, shape, place in objects:
      radius = draw.uniform(0.38, 0.46) * min(tall, wide)
      row, column = divmod(place, 2)
      centre = [size * (at + 0.5) + draw.uniform(-0.5, 0.5)
                for at, size in ((row, tall), (column, wide))]
      inside = shapes.SHAPES[shape]((y - centre[0]) / radius, (x - centre[1]) / radius)
      own = np.asarray(list(scene_words.COLOURS.values())[colour]) * draw.uniform(190, 250)
      image = np.where(inside[..., None], own, image)
    image += draw.normal(0, self.noise, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)
