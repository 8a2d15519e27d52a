"""LLaDA2.0 and 2.1 (mini, flash): block diffusion with sigmoid-routed experts in groups.

Contents: FAMILY.

Convention: queries, keys and values are one stored matrix, and half of each head is rotated. The
first `first_k_dense_replace` blocks have an MLP. The bias of the experts chooses, and is in no
weight. A block has 32 tokens; config.json does not say it. Its code comes with the weights and is
copied on export.

Reference: Bie et al. 2025, arXiv:2512.15745.
"""

from __future__ import annotations

from typing import Any

from mdx.interop import decoder
from mdx.interop import family

_BLOCK = 32
# What the published class takes where config.json is silent.
_DEFAULTS = dict(
    use_qkv_bias=False, use_bias=True, rms_norm_eps=1e-5, max_position_embeddings=16384,
    rope_theta=10000.0, partial_rotary_factor=0.5, n_group=8, topk_group=4,
    num_experts=16, num_experts_per_tok=2, routed_scaling_factor=2.5, norm_topk_prob=True,
    norm_head=False, score_function="sigmoid", moe_router_enable_expert_bias=True)
_ALLOWED = dict(use_qkv_bias=(False, True), use_bias=(False, True), norm_head=(False,),
                norm_topk_prob=(True,), score_function=("sigmoid",),
                moe_router_enable_expert_bias=(True,))


def _to_fields(config):
  options = _DEFAULTS | dict(config)
  shared, first = (options.get(name) or 0 for name in ("num_shared_experts",
                                                       "first_k_dense_replace"))
  fields = decoder.read(options, defaults=_DEFAULTS, allowed=_ALLOWED | dict(
      hidden_act=("silu",)))
  if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in (shared, first)):
    raise ValueError(f"num_shared_experts {shared!r:.40} and first_k_dense_replace {first!r:.40} "
                     "are expected to be whole numbers.")
  width = config["moe_intermediate_size"]
  return fields | dict(
      qk_norm=True, qkv_bias=options["use_qkv_bias"], o_bias=options["use_bias"],
      rotary_share=float(options["partial_rotary_factor"]), experts=dict(
          number=options["num_experts"], per_token=options["num_experts_per_tok"], width=width,
          router="sigmoid", is_normalized=options["num_experts_per_tok"] > 1,
          scale=float(options["routed_scaling_factor"]), shared_width=shared * width,
          groups=options["n_group"], groups_per_token=options["topk_group"], has_bias=True,
          first_dense=first))


def _to_config(spec):
  own = spec.experts
  if own is None or own.router != "sigmoid" or not own.has_bias or own.shared_width % own.width or (
      own.is_normalized != (own.per_token > 1)):
    raise ValueError(f"network.experts {own!r} cannot be exported as 'llada2_moe', whose "
                     "routers are sigmoid with a bias and normalised weights, and whose shared "
                     "expert is as wide as some of the others.")
  config = decoder.write(spec, "llada2_moe", "LLaDA2MoeModelLM", experts=None, qk_norm=True,
                         qkv_bias=None, o_bias=None, rotary_share=None)
  left_out = ("attention_bias", "mlp_bias", "rope_parameters")
  return {k: v for k, v in config.items() if k not in left_out} | dict(
      use_qkv_bias=spec.qkv_bias, use_bias=spec.o_bias, use_qk_norm=True, norm_head=False,
      num_experts=own.number, num_experts_per_tok=own.per_token, moe_intermediate_size=own.width,
      num_shared_experts=own.shared_width // own.width, n_group=own.groups,
      topk_group=own.groups_per_token, routed_scaling_factor=own.scale,
      first_k_dense_replace=own.first_dense, partial_rotary_factor=spec.rotary_share,
      norm_topk_prob=True, score_function="sigmoid", moe_router_enable_expert_bias=True,
      embedding_dropout=0.0, output_dropout=0.0)


def _tensors(spec):
  block, first = "model.layers.{layer}.", spec.experts.first_dense
  table = {"embed/embedding": family.Tensor("model.word_embeddings.weight",
                                            also=("lm_head.weight",) if spec.tied else ()),
           "final_norm/scale": family.Tensor("model.norm.weight")}
  heads = spec.num_heads + 2 * spec.kv_heads
  bounds = (0, spec.num_heads, spec.num_heads + spec.kv_heads, heads)
  for stack, begin in (("layers", first), ("first_layers", 0))[:2 if first else 1]:
    at: dict[str, Any] = dict(begin=begin)
    for name, theirs in (("attention", "input"), ("mlp", "post_attention")):
      table[f"{stack}/{name}_norm/scale"] = family.Tensor(f"{block}{theirs}_layernorm.weight", **at)
    for i, name in enumerate("qkv"):
      table |= family.linear(f"{stack}/attention/{name}", f"{block}attention.query_key_value",
                             has_bias=spec.qkv_bias, part=(bounds[i], bounds[i + 1], heads), **at)
    table |= family.linear(f"{stack}/attention/o", f"{block}attention.dense", has_bias=spec.o_bias,
                           **at)
    for name, theirs in (("q", "query"), ("k", "key")):
      table[f"{stack}/attention/{name}_norm/scale"] = family.Tensor(
          f"{block}attention.{theirs}_layernorm.weight", **at)
  table |= decoder.mlp(spec, block)
  return table | ({} if spec.tied else family.linear("lm_head", "lm_head"))


FAMILY = family.Family(
    model_type="llada2_moe", architectures=("LLaDA2MoeModelLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors,
    objective=lambda config: {"name": "block_diffusion", "mask_column": True,
                              "attention": {"name": "block_causal", "block_length": _BLOCK}})
