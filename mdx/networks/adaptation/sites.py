"""Sites of a network that adaptations are put on, and the parameters that they have there.

Contents: PROJECTIONS, BRANCHES, SITES, Site, of_spec, check, at, leaves, reading_kernels, owner,
pattern, base_form, start, fresh, started, upkeep, merge.

Convention: a site has a name that adaptations target, and a path in the network. The leaf `x` of
an adaptation of the projection q is the parameter layers/attention/q/x, beside its `kernel`.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from mdx import types
from mdx.utils import rng
from mdx.utils import tree

# name -> path of its parameters.
PROJECTIONS = {"q": "layers/attention/q", "k": "layers/attention/k", "v": "layers/attention/v",
               "o": "layers/attention/o", "gate": "layers/mlp/gate", "up": "layers/mlp/up",
               "down": "layers/mlp/down"}
BRANCHES = {"attention": "layers/attention_branch", "mlp": "layers/mlp_branch"}
_MEMORY = {"memory": "layers/attention/memory"}
_INPUT = {"input": "prompt"}
SITES = PROJECTIONS | BRANCHES | _MEMORY | _INPUT
KINDS = (tuple(PROJECTIONS), tuple(BRANCHES), tuple(_MEMORY), tuple(_INPUT))
_PATH = re.compile(rf"(?:.*/)?({'|'.join(SITES.values())})/([^/]+)")
_NAME = {path: name for name, path in SITES.items()}


class Site(NamedTuple):
  """Description of a site for `Adaptation.leaves`.

  Attributes:
    shape: [in, out] of a projection, [D, D] of a branch or of the input, [heads, head width] of
      keys and values.
    axes: logical axis of each dimension.
  """
  shape: tuple[int, int]
  axes: tuple[str | None, str | None]


def of_spec(spec: Any) -> dict[str, Site]:
  """Returns the sites of a `transformer.Transformer`, by name."""
  inner, outer = ("embed", "heads"), ("heads", "embed")
  queries, keys = spec.num_heads * spec.per_head, spec.kv_heads * spec.per_head
  branch = Site((spec.width, spec.width), ("embed", "embed"))
  found = {"q": Site((spec.width, queries), inner), "k": Site((spec.width, keys), inner),
           "v": Site((spec.width, keys), inner), "o": Site((queries, spec.width), outer),
           "up": Site((spec.width, spec.hidden_width), ("embed", "mlp")),
           "down": Site((spec.hidden_width, spec.width), ("mlp", "embed")),
           "attention": branch, "mlp": branch, "input": branch,
           "memory": Site((spec.kv_heads, spec.per_head), ("heads", None))}
  return found | ({"gate": found["up"]} if spec.is_gated else {})


def check(spec: Any) -> None:
  """Raises ValueError for adaptations that do not fit a `transformer.Transformer`."""
  found = of_spec(spec)
  for one in spec.adaptations:
    for name in one.targets:
      if name in found:
        one.check(name, found[name].shape)
      elif one.targets != type(one).targets:
        raise ValueError(f"{type(one).__name__} targets {name}, which this network does not have "
                         f"(mlp {spec.mlp} has no gate); choose from {', '.join(found)}.")


def at(adaptations: Sequence[types.Adaptation], name: str) -> tuple[types.Adaptation, ...]:
  """Returns the adaptations that target a site."""
  return tuple(one for one in adaptations if name in one.targets)


def leaves(spec: Any) -> dict[str, types.Leaf]:
  """Returns {path in the network: Leaf}, without the axis of stacked layers."""
  return {f"{SITES[name]}/{leaf_name}": leaf for name, site in of_spec(spec).items()
          for one in at(spec.adaptations, name)
          for leaf_name, leaf in one.leaves(*site).items()}


def reading_kernels(adaptations: Sequence[types.Adaptation]) -> frozenset[str]:
  """Returns the paths of projections whose kernel an adaptation changes, in the kernel's type."""
  return frozenset(path for name, path in PROJECTIONS.items() for one in at(adaptations, name)
                   if type(one).kernel is not types.Adaptation.kernel)


def _names(adaptation: types.Adaptation) -> tuple[str, ...]:
  """Names of the leaves of an adaptation, which do not depend on the shape."""
  return tuple(adaptation.leaves((64, 64), (None, None)))


def owner(path: str, adaptations: Sequence[types.Adaptation]) -> types.Adaptation | None:
  """Returns the adaptation that a parameter belongs to; None: it is the network's own."""
  found = _PATH.fullmatch(path)
  if found is None:
    return None
  site, name = _NAME[found.group(1)], found.group(2)
  return next((one for one in at(adaptations, site) if name in _names(one)), None)


def pattern(adaptation: types.Adaptation) -> str:
  """Returns a pattern of the paths of what an adaptation trains, for `optimizer.trainable`."""
  paths = "|".join(SITES[name] for name in adaptation.targets)
  names = "|".join(name for name, leaf in adaptation.leaves((64, 64), (None, None)).items()
                   if leaf.is_trained and not leaf.is_state)
  return rf".*({paths})/({names})"


