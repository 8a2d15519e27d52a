"""Objectives: pure losses in the draw-then-score form.

Contents: OBJECTIVES, build.
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx import config as config_lib
from mdx import types
from mdx.objectives import ar
from mdx.objectives import diffusion
from mdx.objectives import mlm

OBJECTIVES = {
    "ar": ar.AutoRegressive,
    "mlm": mlm.MaskedLM,
    "diffusion": diffusion.MaskedDiffusion,
}


def build(cfg: Mapping[str, Any], network: types.Network, tokenizer: Any) -> types.Objective:
  """Builds the objective of a config.

  Args:
    cfg: `config.objective`: `name` and fields of the dataclass.
    network: the model.
    tokenizer: gives the special ids (`mask_id`, `eos_id`, ...).

  Raises:
    ValueError: unknown name or field, or values the objective refuses.
  """
  return config_lib.build(OBJECTIVES, cfg, what="objective", network=network,
                          mask_id=tokenizer.mask_id)
