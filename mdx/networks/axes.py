"""Logical axes of the transformer's parameters, and which of them weight decay applies to.

Contents: RULES, axes, decays.

Convention: a path is that within the network ("layers/attention/q/kernel"). Parameters of the
scanned layers have a leading axis of layers that is never sharded. Every parameter matches
exactly one rule; there is no catch-all, so a typo cannot pass.
"""

from __future__ import annotations

import re

# (path pattern, logical axis of each dimension).
RULES = (
    (r"embed/embedding", ("vocab", "embed")),
    (r"(position|token_type)_embed/embedding", (None, "embed")),
    (r"embed_projection/kernel", (None, "embed")),
    (r"embed_projection/bias", (None,)),
    (r"time_embed/(in|out)/kernel", (None, "embed")),
    (r"time_embed/(in|out)/bias", (None,)),
    (r"layers/modulation/kernel", (None, "embed", None)),
    (r"layers/modulation/bias", (None, None)),
    (r"layers/attention/(q|k|v)/kernel(_int8)?", (None, "embed", "heads")),
    (r"layers/attention/(q|k|v)/bias", (None, "heads")),
    (r"layers/attention/o/kernel(_int8)?", (None, "heads", "embed")),
    (r"layers/attention/o/bias", (None, None)),
    (r"layers/mlp/(gate|up)/kernel(_int8)?", (None, "embed", "mlp")),
    (r"layers/mlp/(gate|up)/bias", (None, "mlp")),
    (r"layers/mlp/down/kernel(_int8)?", (None, "mlp", "embed")),
    (r"layers/mlp/down/bias", (None, None)),
    (r"layers/attention/(q|k|v)/kernel_scale", (None, None, "heads")),
    (r"layers/mlp/(gate|up)/kernel_scale", (None, None, "mlp")),
    (r"layers/(attention/o|mlp/down)/kernel_scale", (None, None, "embed")),
    (r"layers/attention/(q|k|v)/lora_a", (None, "embed", None)),
    (r"layers/attention/(q|k|v)/lora_b", (None, None, "heads")),
    (r"layers/attention/o/lora_a", (None, "heads", None)),
    (r"layers/attention/o/lora_b", (None, None, "embed")),
    (r"layers/mlp/(gate|up)/lora_a", (None, "embed", None)),
    (r"layers/mlp/(gate|up)/lora_b", (None, None, "mlp")),
    (r"layers/mlp/down/lora_a", (None, "mlp", None)),
    (r"layers/mlp/down/lora_b", (None, None, "embed")),
    (r"layers/attention/(q_norm|k_norm)/scale", (None, None)),
    (r"layers/(attention_norm|mlp_norm)/(scale|bias)", (None, None)),
    (r"(embed|head|final)_norm/(scale|bias)", (None,)),
    (r"(head_dense|rtd_head)/kernel", ("embed", None)),
    (r"(head_dense|rtd_head)/bias", (None,)),
    (r"lm_head/kernel", ("embed", "vocab")),
    (r"lm_head/bias", ("vocab",)),
)


def axes(path: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
  """Logical axes of one parameter.

  Raises:
    ValueError: no rule or more than one matches, or the rank is another.
  """
  found = [axes for pattern, axes in RULES if re.fullmatch(pattern, path)]
  if len(found) != 1:
    raise ValueError(f"parameter {path} matches {len(found)} rules of networks.axes.RULES; "
                     "add or narrow a rule so that exactly one matches.")
  if len(found[0]) != len(shape):
    raise ValueError(f"parameter {path} has {len(shape)} dimensions, its sharding rule {found[0]}.")
  return found[0]


def decays(path: str) -> bool:
  """Whether weight decay applies: to matrices and the embeddings of tokens."""
  return path == "embed/embedding" or path.rpartition("/")[2] in ("kernel", "lora_a", "lora_b")
