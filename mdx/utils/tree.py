"""Helpers over nested dicts of arrays.

Contents: path_str, flatten, nest, map_with_path, part, merge, overlay, count, num_bytes,
difference, fingerprint.

Convention: a path is written "layers/attention/q/kernel".
"""

from __future__ import annotations

import hashlib
from typing import Any, Callable

import jax
import numpy as np


def path_str(path) -> str:
  """Writes a jax key path as "a/b/c"."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: Any) -> dict[str, Any]:
  """Returns {path: leaf} in the tree's order."""
  return {path_str(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def map_with_path(f: Callable[[str, Any], Any], tree: Any) -> Any:
  """Maps `f(path, leaf)` over a tree."""
  return jax.tree_util.tree_map_with_path(lambda p, x: f(path_str(p), x), tree)


def part(tree: Any, keep: Callable[[str], bool]) -> Any:
  """The leaves whose path is kept, in dicts without the others."""
  return nest({path: leaf for path, leaf in flatten(tree).items() if keep(path)})


def merge(*parts: Any) -> Any:
  """The tree of nested dicts that disjoint parts make up."""
  return nest({path: leaf for one in parts for path, leaf in flatten(one).items()})


def overlay(over: Any, tree: Any) -> Any:
  """`tree` with the leaves that `over` has."""
  leaves = flatten(over)
  return map_with_path(lambda path, leaf: leaves.get(path, leaf), tree)


def nest(leaves: dict[str, Any]) -> dict[str, Any]:
  """The nested dicts of {path: leaf}."""
  nested: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *above, last = path.split("/")
    inner = nested
    for name in above:
      inner = inner.setdefault(name, {})
    inner[last] = leaf
  return nested


def count(tree: Any) -> int:
  """Number of scalars in all leaves."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
  """Bytes of all leaves, from shapes and dtypes."""
  return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
             if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key))


def difference(expected: Any, found: Any) -> list[str]:
  """Says in words how two trees of arrays differ; [] if they agree."""
  want, have = flatten(expected), flatten(found)
  lines = [f"{p}: expected but absent" for p in want if p not in have]
  lines += [f"{p}: present but not expected" for p in have if p not in want]
  for p in want:
    if p in have and tuple(want[p].shape) != tuple(have[p].shape):
      lines.append(f"{p}: expected shape {tuple(want[p].shape)}, found {tuple(have[p].shape)}")
  return lines


def fingerprint(tree: Any) -> str:
  """Hash of all leaves' bytes, to compare two trees bitwise."""
  digest = hashlib.sha256()
  for path, leaf in sorted(flatten(jax.device_get(tree)).items()):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:16]
