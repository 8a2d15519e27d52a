"""Packing: which token lands where, for every packing."""

import json
import warnings

import grain
import numpy as np
import pytest

from mdx.data import pack
from mdx.data.layouts import text

import tiny

LENGTH = 16
WHOLE = [5, 16, 1, 9, 3, 12, 7, 7, 2, 15, 4, 4, 4, 11, 1, 1, 8, 6, 13, 10] * 5
CUT = [5, 40, 1, 9, 16, 32, 7, 100, 2]
THREADS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def _documents(lengths) -> list[np.ndarray]:
  """Documents in which no token id comes twice, and none is 0."""
  ends = np.cumsum(lengths)
  return [np.arange(end - n + 1, end + 1, dtype=np.int32) for n, end in zip(lengths, ends)]


def _rows(packing, lengths, seed=None, read_options=THREADS):
  items = [{"tokens": tokens} for tokens in _documents(lengths)]
  return pack.PACKINGS[packing](grain.MapDataset.source(items), _form(), read_options, seed)


def _form(**options):
  fields = text.FIELDS | {"tokens": text.FIELDS["tokens"]._replace(pad=99)}
  return pack.Form(fields=fields, length=LENGTH, **options)


def _segments(row) -> list[np.ndarray]:
  """Checks a row's segment ids and positions; returns the tokens of its segments."""
  assert set(row) == {"tokens", "segment_ids", "positions"}
  assert len(row) and all(v.shape == (LENGTH,) and v.dtype == np.int32 for v in row.values())
  ids, num_text = row["segment_ids"], (row["segment_ids"] > 0).sum()
  assert (ids[:num_text] > 0).all() and num_text > 0  # padding comes last
  assert (ids[num_text:] == 0).all() and (row["positions"][num_text:] == 0).all()
  starts = np.flatnonzero(np.diff(ids[:num_text], prepend=0))
  assert ids[starts].tolist() == list(range(1, len(starts) + 1))
  segments = np.split(row["tokens"][:num_text], starts[1:])
  for tokens, positions in zip(segments, np.split(row["positions"][:num_text], starts[1:])):
    assert positions.tolist() == list(range(len(tokens)))
    assert (np.diff(tokens) == 1).all()  # one piece of one document
  return segments


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("packing, lengths", [
    ("concat", WHOLE), ("concat", CUT), ("first_fit", WHOLE), ("pad", WHOLE), ("crop", WHOLE)])
def test_no_token_is_lost_or_comes_twice(packing, lengths, seed):
  segments = [s for row in _rows(packing, lengths, seed) for s in _segments(row)]
  tokens = np.sort(np.concatenate(segments))
  np.testing.assert_array_equal(tokens, np.arange(1, sum(lengths) + 1))
  if packing != "concat":  # documents stay whole
    found = {tuple(s) for s in segments}
    assert found == {tuple(d) for d in _documents(lengths)}
    assert len(segments) == len(lengths)


