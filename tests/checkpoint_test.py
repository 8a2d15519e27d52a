"""Checkpoints: exact on any mesh, kept and set aside as promised, one line when the disk fails."""

import json
import logging
import os
import pathlib
import resource
import shutil
import time

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from mdx import checkpoint
from mdx import sharding
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.utils import tree

import tiny

# Orbax leaves reads of damaged files unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                                        "ignore:coroutine:RuntimeWarning")

TOKENIZER = tokenizer_lib.build("char", ["abcdefghij"])
DATA = {"length": 8, "append_eos": False,
        "source": {"name": "memory", "documents": ["abcdefghij" * 3, "jihgf"] * 4,
                   "holdout_every": 0}}


def _data():
  return iter(pipeline.build(DATA, TOKENIZER, split="train", batch_size=2, seed=0))


def _items(seed, mesh=None, width=16, ema=True):
  """Items like those of a train state; on a mesh, cut over fsdp and tensor."""
  draw = np.random.default_rng(seed)
  mesh = mesh or sharding.make_mesh({}, devices=jax.devices()[:1])

  def matrix(*shape):
    return jax.device_put(draw.normal(size=shape).astype(np.float32),
                          NamedSharding(mesh, P("fsdp", "tensor")))

  count = jax.device_put(np.int32(seed), NamedSharding(mesh, P()))
  params = {"model": {"w": matrix(8, width), "v": matrix(16, 8)}}
  moments = {"model": {"w": matrix(8, width), "v": matrix(16, 8)}}
  average = {"model": {"w": matrix(8, width), "v": matrix(16, 8)}}
  return {"params": params, "ema": average if ema else {},
          "opt_state": (count, {"mu": moments}), "extra": {}}


def _save(workdir, *seeds, mesh=None, keep=2, **options):
  """Saves items of each seed under the seed as step; returns what the last one holds."""
  checkpoints, data = checkpoint.Checkpoints(workdir, keep=keep), _data()
  for seed in seeds:
    items = _items(seed, mesh, **options)
    next(data)
    checkpoints.save(seed, items, data=data, meta={"step": seed})
  checkpoints.close()
  return items


def _restore(workdir, like=None, data=None):
  return checkpoint.Checkpoints(workdir).restore(like or _items(0), data=data)


def _assert_same(found, expected):
  assert not tree.difference(expected, found)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _one_line(error) -> str:
  assert "\n" not in str(error.value)
  return str(error.value)


MESHES = {"one_device": None, "fsdp8": dict(fsdp=8), "fsdp2_tensor4": dict(fsdp=2, tensor=4)}


@pytest.mark.parametrize("source,target", [("one_device", "fsdp8"), ("fsdp8", "fsdp2_tensor4"),
                                           ("fsdp2_tensor4", "one_device")])
def test_a_checkpoint_is_restored_exactly_onto_another_mesh(tmp_path, source, target):
  source, target = (m and sharding.make_mesh(m) for m in (MESHES[source], MESHES[target]))
  saved, like = _save(tmp_path, 3, mesh=source), _items(0, target)
  step, found = _restore(tmp_path, like)
  assert step == 3 and found.pop("meta") == {"step": 3}
  _assert_same(found, saved)
  jax.tree.map(lambda x, y: np.testing.assert_equal(x.sharding, y.sharding), found, like)


def test_a_run_without_checkpoints_has_nothing_to_restore(tmp_path):
  assert _restore(tmp_path) is None
  assert not list(tmp_path.iterdir())


def test_the_newest_checkpoints_are_kept_and_the_others_removed(tmp_path):
  _save(tmp_path, 1, 2, 3, 4, keep=2)
  assert checkpoint.Checkpoints(tmp_path).steps() == [4, 3]
  _save(tmp_path, 5, keep=3)
  assert checkpoint.Checkpoints(tmp_path).steps() == [5, 4, 3]


def test_the_iterator_is_restored_in_place_and_goes_on_with_the_next_batch(tmp_path):
  _save(tmp_path, 1, 2)
  expected, data = _data(), _data()
  for _ in range(2):
    next(expected)
  assert _restore(tmp_path, data=data)[0] == 2
  for _ in range(3):
    jax.tree.map(np.testing.assert_array_equal, next(data), next(expected))


