"""Trees: paths, counts, differences in words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx.utils import tree


class _State(NamedTuple):
  params: dict
  moments: tuple


def _state():
  return _State({"layers": {"q": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}},
                (jnp.zeros(()), [jnp.zeros(4, jnp.int32)]))


def test_paths_are_written_with_slashes_through_every_kind_of_node():
  assert list(tree.flatten(_state())) == ["params/layers/b", "params/layers/q", "moments/0",
                                          "moments/1/0"]


def test_map_with_path_keeps_the_structure():
  named = tree.map_with_path(lambda path, leaf: f"{path}:{leaf.ndim}", _state())
  assert named.params["layers"]["q"] == "params/layers/q:2" and named.moments[0] == "moments/0:0"


def test_count_and_bytes_add_up_over_leaves_and_shape_structs():
  for state in (_state(), jax.eval_shape(_state)):
    assert tree.count(state) == 6 + 3 + 1 + 4
    assert tree.num_bytes(state) == 24 + 6 + 4 + 16
  assert tree.num_bytes({"key": jax.random.key(0), "x": jnp.zeros(2)}) == 8


def test_differences_name_the_path_and_both_shapes():
  want = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4)}, "e": jnp.zeros(1)}
  have = {"a": jnp.zeros((3, 2)), "b": {"d": jnp.zeros(4)}, "e": jnp.ones(1)}
  assert tree.difference(want, have) == [
      "b/c: expected but absent", "b/d: present but not expected",
      "a: expected shape (2, 3), found (3, 2)"]
  assert tree.difference(want, jax.eval_shape(lambda: want)) == []


def test_fingerprints_tell_a_bit_and_a_path_and_ignore_the_order_of_keys():
  one = {"a": jnp.arange(3.0), "b": jnp.zeros(2)}
  assert tree.fingerprint(one) == tree.fingerprint(dict(reversed(one.items())))
  assert tree.fingerprint(one) == tree.fingerprint(jax.tree.map(np.asarray, one))
  bit = one | {"a": one["a"].at[1].set(np.nextafter(np.float32(1), np.float32(2)))}
  assert len({tree.fingerprint(x) for x in (one, bit, {"a": one["a"], "c": one["b"]})}) == 3


def test_parts_hold_every_leaf_once_and_merge_to_the_whole():
  whole = {"a": {"b": 1, "c": 2}, "d": {"e": {"f": 3}}}
  kept = tree.part(whole, lambda path: path != "a/c")
  assert kept == {"a": {"b": 1}, "d": {"e": {"f": 3}}}
  rest = tree.part(whole, lambda path: path == "a/c")
  assert rest == {"a": {"c": 2}} and tree.merge(kept, rest) == whole
  assert tree.part(whole, lambda path: False) == {} and tree.merge({}, whole) == whole
