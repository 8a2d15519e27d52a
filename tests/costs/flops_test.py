"""Model FLOPs against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from mdx import types
from mdx.costs import flops
from mdx.networks import attention
from mdx.networks import transformer
from mdx.utils import rng

_SPEC = dict(num_layers=3, width=32, num_heads=4, mlp_width=48, vocab_size=64)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_transformer_forwards_and_backwards(scan_layers):
  spec = transformer.Transformer(**_SPEC, scan_layers=scan_layers)
  network, rows, length = spec.network(), 2, 16
  params = jax.eval_shape(network.init, rng.root(0))
  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)

  def loss(params, tokens):
    hidden = network.encode(params, types.Inputs(tokens), attention=attention.Full()).last
    return network.head(params, hidden, "lm").sum()

  places = rows * length
  once = 2 * places * (spec.matmul_params() + 32 * 64) + 3 * 4 * places * length * 32
  assert flops.count(loss, params, tokens) == once
  assert flops.count(jax.grad(loss), params, tokens) == 3 * once


def test_loops_and_branches():
  x = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
  one = 4 * 2 * 8 * 8 * 8
  product = lambda x: jnp.einsum("bij,bjk->bik", x, x)

  def run(x, n):
    x, _ = jax.lax.scan(lambda x, _: (product(x), None), x, None, length=5)
    x = jax.lax.while_loop(lambda x: x.sum() < n, product, x)
    x = jax.lax.cond(n > 2, product, lambda x: x, x)
    rare = jax.named_scope(types.RARE)(jax.checkpoint(product))
    return jax.lax.cond(n > 3, rare, lambda x: x, x)

  assert flops.count(run, x, jnp.float32(1), unknown_trips=7) == (5 + 7 + 0.5) * one


def test_loops_in_one_another_have_trips_of_their_own():
  x = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
  product = lambda x: jnp.einsum("bij,bjk->bik", x, x)
  inner = lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, product, x)
  run = lambda x: jax.lax.while_loop(lambda x: x.sum() < 5, lambda x: inner(product(x)), x)
  one = 4 * 2 * 8 * 8 * 8
  assert flops.count(run, x, unknown_trips=(6, 2.5)) == 6 * (1 + 2.5) * one
  assert flops.count(run, x, unknown_trips=3) == 3 * (1 + 3) * one


def test_a_convolution():
  image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
  run = lambda x, k: jax.lax.conv_general_dilated(
      x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  assert flops.count(run, image, kernel) == 2 * (2 * 8 * 8 * 5) * 3 * 3 * 3
