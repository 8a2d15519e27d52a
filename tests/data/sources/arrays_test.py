"""Arrays: frames and patches keep their order, state, shards and devices as texts do."""

import json

import jax
import numpy as np
import pytest

from mdx import sharding
from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.train import loop
from mdx.utils import streams

BYTE = tokenizer_lib.build("byte")
SIZES = [3, 5, 1, 8, 2, 6, 4, 7] * 3


def _arrays():
  """Arrays in which no value comes twice."""
  ends = np.cumsum(SIZES)
  return [np.arange(2 * (end - n), 2 * end, dtype=np.float32).reshape(n, 2)
          for n, end in zip(SIZES, ends)]


@pytest.fixture(name="cfg")
def _cfg(tmp_path):
  np.savez(tmp_path / "a.npz", *_arrays(), y=np.arange(len(SIZES)))
  return dict(length=8, packing="pad", channels=2,
              source=dict(name="arrays", path=str(tmp_path / "a.npz"), holdout_every=0))


def _build(cfg, *, batch_size=4, seed=0, **options):
  return pipeline.build(cfg, BYTE, split="train", batch_size=batch_size, seed=seed, **options)


def _equal(a, b):
  assert a and a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_every_array_comes_once_with_its_label_and_its_mask(cfg):
  batches = list(_build(cfg, batch_size=5, shuffle=False, repeat=False, drop_remainder=False))
  rows = [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(5)]
  assert len(rows) == 25
  for i, (row, x) in enumerate(zip(rows, _arrays())):
    np.testing.assert_array_equal(row["frames"][:len(x)], x)
    np.testing.assert_array_equal(row["frame_mask"], np.arange(8) < len(x))
    np.testing.assert_array_equal(row["loss_mask"], row["frame_mask"])
    np.testing.assert_array_equal(row["segment_ids"], row["frame_mask"])
    assert row["label"] == i and not row["frames"][len(x):].any()
  assert rows[24]["label"] == -1 and not rows[24]["frame_mask"].any()


def test_longer_arrays_are_cut_or_refused(cfg):
  cropped = list(_build(cfg | dict(length=4, packing="crop"), shuffle=False, repeat=False))
  np.testing.assert_array_equal(cropped[0]["frames"][3], _arrays()[3][:4])
  with pytest.raises(ValueError, match="record 1 of .*a.npz: 5 frames, more than data.length 4"):
    pipeline.check(cfg | dict(length=4), BYTE)
  with pytest.raises(ValueError, match="record 0 of .*a.npz: 2 channels, but data.channels is 3"):
    pipeline.check(cfg | dict(channels=3), BYTE)
  with pytest.raises(ValueError, match="data source arrays: frames have data.channels values"):
    pipeline.check(cfg | dict(channels=0), BYTE)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_order_state_and_rows_of_processes_are_kept_as_of_texts(cfg, num_shards):
  cfg = cfg | dict(num_shards=num_shards, layout="patches")
  whole, other = ([next(it) for _ in range(12)] for it in map(
      iter, (_build(cfg, seed=1), _build(cfg, seed=2))))
  assert any((a["label"] != b["label"]).any() for a, b in zip(whole, other))
  iterator = iter(_build(cfg, seed=1))
  for _ in range(5):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
    fresh = iter(_build(cfg, seed=1, rows=rows))
    fresh.set_state(state)
    for batch in whole[5:]:
      _equal(next(fresh), {k: v[rows] for k, v in batch.items()})


def test_positions_of_vectors_are_cut_over_the_sequence_axis(cfg):
  mesh = sharding.make_mesh(dict(data=2, sequence=4))
  batch = next(iter(_build(cfg)))
  placed = loop.place(batch, 3, mesh)
  assert placed["example_index"].tolist() == [12, 13, 14, 15]
  assert placed["frames"].sharding.shard_shape((4, 8, 2)) == (2, 2, 2)
  assert placed["label"].sharding.shard_shape((4,)) == (2,)
  _equal(batch, {k: jax.device_get(v) for k, v in placed.items() if k != "example_index"})
  assert sharding.num_rows(placed) == 4 and sharding.num_positions(placed) == 32


def test_one_array_of_all_records_is_read_and_held_out(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.arange(60).reshape(10, 3, 2))
  source = sources.build(dict(name="arrays", path=str(tmp_path / "a.npz"), holdout_every=5))
  train, validation = source.records("train"), source.records("validation")
  assert len(train) == 8 and len(validation) == 2 and "label" not in train[0]
  assert validation[0]["x"].dtype == np.float32
  np.testing.assert_array_equal(validation[0]["x"], np.arange(24, 30).reshape(3, 2))


@pytest.mark.parametrize("content, message", [
    (dict(x=np.zeros((2, 3))), r"x has shape \(2, 3\); expected \[records, n, channels\]"),
    (dict(x=np.zeros((2, 3, 1)), y=np.zeros(2)), "y is float64 of shape .2,.; expected an int"),
    (dict(x=np.zeros((2, 3, 1)), y=np.zeros(3, int)), "y is int64 of shape .3,.; expected an int"),
    (dict(arr_0=np.zeros((2, 3)), arr_1=np.zeros((2, 4))), "record 1: float64 of shape"),
    (dict(arr_0=np.zeros((2, 3)), arr_2=np.zeros((2, 3))), "it has arr_0, arr_2; expected x"),
    (dict(x=np.full((1, 2, 2), np.nan)), "record 0: a value is nan or infinite"),
    (dict(x=np.array(["a"])), "x has shape"), (dict(arr_0=np.array([["a"]])), "record 0: <U1"),
    (dict(x=np.array([None])), "not an .npz file of plain arrays"),
    (dict(), "it has nothing"), (b"PK\3\4 and noise", "not an .npz file"), (b"", "not an .npz")])
def test_a_file_that_is_no_arrays_is_named(content, message, tmp_path):
  path = tmp_path / "a.npz"
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.savez(path, **content)
  source = sources.build(dict(name="arrays", path=str(path), holdout_every=0))
  with pytest.raises(ValueError, match=message) as error:
    source.records("train")
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_packed_arrays_are_unpacked_up_to_the_limit_only(tmp_path, monkeypatch):
  x = np.zeros((10, 100, 4), np.float32)
  np.savez_compressed(tmp_path / "a.npz", x=x)
  source = sources.build({"name": "arrays", "path": str(tmp_path / "a.npz"), "holdout_every": 0})
  assert len(source.records("train")) == 10
  monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 15_000)
  with pytest.raises(ValueError, match="a.npz: .*hold 16,... bytes, more than the limit of 15,000"):
    source.records("train")
  np.savez(tmp_path / "b.npz", x=x)  # plain ones are as large as their file
  assert len(sources.build({"name": "arrays", "path": str(tmp_path / "b.npz"), "holdout_every": 0}).records("train")) == 10
