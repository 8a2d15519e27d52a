"""Mixtures of experts with the body of Qwen3: Qwen3-MoE, SDAR-MoE and LLaDA-MoE.

Contents: QWEN3, SDAR, LLADA.

Convention: every block has experts. LLaDA-MoE says `model_type` llada, as the dense LLaDA does;
its class tells them apart.

References: Yang et al. 2025, arXiv:2505.09388 (Qwen3); Cheng et al. 2025, arXiv:2510.06303 (SDAR);
Zhu et al. 2025, arXiv:2509.24389 (LLaDA-MoE).
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family
from mdx.interop import hf_llada
from mdx.interop import hf_sdar

_ROUTER = dict(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
_QWEN = _ROUTER | dict(norm_topk_prob=False, decoder_sparse_step=1, head_dim=128,
                       num_key_value_heads=4, max_position_embeddings=32768)
_QWEN_ALLOWED = dict(attention_bias=(False, True), norm_topk_prob=(True, False),
                     decoder_sparse_step=(1,))


def _of_qwen(config):
  fields = decoder.read(config, defaults=_QWEN, allowed=_QWEN_ALLOWED)
  if config.get("mlp_only_layers"):
    raise ValueError(f"mlp_only_layers is {config['mlp_only_layers']!r:.60}; expected none.")
  options = _QWEN | dict(config)
  options["num_experts"] = config.get("num_local_experts", options["num_experts"])
  return fields | dict(qk_norm=True, experts=dict(
      number=options["num_experts"], per_token=options["num_experts_per_tok"],
      width=options["moe_intermediate_size"], is_normalized=options["norm_topk_prob"]))


def _written(spec, model_type, architecture, **allowed):
  own = spec.experts
  if own is None:
    raise ValueError(f"network.experts is empty and cannot be exported as {model_type!r}, whose "
                     "blocks have experts.")
  for name, wanted in (("router", "softmax"), ("scale", 1.0), ("shared_width", 0), ("groups", 1),
                       ("has_bias", False), ("first_dense", 0)):
    if getattr(own, name) != wanted:
      raise ValueError(f"network.experts.{name} = {getattr(own, name)!r} cannot be exported as "
                       f"{model_type!r}, whose models have {wanted!r}.")
  config = decoder.write(spec, model_type, architecture, experts=None, **allowed)
  return {k: v for k, v in config.items() if k != "mlp_bias"} | dict(
      num_experts=own.number, num_experts_per_tok=own.per_token, norm_topk_prob=own.is_normalized)


def _write_qwen(spec):
  config = _written(spec, "qwen3_moe", "Qwen3MoeForCausalLM", qk_norm=True, use_bias=False,
                    qkv_bias=spec.o_bias, o_bias=spec.qkv_bias)
  return config | dict(moe_intermediate_size=spec.experts.width, decoder_sparse_step=1,
                       mlp_only_layers=[])


QWEN3 = family.Family(
    model_type="qwen3_moe", architectures=("Qwen3MoeForCausalLM",), to_fields=_of_qwen,
    to_config=_write_qwen, tensors=decoder.tensors, objective=decoder.causal,
    bodies=("Qwen3MoeModel",), prefix="model.")
SDAR = family.alias(QWEN3, "sdar_moe", "SDARMoeForCausalLM", objective=hf_sdar.FAMILY.objective)

_LLADA = dict(moe_router_score_function="softmax", moe_router_enable_expert_bias=False,
              shared_expert_intermediate_size=None, norm_topk_prob=None, qk_layernorm=None,
              clip_qkv=None, routed_scaling_factor=1, partial_rotary_factor=1,
              rms_norm_eps=1e-5, max_position_embeddings=4096, num_experts=64,
              num_experts_per_tok=8, expert_intermediate_size=1024, dense_intermediate_size=8192)
_ABSENT = (False, None)
_LLADA_ALLOWED = dict(
    moe_router_score_function=("softmax",), moe_router_enable_expert_bias=_ABSENT,
    shared_expert_intermediate_size=(None,), norm_topk_prob=_ABSENT,
    qk_layernorm=(True, False, None), clip_qkv=(None,),
    routed_scaling_factor=(1, 1.0, None), partial_rotary_factor=(1, 1.0),
    attention_bias=_ABSENT, head_dim=(None,))


def _of_llada(config):
  options = _LLADA | dict(config)
  options["intermediate_size"] = options["dense_intermediate_size"]  # of blocks without experts
  fields = decoder.read(options, allowed=_LLADA_ALLOWED)
  layers = options.get("moe_layer_freq") or [1] * fields["num_layers"]
  if set(layers) != {1} or len(layers) != fields["num_layers"]:
    raise ValueError(f"moe_layer_freq is {layers!r:.60}; expected 1 for each of the "
                     f"{fields['num_layers']} layers.")
  return fields | dict(qk_norm=bool(options["qk_layernorm"]), mlp_width=0, experts=dict(
      number=options["num_experts"], per_token=options["num_experts_per_tok"],
      width=options["expert_intermediate_size"], is_normalized=False))


def _write_llada(spec):
  if spec.per_head * spec.num_heads != spec.width:
    raise ValueError(f"network.head_dim {spec.head_dim} cannot be exported as 'llada_moe', whose "
                     f"heads have width / num_heads = {spec.width}/{spec.num_heads}.")
  config = _written(spec, "llada", "LLaDAMoEModelLM", qk_norm=None)
  if spec.experts.is_normalized:
    raise ValueError("network.experts.is_normalized = True cannot be exported as 'llada_moe', "
                     "whose models have False.")
  left_out = ("intermediate_size", "head_dim", "rope_parameters", "use_sliding_window")
  return {k: v for k, v in config.items() if k not in left_out} | dict(
      norm_topk_prob=None, qk_layernorm=spec.qk_norm, moe_layer_freq=[1] * spec.num_layers,
      moe_router_enable_expert_bias=False, moe_router_score_function="softmax",
      routed_scaling_factor=1, shared_expert_intermediate_size=None, partial_rotary_factor=1,
      expert_intermediate_size=spec.experts.width, dense_intermediate_size=spec.hidden_width)


LLADA = family.Family(
    model_type="llada", key="llada_moe", architectures=("LLaDAMoEModelLM",), to_fields=_of_llada,
    to_config=_write_llada, tensors=decoder.tensors, objective=hf_llada.FAMILY.objective,
    decoding=hf_llada.FAMILY.decoding)
