"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini, dense. Causal.

Contents: FAMILY.

Convention: LLaMA with one stored matrix for queries, keys and values, and one for gate and up; the
rotary factors of LongRoPE, and a share of each head that is rotated.

Reference: Abdin et al. 2024, arXiv:2404.14219; Ding et al. 2024, arXiv:2402.13753 (LongRoPE).
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family
from mdx.interop import hf_llama

_DEFAULTS = dict(rms_norm_eps=1e-5, max_position_embeddings=4096, partial_rotary_factor=1.0)


def _to_fields(config):
  window, length = config.get("sliding_window"), config.get("max_position_embeddings", 4096)
  hf_llama.check_window(window)
  given = config.get("rope_parameters") or config.get("rope_scaling") or {}
  share = given.get("partial_rotary_factor") if isinstance(given, dict) else None
  options = dict(config) | ({} if share is None else {"partial_rotary_factor": share})
  fields = decoder.read(options, defaults=_DEFAULTS)
  share = options.get("partial_rotary_factor", 1.0)
  if not (family.is_positive(share) and share <= 1):
    raise ValueError(f"partial_rotary_factor is {share!r:.40}; expected a number in (0, 1].")
  return fields | (dict(rotary_share=float(share)) if share != 1 else {}) | (
      dict(local_radius=window - 1) if window is not None and window < length else {})


def _to_config(spec):
  if spec.per_head * spec.num_heads != spec.width:
    raise ValueError(f"network.head_dim {spec.head_dim} cannot be exported as 'phi3', whose "
                     f"heads have width / num_heads = {spec.width}/{spec.num_heads}.")
  if spec.rope_scaling[:1] not in ((), ("longrope",)):
    raise ValueError(f"network.rope_scaling {spec.rope_scaling[0]} cannot be exported as 'phi3', "
                     "whose models have longrope or none.")
  config = decoder.write(spec, "phi3", "Phi3ForCausalLM", local_radius=None, rotary_share=None)
  config["rope_parameters"] |= dict(partial_rotary_factor=spec.rotary_share)
  if spec.rope_scaling:
    config["original_max_position_embeddings"] = int(spec.rope_scaling[1])
  left_out = ("head_dim", "rope_scaling", "attention_bias", "mlp_bias", "use_sliding_window")
  return {k: v for k, v in config.items() if k not in left_out} | dict(
      partial_rotary_factor=spec.rotary_share,
      sliding_window=spec.local_radius + 1 if spec.local_radius else None)


def _tensors(spec):
  block, heads, kv_heads = "model.layers.{layer}.", spec.num_heads, spec.kv_heads
  table = decoder.tensors(spec)
  bounds = (0, heads, heads + kv_heads, heads + 2 * kv_heads)
  for name, begin, end in zip("qkv", bounds, bounds[1:]):
    table |= family.linear(f"layers/attention/{name}", f"{block}self_attn.qkv_proj",
                           part=(begin, end, bounds[-1]))
  for i, name in enumerate(("gate", "up")):
    table |= family.linear(f"layers/mlp/{name}", f"{block}mlp.gate_up_proj", part=(i, i + 1, 2))
  return table


FAMILY = family.alias(
    hf_llama.FAMILY, "phi3", "Phi3ForCausalLM", to_fields=_to_fields, to_config=_to_config,
    tensors=_tensors, bodies=("Phi3Model",))
