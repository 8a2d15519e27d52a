"""Checksums: one changed bit is another sum, and neither mesh nor backend matters."""

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx.utils import checksum

TYPES = ("float32", "bfloat16", "int32", "uint8", "bool", "int8")


def _array(dtype, shape=(8, 6)):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape) * 40).astype(dtype)


def _sum(x):
  return checksum.of_items({"a": {"x": x}})["a"]["x"]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_device_and_the_host_agree_and_so_do_meshes(dtype):
  x = _array(dtype)
  expected = _sum(x)
  assert checksum._on_devices([x]) == [expected]
  for axes in (dict(fsdp=8), dict(fsdp=4, tensor=2)):
    spec = P("fsdp", "tensor" if "tensor" in axes else None)
    cut = jax.device_put(x, NamedSharding(sharding.make_mesh(axes), spec))
    assert _sum(cut) == expected == checksum._on_devices([cut])[0]


@pytest.mark.parametrize("bit", [0, 7, 15, 31])
def test_any_flipped_bit_and_any_exchange_of_elements_is_seen(bit):
  x = np.array(_array("float32"))
  for position in ((0, 0), (3, 5), (7, 5)):
    flipped = x.copy()
    flipped.view(np.uint32)[position] ^= np.uint32(1 << bit)
    assert _sum(jnp.asarray(flipped)) != _sum(jnp.asarray(x))
  swapped = x.copy()
  swapped[0, 0], swapped[4, 2] = x[4, 2], x[0, 0]
  assert _sum(jnp.asarray(swapped)) != _sum(jnp.asarray(x))


def test_scalars_and_keys_have_sums():
  assert _sum(jnp.float32(1.0)) != _sum(jnp.float32(2.0))
  assert _sum(jax.random.key(1)) != _sum(jax.random.key(2))


def test_json_has_the_same_sum_after_it_was_read():
  value = {"b": (1, 2.5), "a": {10: "x", 9: "y"}}
  assert checksum.of_json(value) == checksum.of_json({"a": {"9": "y", "10": "x"}, "b": [1, 2.5]})
  assert checksum.of_json(value) != checksum.of_json({"a": {"9": "x", "10": "x"}, "b": [1, 2.5]})