def test_saving_a_step_again_or_the_step_restored_from_does_nothing(tmp_path):
  saved, checkpoints = _save(tmp_path, 3), checkpoint.Checkpoints(tmp_path)
  checkpoints.restore(_items(0))
  checkpoints.save(3, _items(9), data=_data(), meta={})
  checkpoints.close()
  _assert_same({k: v for k, v in _restore(tmp_path)[1].items() if k != "meta"}, saved)


def test_restoring_says_nothing_alarming(tmp_path, caplog):
  _save(tmp_path, 1)
  with caplog.at_level(logging.WARNING):
    _restore(tmp_path, data=_data())
  assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "absl"]


def _largest(directory: pathlib.Path) -> pathlib.Path:
  return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _truncate(step):
  for part in (step / "params" / "d", step / "params" / "ocdbt.process_0" / "d"):
    for file in part.iterdir():
      file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def _flip(directory):
  """Changes one bit in the files that hold the arrays of an item, the large ones if there are."""
  files = [file for part in (directory / "d", directory / "ocdbt.process_0" / "d")
           for file in part.iterdir()]
  large = [file for file in files if file.stat().st_size > 4096]
  for file in large or files:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data))


def _exchange(item):
  """Puts an item of the step before in the place of this step's."""
  def damage(step):
    shutil.rmtree(step / item)
    shutil.copytree(step.parent / "1" / item, step / item)
  return damage


DAMAGES = {
    "bit_of_params": lambda step: _flip(step / "params"),
    "bit_of_average": lambda step: _flip(step / "ema"),
    "bit_of_moments": lambda step: _flip(step / "opt_state"),
    "other_params": _exchange("params"),
    "other_moments": _exchange("opt_state"),
    "other_iterator": _exchange("data"),
    "other_meta": _exchange("meta"),
    "truncated_data": _truncate,
    "empty_manifest": lambda step: (step / "params" / "manifest.ocdbt").write_bytes(b""),
    "deleted_item": lambda step: shutil.rmtree(step / "opt_state"),
    "deleted_meta": lambda step: shutil.rmtree(step / "meta"),
    "deleted_iterator": lambda step: shutil.rmtree(step / "data"),
    "garbled_iterator": lambda step: _largest(step / "data").write_text("{"),
    "empty_directory": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("damage", tiny.first(DAMAGES.values(), 3), ids=DAMAGES)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_is_saved_anew(
    tmp_path, damage, caplog):
  _save(tmp_path, 1, 2)
  damage(tmp_path / "checkpoints" / "2")
  checkpoints, data, expected = checkpoint.Checkpoints(tmp_path), _data(), _data()
  with caplog.at_level(logging.WARNING):
    step, found = checkpoints.restore(_items(0), data=data)
  assert step == 1 and found.pop("meta") == {"step": 1}
  _assert_same(found, _items(1))
  assert any("checkpoints/2 is damaged" in r.getMessage() for r in caplog.records)
  next(expected)
  jax.tree.map(np.testing.assert_array_equal, next(data), next(expected))
  assert (tmp_path / "damaged_checkpoints" / "2").is_dir()
  checkpoints.save(2, _items(7), data=data, meta={"step": 2})
  checkpoints.close()
  assert _restore(tmp_path)[0] == 2


def test_a_half_written_checkpoint_is_not_seen_and_is_cleaned_up(tmp_path):
  _save(tmp_path, 1, 2)
  directory = tmp_path / "checkpoints"
  (directory / "2").rename(directory / "7.orbax-checkpoint-tmp")
  assert _restore(tmp_path)[0] == 1
  _save(tmp_path, 2, 3, keep=3)
  assert {p.name for p in directory.iterdir()} == {"1", "2", "3"}


def test_if_all_checkpoints_are_damaged_none_is_touched_and_one_line_says_so(tmp_path):
  _save(tmp_path, 1, 2)
  for step in (1, 2):
    _truncate(tmp_path / "checkpoints" / str(step))
  with pytest.raises(ValueError, match=r"none of the checkpoints \[2, 1\] in .* can be") as error:
    _restore(tmp_path)
  _one_line(error)
  assert checkpoint.Checkpoints(tmp_path).steps() == [2, 1]
  with pytest.raises(ValueError, match="no checkpoint under .* can be read") as error:
    checkpoint.load_params(str(tmp_path), _wanted(), "raw")
  _one_line(error)


def test_a_checkpoint_of_another_model_is_refused_in_one_line_and_left_alone(tmp_path):
  _save(tmp_path, 1, 2)
  data, untouched = _data(), _data()
  with pytest.raises(ValueError, match=r"params: model/w: expected shape \(8, 32\), found \(8, 16\)"
                     ) as error:
    _restore(tmp_path, _items(0, width=32), data=data)
  assert "does not fit this model" in _one_line(error)
  jax.tree.map(np.testing.assert_array_equal, next(data), next(untouched))
  assert checkpoint.Checkpoints(tmp_path).steps() == [2, 1]
  other = _items(0)
  other["params"]["model"]["gate"] = other["params"]["model"]["v"]
  with pytest.raises(ValueError, match="model/gate: expected but absent"):
    _restore(tmp_path, other)


def test_a_checkpoint_that_lacks_the_data_state_of_a_process_is_damaged(tmp_path, caplog):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, _items(1), data=_data(), meta={"process_count": 2})
  checkpoints.close()
  with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="can be read"):
    _restore(tmp_path, data=_data())
  assert "has 1 of 2 states" in caplog.text


