"""Qwen2, Qwen2.5 and Qwen3, dense. Causal.

Contents: QWEN2, QWEN3.

Convention: Qwen2 has biases of queries, keys and values; Qwen3 has none, and a norm of each query
and key head.

Reference: Yang et al. 2024, arXiv:2407.10671 (Qwen2); Yang et al. 2025, arXiv:2505.09388 (Qwen3).
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family

_DEFAULTS = dict(num_key_value_heads=32, max_position_embeddings=32768)


def _write_qwen2(spec):
  config = decoder.write(spec, "qwen2", "Qwen2ForCausalLM", qkv_bias=True)
  left_out = ["attention_bias", "mlp_bias"]
  # Its class reads a width of heads, but has none of its own.
  left_out += ["head_dim"] if spec.per_head * spec.num_heads == spec.width else []
  return {k: v for k, v in config.items() if k not in left_out}


def _write_qwen3(spec):
  config = decoder.write(spec, "qwen3", "Qwen3ForCausalLM", qk_norm=True, use_bias=False,
                         qkv_bias=spec.o_bias, o_bias=spec.qkv_bias)
  return {k: v for k, v in config.items() if k != "mlp_bias"}


QWEN2 = family.Family(
    model_type="qwen2", architectures=("Qwen2ForCausalLM",),
    to_fields=lambda config: decoder.read(config, defaults=_DEFAULTS) | {"qkv_bias": True},
    to_config=_write_qwen2, tensors=decoder.tensors, objective=decoder.causal,
    beside=decoder.BESIDE, bodies=("Qwen2Model",), prefix="model.")
QWEN3 = family.Family(
    model_type="qwen3", architectures=("Qwen3ForCausalLM",),
    to_fields=lambda config: decoder.read(
        config, defaults=_DEFAULTS | {"head_dim": 128},
        allowed=dict(attention_bias=(False, True))) | {"qk_norm": True},
    to_config=_write_qwen3, tensors=decoder.tensors, objective=decoder.causal,
    bodies=("Qwen3Model",), prefix="model.")
