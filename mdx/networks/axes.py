"""Logical axes of the transformer's parameters, those that decay, and those that are rounded.

Contents: RULES, axes, decays, is_rounded, is_cross.

Convention: a path is that within the network ("layers/attention/q/kernel"). Parameters of the
scanned layers have a leading axis of layers that is never sharded. Every parameter matches
exactly one rule; there is no catch-all, so a typo cannot pass.
"""

from __future__ import annotations

import re
from typing import Collection, Mapping

from mdx import types

# (path pattern, logical axis of each dimension).
RULES = (
    (r"embed/embedding", ("vocab", "embed")),
    (r"(position|token_type)_embed/embedding", (None, "embed")),
    (r"relative_embed/embedding", (None, "embed")),
    (r"relative_norm/(scale|bias)", (None,)),
    (r"embed_projection/kernel", (None, "embed")),
    (r"embed_projection/bias", (None,)),
    (r"time_embed/(in|out)/kernel", (None, "embed")),
    (r"time_embed/(in|out)/bias", (None,)),
    (r"(first_)?layers/modulation/kernel", (None, "embed", None)),
    (r"(first_)?layers/modulation/bias", (None, None)),
    (r"(first_)?layers/attention/(q|k|v)/kernel", (None, "embed", "heads")),
    (r"(first_)?layers/attention/(q|k|v)/bias", (None, "heads")),
    (r"(first_)?layers/attention/table_(q|k)/kernel", (None, "embed", "heads")),
    (r"(first_)?layers/attention/table_(q|k)/bias", (None, "heads")),
    (r"(first_)?layers/attention/o/kernel", (None, "heads", "embed")),
    (r"(first_)?layers/attention/o/bias", (None, None)),
    (r"(first_)?layers/cross/(query|key|value)/kernel", (None, "embed", "heads")),
    (r"(first_)?layers/cross/(query|key|value)/bias", (None, "heads")),
    (r"(first_)?layers/cross/out/kernel", (None, "heads", "embed")),
    (r"(first_)?layers/cross/out/bias", (None, None)),
    (r"(first_)?layers/mlp/(gate|up)/kernel", (None, "embed", "mlp")),
    (r"(first_)?layers/mlp/(gate|up)/bias", (None, "mlp")),
    (r"(first_)?layers/mlp/down/kernel", (None, "mlp", "embed")),
    (r"(first_)?layers/mlp/down/bias", (None, None)),
    (r"layers/first_mlp/(gate|up)/kernel", (None, "embed", "mlp")),
    (r"layers/first_mlp/(gate|up)/bias", (None, "mlp")),
    (r"layers/first_mlp/down/kernel", (None, "mlp", "embed")),
    (r"layers/first_mlp/down/bias", (None, None)),
    (r"layers/conv/in/kernel", (None, "embed", "mlp")),
    (r"layers/conv/in/bias", (None, "mlp")),
    (r"layers/conv/out/kernel", (None, "mlp", "embed")),
    (r"layers/conv/out/bias", (None, None)),
    (r"layers/conv/kernel", (None, None, None)),
    (r"layers/(conv/norm|(first_mlp|conv|block)_norm)/(scale|bias)", (None, None)),
    (r"layers/mlp/shared/(gate|up)/kernel", (None, "embed", "mlp")),
    (r"layers/mlp/shared/down/kernel", (None, "mlp", "embed")),
    (r"layers/mlp/router/kernel", (None, "embed", None)),
    (r"layers/mlp/router/bias", (None, None)),
    (r"layers/mlp/experts_(gate|up)/kernel", (None, None, "embed", "mlp")),
    (r"layers/mlp/experts_down/kernel", (None, None, "mlp", "embed")),
    (r"(first_)?layers/attention/(q_norm|k_norm)/scale", (None, None)),
    (r"(first_)?layers/(attention_norm|cross_norm|mlp_norm)/(scale|bias)", (None, None)),
    (r"(embed|head|final)_norm/(scale|bias)", (None,)),
    (r"(head_dense|rtd_head)/kernel", ("embed", None)),
    (r"(head_dense|rtd_head)/bias", (None,)),
    (r"lm_head/kernel", ("embed", "vocab")),
    (r"lm_head/bias", ("vocab",)),
)
# Matrices that are read in the type of the activations alone; a router is not.
_ROUNDED = re.compile(
    r"(embed|position_embed|token_type_embed)/embedding|(embed_projection|lm_head)/kernel|"
    r"time_embed/(in|out)/kernel|(first_)?layers/.*(?<!router/)kernel")


def axes(path: str, shape: tuple[int, ...],
         adapted: Mapping[str, types.Leaf] = {}) -> tuple[str | None, ...]:
  """Returns the logical axes of one parameter.

  Args:
    path: within the network.
    shape: its shape.
    adapted: path -> Leaf of the parameters of adaptations, which say their axes themselves.

  Raises:
    ValueError: no rule or more than one matches, or the rank is another.
  """
  found = [axes for pattern, axes in RULES if re.fullmatch(pattern, path)]
  stacked = (None,) if path.startswith("layers/") else ()
  found += [(*stacked, *adapted[path].axes)] if path in adapted else []
  if len(found) != 1:
    raise ValueError(f"parameter {path} matches {len(found)} rules of networks.axes.RULES; "
                     "add or narrow a rule so that exactly one matches.")
  if len(found[0]) != len(shape):
    raise ValueError(f"parameter {path} has {len(shape)} dimensions, its sharding rule {found[0]}.")
  return found[0]


def decays(path: str, adapted: Mapping[str, types.Leaf] = {}) -> bool:
  """Returns whether weight decay applies: to matrices, token embeddings, and as a Leaf says."""
  if path in adapted:
    return adapted[path].decays
  return path == "embed/embedding" or path.rpartition("/")[2] == "kernel"


def is_rounded(path: str, kept: Collection[str] = ()) -> bool:
  """Returns whether a parameter is only read in the type of the activations (`types.Part`).

  Args:
    path: within the network.
    kept: paths of the sites whose adaptations read the kernel in its own type.
  """
  return bool(_ROUNDED.fullmatch(path)) and path.rpartition("/")[0] not in kept


def is_cross(path: str) -> bool:
  """Returns whether a parameter is of cross-attention, which a model without a context lacks."""
  return re.fullmatch(r"(first_)?layers/cross(_norm)?/.*", path) is not None