def _wanted(width=16, mesh=None):
  return checkpoint.abstract(_items(0, mesh, width=width)["params"])


@pytest.mark.slow
def test_weights_alone_are_loaded_averaged_or_raw_from_a_workdir_or_a_step(tmp_path):
  saved = _save(tmp_path, 1, 2)
  for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "2"):
    _assert_same(checkpoint.load_params(str(path), _wanted()), saved["ema"])
    _assert_same(checkpoint.load_params(str(path), _wanted(), "raw"), saved["params"])
  mesh = sharding.make_mesh(dict(fsdp=2, tensor=4))
  found = checkpoint.load_params(str(tmp_path / "checkpoints" / "1"), _wanted(mesh=mesh), "raw")
  _assert_same(found, _items(1)["params"])
  assert found["model"]["w"].sharding == NamedSharding(mesh, P("fsdp", "tensor"))


def test_where_no_average_was_kept_the_raw_weights_are_loaded(tmp_path):
  saved = _save(tmp_path, 1, ema=False)
  _assert_same(checkpoint.load_params(str(tmp_path), _wanted()), saved["params"])


@pytest.mark.parametrize("which,item", [("ema", "ema"), ("raw", "params")])
def test_weights_of_a_damaged_step_are_taken_from_the_step_before(tmp_path, which, item):
  _save(tmp_path, 1, 2)
  (tmp_path / "checkpoints" / "2" / item / "manifest.ocdbt").write_bytes(b"")
  _assert_same(checkpoint.load_params(str(tmp_path), _wanted(), which), _items(1)[item])


def test_weights_with_a_flipped_bit_are_not_loaded(tmp_path):
  wide = 2048  # beside arrays as large, Orbax's own sums are of their names only
  _save(tmp_path, 1, 2, width=wide)
  _flip(tmp_path / "checkpoints" / "2" / "ema")
  _assert_same(checkpoint.load_params(str(tmp_path), _wanted(wide)), _items(1, width=wide)["ema"])
  _flip(tmp_path / "checkpoints" / "1" / "ema")
  with pytest.raises(ValueError, match="ema: model/w does not have its checksum"):
    checkpoint.load_params(str(tmp_path), _wanted(wide))
  checkpoint.save_params(str(tmp_path / "out"), _items(3, width=wide)["params"], {})
  _flip(tmp_path / "out" / "params")
  with pytest.raises(ValueError, match="params: model/w does not have its checksum"):
    checkpoint.load_params(str(tmp_path / "out"), _wanted(wide), "raw")


