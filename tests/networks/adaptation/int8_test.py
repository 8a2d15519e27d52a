"""Int8 kernels: rounding, and the function of a network that has them below its adapters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import lora
from mdx.utils import rng
from mdx.utils import tree

pytest.importorskip("qwix")

SPEC = transformer.Transformer(num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=11,
                               adaptations=(lora.LoRA(rank=3, targets=("q", "down")),))
TOKENS = jnp.arange(10).reshape(2, 5) % 11


def test_a_kernel_is_within_half_a_step_of_its_integers_column_by_column():
  kernel = jax.random.normal(rng.root(0), (3, 8, 5)) * jnp.array([[[1e-3, 1.0, 10.0, 1e3, 1.0]]])
  values, scale = int8.quantize(jnp.copy(kernel))
  assert values.dtype == jnp.int8 and scale.dtype == jnp.float32 and scale.shape == (3, 1, 5)
  assert (np.abs(values * scale - kernel) <= scale / 2 * (1 + 1e-4)).all()
  assert (np.abs(np.asarray(values, int)).max(axis=1) >= 127).all()


def _logits(spec, params):
  network = spec.network()
  return np.asarray(jax.jit(lambda params: network.head(params, network.encode(
      params, types.Inputs(TOKENS), attention=attention.Full()).last))(params))


@pytest.mark.slow
def test_a_network_computes_with_the_integers_as_they_are_stored():
  params = SPEC.network().init(rng.root(0))
  spec = dataclasses.replace(SPEC, adaptations=(*SPEC.adaptations, int8.Int8()))
  wanted = tree.flatten(jax.eval_shape(spec.network().init, rng.root(0)))
  leaves, dequantised = {}, {}
  for path, leaf in tree.flatten(params).items():
    if f"{path}_int8" in wanted:
      kernel, scale = int8.quantize(jnp.copy(leaf))
      dequantised[path] = kernel * scale
      leaves |= {f"{path}_int8": kernel, f"{path}_scale": scale}
    else:
      draw = 0.3 * jax.random.normal(rng.stream(rng.root(1), path), leaf.shape)
      leaves[path] = dequantised[path] = draw if path.endswith("lora_b") else leaf
  assert sum(path.endswith("_int8") for path in leaves) == 7
  quantised = _logits(spec, tree.nest(leaves))
  np.testing.assert_allclose(quantised, _logits(SPEC, tree.nest(dequantised)), atol=1e-5)
  plain = tree.nest({path: leaf if path.endswith("kernel") else dequantised[path]
                     for path, leaf in tree.flatten(params).items()})
  assert 0 < np.abs(quantised - _logits(SPEC, plain)).max() < 0.1
