"""SDAR and TraDo: block diffusion with the body of Qwen3.

Contents: FAMILY.

Convention: `block_size` of config.json is the length of a block, 4 where it is silent. The code
comes with the weights and is copied on export.

Reference: Cheng et al. 2025, arXiv:2510.06303.
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family
from mdx.interop import hf_qwen


def _to_config(spec):
  return hf_qwen.QWEN3.to_config(spec) | dict(architectures=["SDARForCausalLM"], model_type="sdar")


def _objective(config):
  length = config.get("block_size", 4)
  if not isinstance(length, int) or isinstance(length, bool) or not (
      1 <= length <= 2**20):
    raise ValueError(f"block_size is {length!r:.40}; expected a positive integer.")
  return {"name": "block_diffusion", "mask_column": True,
          "attention": {"name": "block_causal", "block_length": length}}


FAMILY = family.Family(
    model_type="sdar", architectures=("SDARForCausalLM",), to_fields=hf_qwen.QWEN3.to_fields,
    to_config=_to_config, tensors=decoder.tensors, objective=_objective)
