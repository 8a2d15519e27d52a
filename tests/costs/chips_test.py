"""Topologies by name, and the time of collectives over their links."""

import importlib.util
import types

import numpy as np
import pytest

from mdx import sharding
from mdx.costs import chips
from mdx.costs import hlo

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                                  reason="libtpu is not installed (extra aot)")


def _devices(shape, slices=1):
  return np.array([types.SimpleNamespace(coords=list(place), slice_index=s)
                   for s in range(slices) for place in np.ndindex(*shape)])


def _seconds(kind, size, group, devices, chip, **more):
  return chips.transfer_seconds(hlo.Collective(kind, size, 1, (tuple(group),), **more), devices,
                                chip)


def test_a_gather_takes_the_bandwidth_of_the_dimensions_it_spans():
  chip, devices = chips.CHIPS["v5p"], _devices((4, 4, 4))
  n, link = 9e9, 9e10
  # A column is a ring of 4 (two directions); a plane two of them, all of it three.
  for group, axes in ((range(4), 1), (range(16), 2), (range(64), 3)):
    share = (len(group) - 1) / len(group)
    assert _seconds("all-gather", n, group, devices, chip) == pytest.approx(
        n * share / (axes * 2 * link))
    assert _seconds("all-reduce", n, group, devices, chip) == pytest.approx(
        2 * n * share / (axes * 2 * link))
  # Two of four are no ring, and neither is a whole side of a small v5e.
  assert _seconds("reduce-scatter", n, (0, 1), devices, chip) == pytest.approx(n / 2 / link)
  small, big = _devices((4, 4)), _devices((16, 16))
  v5e = chips.CHIPS["v5e"]
  assert _seconds("all-gather", n, range(4), small, v5e) == pytest.approx(n * 0.75 / 4.5e10)
  assert _seconds("all-gather", n, range(16), big, v5e) == pytest.approx(n * 15 / 16 / 9e10)


def test_between_slices_only_each_chips_share_goes_over_the_slow_network():
  chip, devices = chips.CHIPS["v5e"], _devices((4, 4), slices=2)
  n = 1e9
  alone = _seconds("all-reduce", n, (0, 16), devices, chip)  # the same chip of both slices
  assert alone == pytest.approx(2 * n / 2 / 3.125e9)
  both = _seconds("all-reduce", n, range(32), devices, chip)
  within = _seconds("all-reduce", n, range(16), devices, chip)
  assert both == pytest.approx(within + 2 * n / 16 / 2 / 3.125e9)


def test_a_permute_uses_one_link_and_a_ring_both_directions():
  chip, devices = chips.CHIPS["v6e"], _devices((4, 4), slices=2)
  plain = _seconds("collective-permute", 9e9, (0, 1), devices, chip)
  assert plain == pytest.approx(9e9 / 9e10)
  assert _seconds("collective-permute", 9e9, (0, 1), devices, chip, in_ring=True) == plain / 2
  assert _seconds("collective-permute", 9e9, (0, 16), devices, chip) == pytest.approx(
      9e9 / 1.25e10)


@pytest.mark.parametrize("name, slices, message", [
    ("v9:4x4", 1, "does not exist; write a kind of v4, v5e, v5p, v6e, tpu7x"),
    ("v5p", 1, "does not exist"),
    ("v5e:4x4x4", 1, "v5e has 2 dimensions"),
    ("v5p:0x4x4", 1, "does not exist"),
    ("gpu:0", 1, "does not exist"),
    ("gpu:eight", 1, "does not exist"),
    ("gpu:4096", 1, "needs 4096 simulated devices, this process has 8"),
    ("gpu:8", 2, "slices is of TPUs"),
    ("gpu:8", 0, "slices must be a positive number"),
])
def test_a_topology_that_does_not_exist_is_one_line(name, slices, message):
  with pytest.raises(ValueError, match=message) as error:
    chips.target(name, slices)
  assert "\n" not in str(error.value)


def test_simulated_devices_have_no_figures():
  target = chips.target("gpu:4")
  assert (target.num_chips, len(target.devices), target.chip) == (4, 4, None)


@needs_libtpu
@pytest.mark.parametrize("name, num_chips, cores", [
    ("v5e:4x4", 16, 1), ("v5p:2x2x1", 4, 1), ("v5p:2x2", 4, 1), ("v6e:4x4", 16, 1),
    ("tpu7x:2x2x1", 4, 2), ("v4:2x2x1", 4, 2)])
def test_tpus_have_the_chips_of_their_shape(name, num_chips, cores):
  target = chips.target(name)
  assert (target.num_chips, target.devices_per_chip) == (num_chips, cores)
  with pytest.raises(ValueError, match="does not exist: .*") as error:
    chips.target(name.partition(":")[0] + ":3x5")
  assert "\n" not in str(error.value)


@needs_libtpu
def test_slices_are_cut_along_replica_or_data():
  target = chips.target("v5e:4x4", 2)
  assert (target.num_chips, target.name) == (32, "v5e:4x4 x 2 slices")
  for sizes in (dict(replica=2, data=1, fsdp=16), dict(data=4, fsdp=8)):
    mesh = sharding.make_mesh(sizes, devices=target.devices)
    slices = np.vectorize(lambda d: d.slice_index)(mesh.devices).reshape(2, 16)
    assert (slices == [[0], [1]]).all()
  with pytest.raises(ValueError, match="2 slices, which divide neither mesh axis replica=1"):
    sharding.make_mesh(dict(data=1, fsdp=-1), devices=target.devices)
  # No axis of 32 is a product of dimensions of 4, so a dimension is split.
  assert sharding.make_mesh(dict(data=2, fsdp=32),
                            devices=chips.target("v5p:4x4x4").devices).shape["fsdp"] == 32
