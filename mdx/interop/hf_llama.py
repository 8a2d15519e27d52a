"""LLaMA 1 to 3, and the many that share its architecture. Causal, but for EuroBERT.

Contents: check_window, FAMILY, MISTRAL, EUROBERT.

Reference: Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783 (the
rotary scaling of LLaMA 3.1).
"""

from __future__ import annotations

from typing import Any

from mdx.interop import decoder
from mdx.interop import family


def _to_fields(config):
  return decoder.read(config, allowed=dict(attention_bias=(False, True), mlp_bias=(False, True)))


def check_window(window: Any) -> None:
  """Raises ValueError for a `sliding_window` that is neither None nor a number of positions."""
  if window is not None and not (type(window) is int and 1 < window < 2**28):
    raise ValueError(f"sliding_window is {window!r:.40}; expected None or at least 2 positions.")


def _of_mistral(config):
  """A window of w tokens is the token itself and w - 1 before it."""
  window, length = config.get("sliding_window", 4096), config.get("max_position_embeddings", 131072)
  check_window(window)
  fields = decoder.read(config, defaults=dict(num_key_value_heads=8,
                                              max_position_embeddings=131072))
  return fields | (dict(local_radius=window - 1) if window is not None and window < length else {})


def _to_config(spec):
  biases = dict(use_bias=None, qkv_bias=spec.o_bias, o_bias=spec.qkv_bias, mlp_bias=None)
  return decoder.write(spec, "llama", "LlamaForCausalLM", **biases)


FAMILY = family.Family(
    model_type="llama", architectures=("LlamaForCausalLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=decoder.tensors, objective=decoder.causal, beside=decoder.BESIDE,
    bodies=("LlamaModel",), prefix="model.")
MISTRAL = family.alias(
    FAMILY, "mistral", "MistralForCausalLM", to_fields=_of_mistral, bodies=("MistralModel",),
    to_config=lambda spec: decoder.write(
        spec, "mistral", "MistralForCausalLM", local_radius=None) | dict(
            sliding_window=spec.local_radius + 1 if spec.local_radius else None))
EUROBERT = family.alias(
    FAMILY, "eurobert", "EuroBertForMaskedLM", bodies=("EuroBertModel",),
    to_fields=lambda config: decoder.read(config, defaults=dict(rms_norm_eps=1e-5,
                                                                max_position_embeddings=8192)),
    to_config=lambda spec: decoder.write(spec, "eurobert", "EuroBertForMaskedLM"),
    objective=lambda config: {"name": "mlm"})
