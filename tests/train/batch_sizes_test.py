"""Warm-up of the batch: its rows are those of every other size, in their order."""

import json

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.train import batch_sizes

WARMUP = ((0, 2), (3, 6), (5, 8))


def test_sizes_and_rows_before_a_step_are_sums_over_the_steps():
  sizes = batch_sizes.BatchSizes(8, WARMUP)
  counted = [2, 2, 2, 6, 6, 8, 8, 8]
  assert [sizes.at(step) for step in range(8)] == counted and sizes.unit == 2
  assert [sizes.before(step) for step in range(9)] == [sum(counted[:i]) for i in range(9)]
  plain = batch_sizes.BatchSizes(8)
  assert (plain.unit, plain.at(3), plain.before(3)) == (8, 8, 24)


def test_steps_read_the_rows_of_any_other_size_in_order_and_resume_between_steps():
  cfg = dict(length=16, packing="pad", num_threads=0, source=dict(
      name="memory", documents=[f"text {i}" for i in range(30)]))
  build = lambda size: iter(pipeline.build(cfg, tokenizer_lib.build("byte"), split="train", seed=3,
                                           batch_size=size))
  sizes, units, single = batch_sizes.BatchSizes(8, WARMUP), build(2), build(1)
  for step in range(7):
    state = units.get_state()
    batch = sizes.join(units, step, slice(None))
    wanted = [next(single)["tokens"][0] for _ in range(sizes.at(step))]
    np.testing.assert_array_equal(batch["tokens"], wanted)
  fresh = build(2)
  fresh.set_state(json.loads(json.dumps(state)))
  np.testing.assert_array_equal(sizes.join(fresh, 6, slice(3, 5))["tokens"], wanted[3:5])


@pytest.mark.parametrize("warmup, message", [
    ((0, 8), "expected pairs .first step, rows."), (((0, 4.0),), "expected pairs"),
    (((1, 8),), "expected first steps that rise from 0"),
    (((0, 4), (5, 6), (5, 8)), "expected first steps that rise from 0"),
    (((0, 3), (5, 8)), "3 rows are no positive multiple of 2, the rows that devices"),
    (((0, 0), (5, 8)), "0 rows are no positive multiple"),
    (((0, 4), (5, 6)), "expected batch_size 8 as its last and largest"),
    (((0, 16), (5, 8)), "expected batch_size 8 as its last and largest")])
def test_a_wrong_warm_up_is_one_line(warmup, message):
  with pytest.raises(ValueError, match=f"config.batch_warmup is .*; .*{message}") as error:
    batch_sizes.BatchSizes(8, warmup, 2)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields", [dict(num_shards=2), dict(buckets=(8, 16)),
                                    dict(bucket_window=4)])
def test_batches_that_are_not_joined_are_refused(fields):
  batch_sizes.BatchSizes(8).check(fields)
  with pytest.raises(ValueError, match=f"data.{next(iter(fields))} is .* with batch_warmup leave"):
    batch_sizes.BatchSizes(8, WARMUP).check(fields)
