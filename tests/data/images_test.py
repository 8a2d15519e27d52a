"""Images on the host: patches go back to their image, changes keep pixels, sizes are checked."""

import io

import numpy as np
from PIL import Image
import pytest

from mdx.data import images

GRID = images.Grid(height=4, width=6, colors=3, patch=(2, 3))
IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def test_patches_stand_row_by_row_and_join_to_the_image():
  patches = GRID.cut(IMAGE)
  assert patches.shape == (GRID.num_patches, 18) == (4, 18)
  np.testing.assert_allclose(patches[1], ((IMAGE[:2, 3:] / 255 - 0.5) / 0.25).reshape(-1), rtol=1e-5)
  np.testing.assert_allclose(GRID.join(patches), IMAGE, atol=1e-3)


def test_shifts_move_pixels_flips_mirror_them_and_crops_of_everything_keep_them():
  image = np.random.default_rng(0).uniform(0, 255, (6, 5, 1)).astype(np.float32)
  change = lambda seed, **fields: images.changed(
      image, np.random.default_rng(seed), **dict(shift=0, flip=False, crop=1.0) | fields)
  assert (change(0) == image).all()
  moved = [change(seed, shift=1) for seed in range(20)]
  wanted = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
  windows = [wanted[i:i + 6, j:j + 5] for i in range(3) for j in range(3)]
  assert all(any((x == y).all() for y in windows) for x in moved)
  assert len({x.tobytes() for x in moved}) > 4
  flipped = [change(seed, flip=True) for seed in range(20)]
  assert {x.tobytes() for x in flipped} == {image.tobytes(), image[:, ::-1].tobytes()}
  cropped = change(3, crop=0.5)
  assert cropped.shape == image.shape and not (cropped == image).all()
  assert image.min() <= cropped.min() and cropped.max() <= image.max()


def test_files_are_decoded_and_fitted():
  file = io.BytesIO()
  Image.fromarray(IMAGE).save(file, "png")
  np.testing.assert_array_equal(images.decode(file.getvalue(), "a", 3), IMAGE)
  assert images.decode(file.getvalue(), "a", 1).shape == (4, 6, 1)
  small = images.Grid(height=2, width=2, patch=1)
  resized = images.fitted(np.full((4, 4, 1), 7, np.uint8), small, "resize", "a")
  assert resized.shape == (2, 2, 1) and (resized == 7).all()
  padded = images.fitted(np.full((1, 2, 1), 7, np.uint8), small, "pad", "a")
  np.testing.assert_array_equal(padded[..., 0], [[7, 7], [0, 0]])


def test_texts_are_rendered_from_the_left_and_long_ones_made_narrower():
  short, long = (images.text_image(text, 16, 64, 12) for text in ("il", "mmmmmmmmmm"))
  assert short.shape == long.shape == (16, 64, 1) and short.max() > 200
  assert not short[:, 20:].any() and long[:, -6:].any()


@pytest.mark.parametrize("act, message", [
    (lambda: images.Grid(height=4, width=6, patch=4), "patch 4 x 4 does not divide images of 4 x 6; use div"),
    (lambda: images.Grid(height=4, width=6, patch=(2, 0)), "patch is .2, 0.; expected a positive number"),
    (lambda: images.fitted(IMAGE[:2], GRID, "error", "x.png"), "x.png: an image of 2 x 6 pixels, but data.source has 4 x 6; set"),
    (lambda: images.fitted(np.zeros((5, 6, 3)), GRID, "pad", "x.png"), "an image of 5 x 6 pixels"),
    (lambda: images.fitted(IMAGE[..., :1], GRID, "pad", "x.png"), "x.png: 1 colors, but data.source.colors is 3"),
    (lambda: images.decode(b"no", "x.png", 1), "x.png: not an image that Pillow reads .*; correct")])
def test_what_does_not_fit_is_one_line(act, message):
  with pytest.raises(ValueError, match=message) as error:
    act()
  assert "\n" not in str(error.value)
