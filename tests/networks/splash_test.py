"""The splash kernel in interpret mode, against the XLA product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.networks import attention
from mdx.networks import splash

SIZE = 256
VALUES = {"full": attention.Full(), "causal": attention.Causal(),
          "block_causal": attention.BlockCausal(24), "two_stream": attention.TwoStream(16),
          "prefix": attention.Prefix(50), "local": attention.Local(20)}


def _rows(value, documents):
  """Positions and segments of rows whose documents begin where the kernel takes them to."""
  length = SIZE // value.streams
  starts = [0] + [96] * documents if value.period != 0 else [0]
  index = np.arange(length)
  first = np.array([max(s for s in starts if s <= i) for i in index])
  segments = 1 + (first > 0).astype(int)
  segments[length - 5:] = 0
  return (jnp.asarray(np.tile(x, value.streams)[None], jnp.int32)
          for x in (np.where(segments > 0, index - first, 0), segments))


def _inputs(kv_heads=1):
  draw = np.random.default_rng(0)
  return [jnp.asarray(draw.normal(size=(1, SIZE, heads, 32)), jnp.float32)
          for heads in (2, kv_heads, kv_heads)]


@pytest.mark.parametrize("name", VALUES)
def test_the_masks_that_the_kernel_computes_are_those_of_visible(name):
  # The function that the kernel calls for each tile, here for one tile of the whole row.
  value = VALUES[name]
  length = SIZE // value.streams
  positions = jnp.asarray(np.tile(np.arange(length), value.streams)[None])
  wanted = attention.visible(value, positions, None)
  mask = splash._Mask(value, SIZE)  # pylint: disable=protected-access
  if name == "full":
    assert wanted is None
    return
  np.testing.assert_array_equal(mask[:, :], wanted[0, 0])
  np.testing.assert_array_equal(mask[128:192, 64:128], wanted[0, 0, 128:192, 64:128])
  assert mask == splash._Mask(value, SIZE) and hash(mask) == hash(splash._Mask(value, SIZE))
  assert mask != splash._Mask(value, SIZE // 2) and mask != splash._Mask(attention.Local(3), SIZE)


def _both(name, documents=True, cap=0.0):
  """Output and gradient of the kernel and of the XLA product."""
  value = VALUES[name]
  positions, segments = _rows(value, documents)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=(1, SIZE, 2, 32)), jnp.float32)
  weight = weight * (segments > 0)[..., None, None]

  def kernel(*args):
    out = splash.splash(*args, value, positions, segments, cap=cap, interpret=True)
    return (out * weight).sum(), out

  def plain(*args):
    out = attention.attend(*args, attention.visible(value, positions, segments), cap=cap)
    return (out * weight).sum(), out

  return [jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(*_inputs())
          for f in (kernel, plain)], np.asarray(segments[0] > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name, cap", [*((name, 0.0) for name in VALUES), ("causal", 0.5)])
def test_the_kernel_computes_what_xla_computes(name, cap):
  (((_, found), grads), ((_, wanted), expected)), real = _both(name, cap=cap)
  np.testing.assert_allclose(found[:, real], wanted[:, real], atol=2e-5)
  for one, other in zip(grads, expected):
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_rows_that_the_kernel_would_mask_wrongly_come_out_as_nan():
  value = attention.BlockCausal(32)
  index = np.arange(SIZE)
  first = np.array([0, 96, 90, 0])[:, None]  # 90 is no multiple of 32
  segments = 1 + (index >= first) * (first > 0)
  segments[3] = np.where(index < 90, 1, 0)  # and padding is no document
  positions = np.where(segments > 0, np.where(index >= first, index - first, index), 0)
  for attends, wanted in ((value, [True, True, False, True]),
                          (attention.Prefix(4), [True, False, False, True])):
    aligned = splash._is_aligned(  # pylint: disable=protected-access
        attends, jnp.asarray(positions), jnp.asarray(segments))
    np.testing.assert_array_equal(aligned, wanted)
  query, key, keys = _inputs()
  out = splash.splash(query, key, keys, value, jnp.asarray(positions[2:3]),
                      jnp.asarray(segments[2:3]), interpret=True)
  assert np.all(np.isnan(out))


def test_rows_of_no_whole_tiles_are_refused():
  with pytest.raises(ValueError, match="rows of a multiple of 128 positions, got 100"):
    splash.splash(*(x[:, :100] for x in _inputs()), attention.Full(), None, None)
