"""Qwen2, Qwen2.5 and Qwen3, dense. Causal.

Contents: QWEN2, QWEN3.

Convention: Qwen2 has biases of queries, keys and values; Qwen3 has none, and a norm of each query
and key head.

Reference: Yang et al. 2024, arXiv:2407.10671 (Qwen2); Yang et al. 2025, arXiv:2505.09388 (Qwen3).
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family

_FULL, _SLIDING = "full_attention", "sliding_attention"
_DEFAULTS = dict(num_key_value_heads=32, max_position_embeddings=32768)


def _read(config, **options):
  """Fields; with a window of w tokens layers from a number on see a token and w - 1 before it."""
  if config.get("use_sliding_window") is not True:
    return decoder.read(config, **options)
  fields = decoder.read({**config, "use_sliding_window": False, "layer_types": None}, **options)
  window, first = config.get("sliding_window", 4096), config.get("max_window_layers", 28)
  for name, value, least in (("sliding_window", window, 2), ("max_window_layers", first, 0)):
    if type(value) is not int or not least <= value < 2**28:
      raise ValueError(f"{name} is {value!r:.40}; expected at least {least}.")
  kinds = [_FULL if i < first else _SLIDING for i in range(fields["num_layers"])]
  if list(config.get("layer_types") or kinds) != kinds:
    raise ValueError(f"layer_types is {config['layer_types']!r:.80}; expected {_FULL!r} in the "
                     f"first max_window_layers = {first} and {_SLIDING!r} in the others.")
  if window >= fields["max_length"] or _SLIDING not in kinds:
    return fields
  return fields | dict(local_radius=window - 1, global_first=first)


def _windows(spec):
  """Entries of config.json of a model with a window."""
  first = spec.global_first
  return {} if not spec.local_radius else dict(
      use_sliding_window=True, sliding_window=spec.local_radius + 1, max_window_layers=first,
      layer_types=[_FULL if i < first else _SLIDING for i in range(spec.num_layers)])


def _write_qwen2(spec):
  config = decoder.write(spec, "qwen2", "Qwen2ForCausalLM", qkv_bias=True, local_radius=None,
                         global_first=None) | _windows(spec)
  left_out = ["attention_bias", "mlp_bias"]
  # Its class reads a width of heads, but has none of its own.
  left_out += ["head_dim"] if spec.per_head * spec.num_heads == spec.width else []
  return {k: v for k, v in config.items() if k not in left_out}


def _write_qwen3(spec):
  config = decoder.write(spec, "qwen3", "Qwen3ForCausalLM", qk_norm=True, use_bias=False,
                         qkv_bias=spec.o_bias, o_bias=spec.qkv_bias, local_radius=None,
                         global_first=None) | _windows(spec)
  return {k: v for k, v in config.items() if k != "mlp_bias"}


QWEN2 = family.Family(
    model_type="qwen2", architectures=("Qwen2ForCausalLM",),
    to_fields=lambda config: _read(config, defaults=_DEFAULTS) | {"qkv_bias": True},
    to_config=_write_qwen2, tensors=decoder.tensors, objective=decoder.causal,
    beside=decoder.BESIDE, bodies=("Qwen2Model",), prefix="model.")
QWEN3 = family.Family(
    model_type="qwen3", architectures=("Qwen3ForCausalLM",),
    to_fields=lambda config: _read(
        config, defaults=_DEFAULTS | {"head_dim": 128},
        allowed=dict(attention_bias=(False, True))) | {"qk_norm": True},
    to_config=_write_qwen3, tensors=decoder.tensors, objective=decoder.causal,
    bodies=("Qwen3Model",), prefix="model.")
