"""Images as arrays: decoding, sizes, patches and random changes; all on the host, with numpy.

Contents: FITS, Grid, decode, fitted, changed, text_image.

Convention: an image is uint8 [height, width, colors], colors 1 (grey) or 3 (RGB); patches are
float32 [P, patch height * patch width * colors], row by row from the top left, each of them pixel
by pixel with its colors last. Files of images and fonts need Pillow (extra `vision`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import pathlib
from typing import Any

import numpy as np

from mdx import config as config_lib

FITS = ("error", "resize", "pad")
_MAX_PIXELS = 2**26  # of a file; a few kilobytes can hold more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """Form of images that are cut into patches.

  Attributes:
    height, width: of an image, in pixels.
    colors: 1 (grey) or 3 (RGB).
    patch: height and width of a patch, or one number for both; they divide those of the image.
    mean, std: v becomes (v / 255 - mean) / std.
  """
  height: int
  width: int
  colors: int = 1
  patch: int | tuple[int, int] = 4
  mean: float = 0.5
  std: float = 0.25

  def __post_init__(self):
    config_lib.check(self, "data.source", at_least=dict(height=1, width=1),
                     between=dict(mean="[0, 1]", std="(0, inf)"), choices=dict(colors=(1, 3)))
    patch = self.patch if isinstance(self.patch, (tuple, list)) else (self.patch, self.patch)
    if len(patch) != 2 or not all(isinstance(x, int) and x > 0 for x in patch):
      raise ValueError(f"data.source.patch is {self.patch!r}; expected a positive number of "
                       "pixels, or (height, width).")
    if self.height % patch[0] or self.width % patch[1]:
      raise ValueError(f"data.source.patch {patch[0]} x {patch[1]} does not divide images of "
                       f"{self.height} x {self.width}; use divisors.")
    object.__setattr__(self, "patch", tuple(patch))

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image."""
    return self.height, self.width, self.colors

  @property
  def num_patches(self) -> int:
    """Patches of an image."""
    return self.height // self.patch[0] * (self.width // self.patch[1])

  def cut(self, image: np.ndarray) -> np.ndarray:
    """Patches float32 [P, C] of an image, normalised."""
    values = (image.astype(np.float32) / 255 - self.mean) / self.std
    (tall, wide), colors = self.patch, self.colors
    values = values.reshape(self.height // tall, tall, self.width // wide, wide, colors)
    return values.transpose(0, 2, 1, 3, 4).reshape(self.num_patches, tall * wide * colors)

  def join(self, patches: np.ndarray) -> np.ndarray:
    """The image float32 [height, width, colors], values of 0 to 255, of patches [P, C]."""
    tall, wide = self.patch
    values = patches.reshape(self.height // tall, self.width // wide, tall, wide, self.colors)
    values = values.transpose(0, 2, 1, 3, 4).reshape(self.shape)
    return np.asarray((values * self.std + self.mean) * 255, np.float32)


def _pillow() -> Any:
  try:
    from PIL import Image, ImageDraw, ImageFont
  except ImportError as e:
    raise ValueError("files of images and rendered words need Pillow; pip install -e '.[vision]', "
                     "or give an .npz file of arrays.") from e
  return Image, ImageDraw, ImageFont


def decode(data: bytes, where: str, colors: int) -> np.ndarray:
  """Decodes a file of an image, uint8 [height, width, colors].

  Raises:
    ValueError: no image, or one of too many pixels.
  """
  image_lib, *_ = _pillow()
  try:
    with image_lib.open(io.BytesIO(data)) as file:
      if file.width * file.height > _MAX_PIXELS:
        raise ValueError(f"it has {file.width} x {file.height} pixels, more than {_MAX_PIXELS:,}")
      image = np.asarray(file.convert("L" if colors == 1 else "RGB"), np.uint8)
  except Exception as e:  # Pillow raises whatever its decoders do
    reason = str(e).partition("\n")[0] or type(e).__name__
    raise ValueError(f"{where}: not an image that Pillow reads ({reason:.120}); correct the file, "
                     "or leave it out.") from e
  return image.reshape(*image.shape[:2], colors)


def fitted(image: np.ndarray, grid: Grid, fit: str, where: str) -> np.ndarray:
  """An image of the size of a grid.

  Args:
    image: uint8 [height, width, colors].
    grid: the wanted form.
    fit: "error"; "resize" (bilinear); or "pad" (black, on the right and below).
    where: for messages.

  Raises:
    ValueError: an image of another size or other colors.
  """
  if image.shape == grid.shape:
    return image
  size = f"{image.shape[0]} x {image.shape[1]}"
  if image.shape[2] != grid.colors:
    raise ValueError(f"{where}: {image.shape[2]} colors, but data.source.colors is {grid.colors}; "
                     f"set it to {image.shape[2]}.")
  if fit == "resize":
    return _resized(image, grid.height, grid.width).round().astype(np.uint8)
  missing = [wanted - found for wanted, found in zip(grid.shape[:2], image.shape)]
  if fit == "error" or min(missing) < 0:
    raise ValueError(f"{where}: an image of {size} pixels, but data.source has {grid.height} x "
                     f"{grid.width}; set height and width, or data.source.fit='resize'.")
  return np.pad(image, [(0, n) for n in missing] + [(0, 0)])


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Bilinear, with pixel centres aligned; float32."""
  for axis, size in ((0, height), (1, width)):
    at = np.clip((np.arange(size) + 0.5) * image.shape[axis] / size - 0.5, 0, image.shape[axis] - 1)
    low = np.floor(at).astype(int)
    share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    high = np.minimum(low + 1, image.shape[axis] - 1)
    image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
  return image.astype(np.float32)


def changed(image: np.ndarray, draw: np.random.Generator, *, shift: int, flip: bool, crop: float
            ) -> np.ndarray:
  """A random variant of an image float32 [height, width, colors].

  Args:
    image: the original.
    draw: of this variant.
    shift: most pixels that it is moved in each direction; its edge is repeated.
    flip: whether half of the variants are mirrored.
    crop: least share of each side that is kept, the same for both, and enlarged again; 1 = all.
  """
  height, width, _ = image.shape
  if crop < 1:
    share = draw.uniform(crop, 1)
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top, left = draw.integers(height - tall + 1), draw.integers(width - wide + 1)
    image = _resized(image[top:top + tall, left:left + wide], height, width)
  if shift:
    down, right = draw.integers(0, 2 * shift + 1, 2)
    image = np.pad(image, [(shift, shift), (shift, shift), (0, 0)], mode="edge")
    image = image[down:down + height, right:right + width]
  return image[:, ::-1] if flip and draw.random() < 0.5 else image


def text_image(text: str, height: int, width: int, size: int) -> np.ndarray:
  """A text in DejaVu Sans, white on black, uint8 [height, width, 1].

  The font comes with matplotlib. A text that is wider than the image is made narrower.

  Args:
    text: one line.
    height, width: of the image, in pixels.
    size: of the font, in pixels.
  """
  image_lib, draw_lib, font_lib = _pillow()
  found = importlib.util.find_spec("matplotlib")
  assert found is not None and found.origin is not None  # mdx needs it
  path = pathlib.Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
  font = font_lib.truetype(str(path), size)
  left, _, right, _ = font.getbbox(text)
  canvas = image_lib.new("L", (max(right - left, 1) + 2, height), 0)
  line = round((height - sum(font.getmetrics())) / 2)
  draw_lib.Draw(canvas).text((1 - left, line), text, fill=255, font=font)
  pixels = np.asarray(canvas, np.uint8)[:, :, None]
  if pixels.shape[1] > width:
    return _resized(pixels, height, width).round().astype(np.uint8)
  return np.pad(pixels, [(0, 0), (0, width - pixels.shape[1]), (0, 0)])
