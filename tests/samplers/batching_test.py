"""Batches of prompts: left padding, infilling, few shapes, every row once."""

import numpy as np

from mdx.samplers import batching

MASK, PAD = 0, 9
PROMPTS = [np.array(p, np.int32) for p in (
    [1, 2, 3], [4], [5, MASK, 6, MASK], [7] * 20, [1, 2, 4], [], [MASK, 2], [3] * 17)]


def _batches(prompts=PROMPTS, **kwargs):
  return list(batching.batches(prompts, **dict(gen_length=5, batch_size=3, max_length=512, mask_id=MASK,
                                               pad_id=PAD) | kwargs))


def test_every_prompt_is_in_one_batch_with_others_of_its_length():
  batches = _batches()
  assert sorted(i for b in batches for i in b.members) == list(range(8))
  assert [b.members for b in batches] == [[5, 1, 0], [4, 7, 3], [6, 2]]
  for batch in batches:
    assert len(batch.canvas) == 3 and batch.canvas.dtype == np.int32
    np.testing.assert_array_equal(batch.row_index[:len(batch.members)], batch.members)


def test_a_row_ends_with_its_prompt_and_the_masks_to_be_filled():
  for batch in _batches():
    for row, (i, length) in enumerate(zip(batch.members, batch.lengths)):
      infill = MASK in PROMPTS[i]
      expected = list(PROMPTS[i]) + ([] if infill else [MASK] * 5)
      assert batch.canvas[row, -length:].tolist() == expected
      pad = batch.canvas.shape[1] - length
      assert np.all(batch.canvas[row, :pad] == PAD)
      np.testing.assert_array_equal(batch.segment_ids[row], [0] * pad + [1] * length)
      np.testing.assert_array_equal(batch.positions[row, pad:], np.arange(length))
      assert batch.start == 0 if infill else np.all(batch.canvas[row, batch.start:] == MASK)


def test_rows_have_few_widths():
  assert [b.canvas.shape[1] for b in _batches()] == [64 + 5, 64 + 5, 16]
  assert [b.start for b in _batches()] == [64, 64, 0]
  widths = {_batches([np.ones(n, np.int32)])[0].start for n in range(1, 257)}
  assert widths == {64, 128, 256}
  canvases = {_batches([np.zeros(n, np.int32)])[0].canvas.shape[1] for n in range(1, 33)}
  assert canvases == {16, 32}


def test_without_prompts_nothing_is_padded():
  (batch,) = _batches([PROMPTS[5]] * 2)
  assert batch.canvas.shape == (3, 5) and batch.positions is None and batch.segment_ids is None
  assert batch.start == 0


def test_rows_that_only_fill_a_batch_have_nothing_to_decode():
  batch = _batches()[2]
  assert len(batch.members) == 2 and not (batch.canvas[2] == MASK).any()


def test_rounding_up_does_not_exceed_the_models_rows():
  prompts = [np.ones(n, np.int32) for n in (20, 18)]
  (batch,) = _batches(prompts, max_length=30)
  assert batch.canvas.shape[1] == 30 and batch.start == 25
  (batch,) = _batches(prompts, max_length=100)
  assert batch.canvas.shape[1] == 64 + 5
  (batch,) = _batches(prompts, max_length=25)
  assert batch.canvas.shape[1] == 25