def base_form(shapes: Any, adaptations: Sequence[types.Adaptation]) -> Any:
  """Returns the tree of shape structs of a network before some adaptations are put on it."""
  found = {}
  for path, leaf in tree.flatten(shapes).items():
    one = owner(path, adaptations)
    above, _, name = path.rpartition("/")
    if one is None:
      found[path] = leaf
    elif name == one.replaces:
      found[f"{above}/kernel"] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32,
                                                      sharding=leaf.sharding)
  return tree.nest(found)


def start(path: str, kernel: jax.Array, shapes: Mapping[str, Any],
          adaptations: Sequence[types.Adaptation]) -> Any:
  """Returns a loaded parameter, or the leaves {name: array} that replace a kernel.

  Args:
    path: of the parameter.
    kernel: its value, which is donated.
    shapes: {path: shape struct with sharding} of the network with the adaptations.
    adaptations: of the network.
  """
  if path in shapes:
    return kernel
  above = path.rpartition("/")[0]
  one = next(one for one in adaptations
             if one.replaces and owner(f"{above}/{one.replaces}", adaptations) is one)
  return {name: jax.device_put(leaf, shapes[f"{above}/{name}"].sharding)
          for name, leaf in one.replacing(kernel).items()}


def fresh(shapes: Any, adaptations: Sequence[types.Adaptation], seed: int) -> Any:
  """Returns new parameters of adaptations.

  Args:
    shapes: tree of shape structs of them alone, with shardings where there is a mesh.
    adaptations: of the network.
    seed: of the run.
  """
  if not tree.flatten(shapes):
    return {}

  def one(path, leaf):
    own = owner(path, adaptations)
    if own is None:
      raise ValueError(f"parameter {path} is neither in the checkpoint nor of an adaptation.")
    init = own.leaves((64, 64), (None, None))[path.rpartition("/")[2]].init
    return init(rng.stream(rng.root(seed), path), leaf.shape, leaf.dtype)

  make = lambda: tree.map_with_path(one, shapes)
  return jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()


def _owned(found: Mapping[str, Any], one: types.Adaptation, adaptations: Any
           ) -> dict[str, dict[str, Any]]:
  """Path of a site -> the leaves of one adaptation there, by name."""
  owned = {}
  for path, leaf in found.items():
    if owner(path, adaptations) is one:
      above, _, name = path.rpartition("/")
      owned.setdefault(above, {})[name] = leaf
  return owned


def started(params: Any, adaptations: Sequence[types.Adaptation],
            is_new: Callable[[str], bool] = lambda path: True) -> Any:
  """Returns parameters in which new adaptations have taken their start from the kernels.

  Args:
    params: nested dicts, of one network or of several.
    adaptations: of the network.
    is_new: whether the parameter of a path is new.

  Raises:
    ValueError: there is no kernel to start from.
  """
  found = tree.flatten(params)
  for one in adaptations:
    sites_of = _owned(found, one, adaptations) if one.reads_kernel else {}
    for above, own in sites_of.items():
      if not all(is_new(f"{above}/{name}") for name in own):
        continue
      if f"{above}/kernel" not in found:
        raise ValueError(f"{type(one).__name__} starts from the kernels, and those of {above} are "
                         "not here as they were; leave out init.weights, or start at zero.")
      kernel = found[f"{above}/kernel"]
      new, left = jax.jit(jax.vmap(one.started))(own, kernel)
      found |= {f"{above}/{name}": leaf for name, leaf in new.items()}
      found[f"{above}/kernel"] = left
  return tree.nest(found)


def upkeep(adaptations: Sequence[types.Adaptation]) -> types.Upkeep | None:
  """Returns what a training step does with the parameters of adaptations; None: nothing."""
  kept = [one for one in adaptations if one.has_upkeep]
  if not kept:
    return None

  def moves(path):
    one = owner(path, adaptations)
    return one is not None and one.leaves((64, 64), (None, None))[path.rpartition("/")[2]].is_state

  def penalty(params):
    found = tree.flatten(params)
    return sum(one.penalty(own, found[f"{above}/kernel"]).sum() for one in kept
               for above, own in _owned(found, one, adaptations).items())

  def after(params, grads, step):
    found, given = tree.flatten(params), tree.flatten(grads)
    return {f"{above}/{name}": leaf for one in kept
            for above, own in one.stepped(_owned(found, one, adaptations),
                                          _owned(given, one, adaptations), step).items()
            for name, leaf in own.items()}

  return types.Upkeep(moves, penalty, after)


def merge(params: Any, adaptations: Sequence[types.Adaptation]) -> Any:
  """Returns the parameters of the network that does the same without adaptations.

  Args:
    params: of one network, or of several, as nested dicts; kernels keep their types.
    adaptations: of the network.

  Raises:
    ValueError: an adaptation that no kernel can stand for.
  """
  found = tree.flatten(params)
  for one in adaptations:
    if not set(one.targets) <= set(PROJECTIONS):
      raise ValueError(f"{type(one).__name__} changes hidden states, so it cannot be merged into "
                       "kernels; keep it beside them (export.format=orbax).")
    merged = jax.jit(jax.vmap(one.merged))
    owned = [path for path in found if owner(path, adaptations) is one]
    for above in dict.fromkeys(path.rpartition("/")[0] for path in owned):
      own = {path.rpartition("/")[2]: found.pop(path) for path in owned
             if path.rpartition("/")[0] == above}
      found[f"{above}/kernel"] = merged(own, found.get(f"{above}/kernel"))
  return tree.nest(found)