@pytest.mark.parametrize("lengths", [WHOLE, CUT])
def test_concat_cuts_documents_at_row_ends_and_nowhere_else(lengths):
  rows = list(_rows("concat", lengths))
  assert len(rows) == -(-sum(lengths) // LENGTH)
  filled = [(row["segment_ids"] > 0).sum() for row in rows]
  assert filled[:-1] == [LENGTH] * (len(rows) - 1)
  assert filled[-1] == sum(lengths) - LENGTH * (len(rows) - 1)
  text = np.concatenate([row["tokens"][row["segment_ids"] > 0] for row in rows])
  np.testing.assert_array_equal(text, np.arange(1, sum(lengths) + 1))
  ends = np.cumsum(lengths)
  starts = {0, *ends[:-1].tolist(), *range(0, sum(lengths), LENGTH)}
  found = {i * LENGTH + p for i, row in enumerate(rows)
           for p in np.flatnonzero((row["positions"] == 0) & (row["segment_ids"] > 0)).tolist()}
  assert found == starts


def test_first_fit_takes_the_first_open_row_with_room():
  rows = list(_rows("first_fit", [10, 12, 5, 3, 6, 1, 16]))
  assert [[len(s) for s in _segments(row)] for row in rows] == [[10, 5, 1], [12, 3], [6], [16]]


def test_first_fit_wastes_little():
  num_rows = len(list(_rows("first_fit", WHOLE, 0)))
  assert num_rows < 1.1 * sum(WHOLE) / LENGTH
  assert len(list(_rows("pad", WHOLE))) == len(WHOLE) > 1.5 * num_rows


def test_first_fit_seed_orders_the_rows():
  order = lambda seed: [row["tokens"][0] for row in _rows("first_fit", WHOLE, seed)]
  assert order(1) == order(1) != order(2)
  assert sorted(order(1)) == sorted(order(2)) == sorted(order(None))
  assert order(None)[0] == 1


@pytest.mark.parametrize("packing", ["concat", "first_fit", "pad", "crop"])
def test_the_last_row_comes_though_partly_filled(packing):
  rows = list(_rows(packing, [3]))
  assert len(rows) == 1
  assert [s.tolist() for s in _segments(rows[0])] == [[1, 2, 3]]


def test_crop_keeps_the_beginning_and_warns():
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = list(_rows("crop", CUT, read_options=grain.ReadOptions(num_threads=0)))
  for row, document in zip(rows, _documents(CUT), strict=True):
    np.testing.assert_array_equal(np.concatenate(_segments(row)), document[:LENGTH])
  assert {str(w.message) for w in caught} == {
      "documents of more than 16 tokens are cut; raise data.length, or use a packing that keeps "
      "all of them."}


def test_only_packings_of_whole_documents_say_so():
  assert {p for p in pack.PACKINGS if pack.needs_whole_documents(p)} == {"first_fit", "pad"}


@pytest.mark.parametrize("packing, lengths", tiny.first([
    ("concat", CUT), ("concat", [16] * 6), ("concat", [5, 11, 16, 32, 8, 8]), ("first_fit", WHOLE),
    ("pad", WHOLE), ("crop", WHOLE)], 2))
def test_a_state_that_went_through_json_continues_with_the_next_row(packing, lengths):
  rows = [row["tokens"].tolist() for row in _rows(packing, lengths, 5)]
  iterator, states = iter(_rows(packing, lengths, 5)), []
  for _ in rows:
    states.append(json.dumps(iterator.get_state()))
    next(iterator)
  states.append(json.dumps(iterator.get_state()))
  fresh = iter(_rows(packing, lengths, 5))
  for i, state in enumerate(states):
    fresh.set_state(json.loads(state))
    assert [row["tokens"].tolist() for row in fresh] == rows[i:]


def test_finish_row_marks_text_and_writes_the_padding():
  row = list(_rows("concat", [5, 4]))[0]
  row["tokens"][9:] = 77  # a packer may leave anything there
  isolated = pack.finish_row(row, _form())
  joined = pack.finish_row(row, _form(isolate_documents=False))
  for finished in (isolated, joined):
    assert finished["tokens"].tolist() == [*range(1, 10), *[99] * 7]
    assert finished["loss_mask"].tolist() == [True] * 9 + [False] * 7
    assert finished["loss_mask"].dtype == bool
    assert all(finished[k].dtype == np.int32 for k in ("tokens", "segment_ids", "positions"))
  assert isolated["segment_ids"].tolist() == [1] * 5 + [2] * 4 + [0] * 7
  assert isolated["positions"].tolist() == [*range(5), *range(4), *[0] * 7]
  assert joined["segment_ids"].tolist() == [1] * 9 + [0] * 7
  assert joined["positions"].tolist() == list(range(16))


def test_stack_rows_fills_up_with_rows_of_padding():
  rows = [pack.finish_row(row, _form()) for row in _rows("pad", [5, 16, 3])]
  batch = pack.stack_rows(rows, batch_size=5, form=_form())
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
      k: ((5, LENGTH), v.dtype) for k, v in rows[0].items()}
  for k, v in batch.items():
    np.testing.assert_array_equal(v[:3], np.stack([row[k] for row in rows]))
    assert (v[3:] == (99 if k == "tokens" else 0)).all()
