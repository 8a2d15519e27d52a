"""Images of files, cut into patches: with a class each, or with a text.

Contents: Pictures, Images.

Convention: a record is {"x": float32 [P, C]} (see `mdx.data.images`), with "label": int where an
image has a class, or with "text". Random changes are made of the rows of training alone, anew in
every epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx.data import images as images_lib
from mdx.data import source
from mdx.data.sources import arrays
from mdx.data.sources import files
from mdx.utils import archives
from mdx.utils import readers
from mdx.utils import streams

LABELS = "labels.tsv"
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures(images_lib.Grid, source.Source):
  """Base of the sources of images, which are of its own form.

  Attributes (more in `images.Grid`):
    shift, flip, crop: random changes of an image in training, as `images.changed` takes them.
  """
  shift: int = 0
  flip: bool = False
  crop: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", at_least=dict(shift=0), between=dict(crop="(0, 1]"))

  @property
  def augments(self) -> bool:
    """Whether images are changed in training."""
    return bool(self.shift or self.flip or self.crop < 1)

  def augmented(self, document, draw):
    """The patches of a changed image."""
    image = images_lib.changed(self.join(document["patches"]), draw, shift=self.shift,
                               flip=self.flip, crop=self.crop)
    return document | {"patches": self.cut(image)}


class Cut(Sequence):
  """Records of images that are read when they are asked for.

  Args:
    items: what `read` takes, and the other keys of each record.
    grid: the form of the images.
    read: item -> uint8 [height, width, colors].
  """

  def __init__(self, items: Sequence[tuple[Any, Mapping[str, Any]]], grid: images_lib.Grid,
               read: Callable[[Any], np.ndarray]):
    self._items, self._grid, self._read = items, grid, read

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int) -> dict[str, Any]:
    item, others = self._items[index]
    return {"x": self._grid.cut(self._read(item)), **others}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Pictures, files.Files):
  """Images of folders, .zip, .npz or .parquet files.

  A folder, or a .zip file of one, has a folder of images for each class, whose numbers are in the
  order of their names; or labels.tsv, whose lines are the name of an image, a tab and its text
  (rows of layout "captioned"), below names of the columns or not. A .npz file has x uint8 [N,
  height, width] or [N, height, width, colors], and y int [N] where there are classes. A .parquet
  file has a column of files of images (bytes, or {"bytes": ...} as `datasets` writes them) and one
  of ints, or of texts.

  Attributes (more in `Pictures` and `files.Files`):
    fit: what becomes of images of another size: one of `images.FITS`.
    lower: whether texts are made lower case.
    image_field, label_field: names of the columns of .parquet files.
  """

  layout = "patches"
  files_of = staticmethod(lambda path: [path])
  fit: str = "error"
  lower: bool = False
  image_field: str = "image"
  label_field: str = "label"

  def __post_init__(self):
    Pictures.__post_init__(self)
    files.Files.__post_init__(self)
    config_lib.check(self, "data.source", choices=dict(fit=images_lib.FITS))
    object.__setattr__(self, "layout", "captioned" if self._has_texts(self.path[0]) else "patches")

  def _has_texts(self, path: str) -> bool:
    """Whether the images of a file or folder have texts; a file that is none has none."""
    if os.path.isdir(path):
      return os.path.isfile(os.path.join(path, LABELS))
    try:
      if path.endswith(".zip"):
        return LABELS in archives.names(path)
      if path.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet
        return pyarrow.types.is_string(parquet.read_schema(path).field(self.label_field).type)
    except (ValueError, OSError, KeyError):  # which is said when it is read
      pass
    return False

  def _read(self, paths):
    items = [item for path in paths for item in self._items(path)]
    if (kinds := {tuple(others) for _, others in items}) and len(kinds) > 1:
      raise ValueError(f"{', '.join(paths)}: some images have texts and others have classes; read "
                       "them as two sources.")
    return Cut(items, self, functools.partial(_decoded, grid=self, fit=self.fit))

  def _items(self, path: str) -> list[tuple[Any, dict[str, Any]]]:
    """(image or (bytes or path, where), other keys) of each record of one file or folder."""
    if os.path.isdir(path):
      names = [os.path.relpath(os.path.join(folder, name), path)
               for folder, _, found in os.walk(path) for name in found]
      return self._named(path, names, lambda name: os.path.join(path, name), _text)
    if path.endswith(".zip"):
      names = archives.names(path)
      contents = archives.read(path, names)
      return self._named(path, names, lambda name: contents[name], _decoded_text)
    if path.endswith(".npz"):
      return _arrays(path)
    if path.endswith(".parquet"):
      return self._columns(path)
    raise ValueError(f"{path}: expected a folder, or a file .zip, .npz or .parquet.")

  def _named(self, path, names, read, text) -> list[tuple[Any, dict[str, Any]]]:
    """Records of files by name."""
    pictures = {name for name in names if name.lower().endswith(_ENDINGS)}
    if not pictures:
      raise ValueError(f"{path} has no images ({', '.join(_ENDINGS)}); give a folder with a folder "
                       f"of images for each class, or with {LABELS}.")
    where = lambda name: f"{path}, {name}"
    if LABELS in names:
      found = []
      for i, line in enumerate(readers.lines(text(read(LABELS), where(LABELS))), 1):
        name, tab, label = line.partition("\t")
        if i == 1 and tab and not name.lower().endswith(_ENDINGS):
          continue  # names of the columns
        if not tab or name not in pictures:
          raise ValueError(f"{path}, {LABELS}, line {i}: expected the name of an image, a tab and "
                           f"its text, got {line!r:.60}.")
        found.append(((read(name), where(name)), self._caption(label, where(name))))
      return found
    loose = sorted(name for name in pictures if os.sep not in name and "/" not in name)
    if loose:
      raise ValueError(f"{path}: {loose[0]} is in no folder of a class, and there is no {LABELS}; "
                       "move it into one.")
    of = lambda name: os.path.dirname(name)
    number = {folder: i for i, folder in enumerate(sorted({of(name) for name in pictures}))}
    return [((read(name), where(name)), {"label": number[of(name)], "where": where(name)})
            for name in sorted(pictures)]

  def _caption(self, text: str, where: str) -> dict[str, Any]:
    return {"text": text.lower() if self.lower else text, "where": where}

  def _columns(self, path: str) -> list[tuple[Any, dict[str, Any]]]:
    from pyarrow import parquet
    wanted = [self.image_field, self.label_field]
    try:
      table = parquet.read_table(path, columns=wanted).to_pydict()
    except Exception as e:  # pyarrow raises whatever its readers do
      raise ValueError(f"{path}: not a Parquet file with columns {', '.join(wanted)} "
                       f"({readers.reason(e)}); set data.source.image_field and label_field."
                       ) from e
    if missing := [name for name in wanted if name not in table]:
      raise ValueError(f"{path}: it has no column {missing[0]!r}; set data.source.image_field and "
                       "label_field.")
    found = []
    for i, (image, label) in enumerate(zip(*(table[name] for name in wanted))):
      where = f"{path}, row {i}"
      data = image.get("bytes") if isinstance(image, dict) else image
      if not isinstance(data, bytes) or not isinstance(label, (int, str)):
        raise ValueError(f"{where}: expected the bytes of an image and an int or a text, got "
                         f"{type(data).__name__} and {label!r:.40}.")
      others = self._caption(label, where) if isinstance(label, str) else {
          "label": label, "where": where}
      found.append(((data, where), others))
    return found


def _decoded(item: Any, grid: images_lib.Grid, fit: str) -> np.ndarray:
  """The image of an item, of the size of the grid."""
  if isinstance(item, np.ndarray):
    return images_lib.fitted(item, grid, fit, "the array")
  data, where = item
  data = streams.read_bytes(data) if isinstance(data, str) else data
  return images_lib.fitted(images_lib.decode(data, where, grid.colors), grid, fit, where)


def _text(path: str, where: str) -> str:
  del where
  return readers.read_text(path)


def _decoded_text(data: bytes, where: str) -> str:
  try:
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    raise ValueError(f"{where}: not UTF-8 text ({e.reason}); re-encode it.") from e


def _arrays(path: str) -> list[tuple[Any, dict[str, Any]]]:
  found = arrays.read(path)
  x, y = found.get("x"), found.get("y")
  if x is None or x.ndim not in (3, 4) or x.dtype != np.uint8:
    kind = "nothing" if x is None else f"{x.dtype} of shape {x.shape}"
    raise ValueError(f"{path}: x is {kind}; expected uint8 [images, height, width] or [images, "
                     "height, width, colors].")
  if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in "iu"):
    raise ValueError(f"{path}: y is {y.dtype} of shape {y.shape}; expected an int for each of the "
                     f"{len(x)} images.")
  x = x if x.ndim == 4 else x[..., None]
  return [(image, {} if y is None else {"label": int(y[i])}) for i, image in enumerate(x)]
