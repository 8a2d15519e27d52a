"""Changes of a network's linear maps and branches, inside the scanned block.

Contents: ADAPTATIONS, build.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from mdx import config as config_lib
from mdx import types
from mdx.networks.adaptation import diff_pruning
from mdx.networks.adaptation import dora
from mdx.networks.adaptation import inserted
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import mask_tuning
from mdx.networks.adaptation import nm_masks
from mdx.networks.adaptation import products
from mdx.networks.adaptation import sites
from mdx.networks.adaptation import vectors

ADAPTATIONS = {"lora": lora.LoRA, "dora": dora.DoRA, "ia3": vectors.IA3, "bitfit": vectors.BitFit,
               "vera": products.VeRA, "adalora": products.AdaLoRA, "krona": products.KronA,
               "nm_mask": nm_masks.NMMask, "mask_tuning": mask_tuning.MaskTuning,
               "diff_pruning": diff_pruning.DiffPruning,
               "bottleneck": inserted.Bottleneck, "compacter": inserted.Compacter,
               "prefix_tuning": inserted.Prefix, "gated_prefix": inserted.GatedPrefix,
               "prompt_tuning": inserted.Prompt, "int8": int8.Int8}


def build(entries: Sequence[Any]) -> tuple[types.Adaptation, ...]:
  """Builds adaptations, those that replace a kernel first.

  Args:
    entries: values, or tables of a config, dict(name=..., **fields).

  Raises:
    ValueError: an unknown name, field or target, or two that exclude each other.
  """
  values = [config_lib.build(ADAPTATIONS, entry, what="adaptation")
            if isinstance(entry, Mapping) else entry for entry in entries]
  for value in values:
    if not value.targets or not any(set(value.targets) <= set(kind) for kind in sites.KINDS):
      raise ValueError(f"targets of {type(value).__name__} are {tuple(value.targets)}; choose some "
                       f"of {', or of '.join(', '.join(kind) for kind in sites.KINDS)}.")
  for name in sites.SITES:
    names = [leaf for value in sites.at(values, name)
             for leaf in value.leaves((64, 64), (None, None))]
    if len(set(names)) < len(names):
      raise ValueError(f"two adaptations of {name} have parameters of one name, "
                       f"{max(names, key=names.count)}; leave one of them out.")
    if sum(bool(value.replaces) for value in sites.at(values, name)) > 1:
      raise ValueError(f"two adaptations replace the kernel of {name}; leave one of them out.")
  return tuple(sorted(values, key=lambda value: not value.replaces))
