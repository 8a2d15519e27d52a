"""Images of folders, .zip, .npz and .parquet files: the same rows, changed in training alone."""

import io
import zipfile

import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8)
LABELS = [0, 0, 0, 1, 1, 1]
LETTERS = tokenizer_lib.build("symbols:a b c")
FORM = dict(height=4, width=4, patch=2, holdout_every=0)


def _png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "png")
  return file.getvalue()


def _files():
  return {f"{'ab'[label]}/{i}.png": _png(x) for i, (x, label) in enumerate(zip(PIXELS, LABELS))}


def _source(path, **fields):
  return sources.build(dict(name="images", path=str(path), **FORM | fields))


def _write(tmp_path, files):
  for name, data in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
  return tmp_path


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "parquet"])
def test_every_kind_of_file_gives_the_same_patches_and_labels(kind, tmp_path):
  path = tmp_path / f"a.{kind}"
  if kind == "folder":
    _write(path, _files())
  elif kind == "zip":
    with zipfile.ZipFile(path, "w") as file:
      for name, data in _files().items():
        file.writestr(name, data)
  elif kind == "npz":
    np.savez(path, x=PIXELS, y=LABELS)
  else:
    parquet.write_table(pa.table({"image": [{"bytes": x} for x in _files().values()],
                                  "label": LABELS}), path)
  source = _source(path)
  records = source.records("train")
  assert [x["label"] for x in records] == LABELS and source.layout == "patches"
  for record, pixels in zip(records, PIXELS):
    np.testing.assert_allclose(source.join(record["x"])[..., 0], pixels, atol=1e-3)


def test_images_are_changed_by_seed_and_epoch_in_training_alone(tmp_path):
  np.savez(tmp_path / "a.npz", x=PIXELS[:2], y=[0, 1])
  cfg = dict(length=4, channels=4, packing="pad", append_eos=False, num_threads=0, source=dict(
      name="images", path=str(tmp_path / "a.npz"), shift=1, **FORM))
  rows = lambda seed: [batch["patches"][np.argsort(batch["label"])] for batch, _ in zip(
      pipeline.build(cfg, LETTERS, split="train", batch_size=2, seed=seed), range(3))]
  first, again, other = rows(0), rows(0), rows(1)
  np.testing.assert_array_equal(first, again)
  assert len({x.tobytes() for x in (*first, *other)}) > 3  # epochs and seeds differ
  plain = next(iter(pipeline.build(cfg, LETTERS, split="train", batch_size=2, seed=0, shuffle=False,
                                   repeat=False, drop_remainder=False)))
  records = _source(tmp_path / "a.npz").records("train")
  np.testing.assert_array_equal(plain["patches"], [x["x"] for x in records])


def test_texts_of_a_folder_stand_beside_their_images(tmp_path):
  _write(tmp_path, {"1.png": _png(PIXELS[0]), "2.png": _png(PIXELS[1]),
                    "labels.tsv": b"file\tword\n2.png\tAB\n1.png\tc\n"})
  cfg = dict(length=4, channels=4, num_patches=4, packing="pad", source=dict(
      name="images", path=str(tmp_path), lower=True, **FORM))
  batch = next(iter(pipeline.build(cfg, LETTERS, split="train", batch_size=2, seed=0, shuffle=False,
                                   repeat=False, drop_remainder=False)))
  assert [LETTERS.decode(x) for x in batch["tokens"]] == ["ab", "c"]
  np.testing.assert_array_equal(batch["loss_mask"].sum(axis=1), [3, 2])  # with the end
  np.testing.assert_allclose(batch["patches"][1], _source(tmp_path).cut(PIXELS[0][..., None]))
  with pytest.raises(ValueError, match="2.png: 'AB' does not begin with one of the 3"):  # outside of the alphabet
    pipeline.check(cfg | {"source": cfg["source"] | {"lower": False}}, LETTERS)
  with pytest.raises(ValueError, match="4 patches of 4 values, but data.num_patches is 9 .*set them"):
    pipeline.check(cfg | {"num_patches": 9}, LETTERS)


@pytest.mark.parametrize("files, message", [
    ({"a/x.txt": b""}, "has no images .*; give a folder"),
    ({"x.png": _png(PIXELS[0])}, "x.png is in no folder of a class.*move it"),
    ({"x.png": _png(PIXELS[0]), "labels.tsv": b"x.png a\n"}, "labels.tsv, line 1: expected the name of an image, a tab"),
    ({"x.png": _png(PIXELS[0]), "labels.tsv": b"x.png\ta\ny.png\tb\n"}, "labels.tsv, line 2: expected"),
    ({"a/x.png": _png(PIXELS[0][:2])}, "a/x.png: an image of 2 x 4 pixels, but data.source has 4 x 4")])
def test_folders_that_cannot_be_read_are_one_line(files, message, tmp_path):
  _write(tmp_path, files)
  with pytest.raises(ValueError, match=message) as error:
    _source(tmp_path).records("train")[0]
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("arrays, message", [
    (dict(x=PIXELS.astype(np.float32)), "x is float32 of shape .6, 4, 4.; expected uint8"),
    (dict(x=PIXELS, y=[1]), "y is int64 of shape .1,.; expected an int for each of the 6")])
def test_arrays_of_another_form_are_one_line(arrays, message, tmp_path):
  np.savez(tmp_path / "a.npz", **arrays)
  with pytest.raises(ValueError, match=message):
    _source(tmp_path / "a.npz").records("train")
