"""LLaMA 1 to 3, and the many that share its architecture. Causal.

Contents: FAMILY.

Reference: Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783 (the
rotary scaling of LLaMA 3.1).
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family


def _to_fields(config):
  fields = decoder.read(config, allowed=dict(attention_bias=(False, True), mlp_bias=(False, True)))
  if config.get("attention_bias", False) != config.get("mlp_bias", False):
    raise ValueError("attention_bias and mlp_bias differ; the transformer has both or none.")
  return fields


FAMILY = family.Family(
    model_type="llama", architectures=("LlamaForCausalLM",), to_fields=_to_fields,
    to_config=lambda spec: decoder.write(spec, "llama", "LlamaForCausalLM", use_bias=None),
    tensors=decoder.tensors, objective=decoder.causal, beside=decoder.BESIDE)
