"""Samplers: one compiled loop and the rules that plug into it.

Contents: SAMPLERS, build.
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx import config as config_lib
from mdx.samplers import ancestral
from mdx.samplers import autoregressive

SAMPLERS = {"ancestral": ancestral.Ancestral, "autoregressive": autoregressive.LeftToRight}


def build(cfg: Mapping[str, Any], mask_id: int, **extra) -> Any:
  """Builds a sampler from `name` and its fields."""
  return config_lib.build(SAMPLERS, cfg, what="sampler", mask_id=mask_id, **extra)
