"""Conformer blocks and the entrance of frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import frontends
from mdx.networks import layers
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

_SPEC = dict(num_layers=2, width=8, num_heads=2, mlp_width=8, vocab_size=5, head="none",
             norm="layer", mlp="swish")


def _network(**fields):
  return transformer.Transformer(**_SPEC | dict(conv_kernel=3) | fields).network()


def _states(length, seed=0):
  return jax.random.normal(rng.root(seed), (1, length, 8))


def _encode(network, params, states, segments):
  positions = jnp.arange(states.shape[1])[None]
  return network.encode(params, types.Inputs(None, positions, jnp.asarray(segments)[None],
                                             states=states), attention=attention.Full()).last


def test_the_convolution_is_a_sum_over_neighbours_of_the_same_segment():
  x = jax.random.normal(rng.root(0), (2, 7, 3))
  kernel = jax.random.normal(rng.root(1), (5, 3))
  segments = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
  wanted = np.zeros((2, 7, 3))
  for b in range(2):
    for i in range(7):
      for k in range(5):
        j = i + k - 2
        if 0 <= j < 7 and segments[b, i] == segments[b, j] > 0:
          wanted[b, i] += np.asarray(kernel[k]) * np.asarray(x[b, j])
  np.testing.assert_allclose(layers.depthwise(x, kernel, jnp.asarray(segments)), wanted, atol=1e-5)
  np.testing.assert_allclose(layers.depthwise(x, kernel, None)[1], wanted[1], atol=1e-5)


@pytest.mark.slow
def test_padding_and_other_segments_do_not_leak_into_a_conformer():
  network = _network()
  params = network.init(rng.root(0))
  x, other = _states(6), 100 * _states(4, 1)
  alone = _encode(network, params, x, [1] * 6)
  beside = _encode(network, params, jnp.concatenate([x, other], axis=1), [1] * 6 + [0] * 4)
  packed = _encode(network, params, jnp.concatenate([x, other], axis=1), [1] * 6 + [2] * 4)
  np.testing.assert_allclose(beside[:, :6], alone, atol=1e-5)
  np.testing.assert_allclose(packed[:, :6], alone, atol=1e-5)
  # The last block ends with a norm of its own, and the convolution reads neighbours.
  moved = _encode(network, params, x.at[:, 1, 0].add(1.0), [1] * 6)
  assert float(jnp.abs(moved - alone).max()) > 1e-3


def test_a_conformer_has_the_parameters_of_its_blocks_and_each_has_axes():
  network = _network()
  shapes = tree.flatten(jax.eval_shape(network.init, rng.root(0)))
  assert {"layers/conv/kernel", "layers/conv/in/kernel", "layers/first_mlp/up/kernel",
          "layers/block_norm/scale"} <= shapes.keys()
  assert shapes["layers/conv/kernel"].shape == (2, 3, 8)
  for path, leaf in shapes.items():
    assert len(network.part.axes(path, leaf.shape)) == len(leaf.shape)


@pytest.mark.parametrize("fields, message", [
    (dict(conv_kernel=4), "conv_kernel 4 is even; use an odd number"),
    (dict(post_norm=True), "leave out post_norm"),
    (dict(conv_kernel=-1), "conv_kernel must be at least 0")])
def test_convolutions_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _network(**fields)


def test_a_convolution_does_not_read_what_attention_hides():
  network = _network()
  params = jax.eval_shape(network.init, rng.root(0))
  with pytest.raises(ValueError, match="conv_kernel reads positions on both sides"):
    jax.eval_shape(lambda p: network.encode(p, types.Inputs(None, states=_states(4)),
                                            attention=attention.Causal()).last, params)


@pytest.mark.slow
def test_subsampling_keeps_a_share_of_the_frames_and_does_not_see_padding():
  frontend = frontends.Subsampling(width=8, num_inputs=5, channels=2, strides=(2, 2))
  params = frontend.part().init(rng.root(0))
  assert (frontend.stride, frontend.num_features) == (4, 4)
  x = jax.random.normal(rng.root(1), (1, 9, 5))

  def batch(x, length):
    real = jnp.arange(x.shape[1])[None] < length
    return {"frames": x, "frame_mask": real, "segment_ids": real.astype(jnp.int32),
            "positions": jnp.where(real, jnp.arange(x.shape[1])[None], 0)}

  alone = frontend.embed(params, batch(x, 9))
  padded = jnp.concatenate([x, jnp.full((1, 7, 5), 99.0)], axis=1)
  beside = frontend.embed(params, batch(padded, 9))
  assert alone.states.shape == (1, 3, 8) and beside.states.shape == (1, 4, 8)
  np.testing.assert_allclose(beside.states[:, :3], alone.states, atol=1e-5)
  assert beside.segment_ids.tolist() == [[1, 1, 1, 0]]
  assert alone.positions.tolist() == [[0, 1, 2]]
  features = frontend.features(params, batch(padded, 9))
  np.testing.assert_allclose(features[0, :3].mean(axis=-1), 0, atol=1e-5)
  assert not features[0, 3:].any()
  with pytest.raises(ValueError, match=r"strides is \(0,\); expected one positive number"):
    frontends.Subsampling(width=8, num_inputs=5, strides=(0,))