def test_folders_that_are_no_numbers_of_ours_are_no_steps(tmp_path):
  _save(tmp_path, 1)
  for name in ("\u00b2", "\u0663", "007", "+3"):
    (tmp_path / "checkpoints" / name).mkdir()
  assert checkpoint.Checkpoints(tmp_path).steps() == [1]


def test_a_wrong_place_choice_or_shape_is_refused_in_one_line(tmp_path):
  _save(tmp_path / "run", 1)
  (tmp_path / "empty").mkdir()
  for path, which, width, message in (
      (tmp_path / "nowhere", "ema", 16, "does not exist; give a run's workdir"),
      (tmp_path / "empty", "ema", 16, "holds no checkpoint; give a run's workdir"),
      (tmp_path / "run", "mean", 16, "config.init.params is 'mean'; choose from ema, raw"),
      (tmp_path / "run", "ema", 32, r"does not fit this model: ema: model/w: expected shape")):
    with pytest.raises(ValueError, match=message) as error:
      checkpoint.load_params(str(path), _wanted(width), which)
    _one_line(error)


def test_exported_weights_are_loaded_back_and_a_used_directory_is_refused(tmp_path):
  params = _items(4)["params"]
  checkpoint.save_params(str(tmp_path / "out"), params, {"hash": "x"})
  for which in ("ema", "raw"):
    _assert_same(checkpoint.load_params(str(tmp_path / "out"), _wanted(), which), params)
  (tmp_path / "file").write_text("mine")
  for name in ("out", "file"):
    with pytest.raises(ValueError, match="is not empty; give a new directory") as error:
      checkpoint.save_params(str(tmp_path / name), params, {})
    _one_line(error)
  assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(name="small_disk")
def _small_disk():
  """No file may grow beyond 20 kB inside: the kernel refuses it, like a full disk, to root too."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  class Limit:

    def __enter__(self):
      resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    def __exit__(self, *error):
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  yield Limit()
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _wait_until_still(directory, seconds=1.0):
  """Returns when no file has come or gone for some time."""
  names, since = None, time.monotonic()
  while time.monotonic() - since < seconds:
    now = sorted(f"{folder}/{name}" for folder, _, files in os.walk(directory) for name in files)
    if now != names:
      names, since = now, time.monotonic()
    time.sleep(0.05)


def test_a_full_disk_is_one_line_at_the_next_call_and_the_checkpoint_before_stays_readable(
    tmp_path, small_disk, capfd):
  saved, checkpoints, data = _save(tmp_path, 1), checkpoint.Checkpoints(tmp_path), _data()
  # Made before: where the disk is full, nothing is compiled whose cache would be written.
  large, third = _items(2, width=4096), _items(3)
  with small_disk:
    for finish in (checkpoints.wait, checkpoints.close,
                   lambda: checkpoints.save(3, third, data=data, meta={})):
      with pytest.raises(OSError, match=r"checkpoints/2 could not be written") as error:
        checkpoints.save(2, large, data=data, meta={"step": 2})
        finish()
      assert "checkpoints already there are intact" in _one_line(error)
  assert "Traceback" not in capfd.readouterr().err
  _wait_until_still(tmp_path)  # writes were under way that nobody waits for
  step, found = _restore(tmp_path)
  assert step == 1 and found.pop("meta") == {"step": 1}
  _assert_same(found, saved)
  checkpoints.save(2, large, data=data, meta={"step": 2})
  checkpoints.close()
  assert checkpoint.Checkpoints(tmp_path).steps() == [2, 1]


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "checkpoints").write_text("in the way")
  checkpoints = checkpoint.Checkpoints(tmp_path)
  with pytest.raises(OSError, match=r"checkpoints/1 could not be written \(\w+: ") as error:
    checkpoints.save(1, _items(1), data=_data(), meta={})
    checkpoints.wait()
  _one_line(error)


def test_meta_comes_back_as_it_was_saved(tmp_path):
  meta = {"hash": "abc", "process_count": 1, "tokenizer": "char:12", "step": 5}
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(5, _items(5), data=_data(), meta=meta)
  checkpoints.close()
  assert json.loads(json.dumps(_restore(tmp_path)[1]["meta"])) == meta
