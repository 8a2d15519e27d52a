"""LLaDA: LLaDA-8B-Base and -Instruct, LLaDA 1.5, with full or grouped keys and values.

Contents: FAMILY.

Convention: the rows of the embedding (`embedding_size`) are all ordinary ids. Left padding is
said by `segment_ids`, and `positions` count from the first real token.

Reference: Nie et al. 2025, arXiv:2502.09992.
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx.interop import family
from mdx.networks import transformer

_SIZES = ("d_model", "n_heads", "n_layers", "vocab_size")
# What the published class takes where config.json is silent.
_DEFAULTS = dict(block_type="sequential", block_group_size=1, activation_type="swiglu", rope=False,
                 layer_norm_type="default", layer_norm_with_affine=True, n_kv_heads=None,
                 multi_query_attention=None, mlp_ratio=4, mlp_hidden_size=None, rms_norm_eps=1e-5,
                 rope_theta=10000.0, max_sequence_length=1024, embedding_size=None,
                 weight_tying=True)
# The options that change the function, with the values that we compute. Rotary angles are
# always float32, which is all that `rope_full_precision` asks for.
_ABSENT = (False, None)
_ALLOWED = dict(
    block_type=("llama",), block_group_size=(1,), activation_type=("silu",), rope=(True,),
    alibi=_ABSENT, clip_qkv=(None,), attention_layer_norm=_ABSENT, input_emb_norm=_ABSENT,
    layer_norm_type=("rms",), layer_norm_with_affine=(True,), include_bias=_ABSENT,
    include_qkv_bias=_ABSENT, bias_for_layer_norm=_ABSENT, scale_logits=_ABSENT,
    weight_tying=(True, False))
_FIXED = dict(mlp="swiglu", norm="rms", position="rope")


def _to_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  options = family.read_options(config, sizes=_SIZES, defaults=_DEFAULTS, allowed=_ALLOWED)
  heads = config["n_heads"]
  grouped = 1 if options["multi_query_attention"] else heads
  kv_heads = options["n_kv_heads"] or grouped
  if options["multi_query_attention"] is not None and kv_heads != grouped:
    raise ValueError(f"n_kv_heads {kv_heads} contradicts multi_query_attention = "
                     f"{options['multi_query_attention']}; keep one of the two.")
  rows = options["embedding_size"] or config["vocab_size"]
  if rows < config["vocab_size"]:
    raise ValueError(f"embedding_size {rows} is smaller than vocab_size "
                     f"{config['vocab_size']}.")
  return _FIXED | dict(
      num_layers=config["n_layers"], width=config["d_model"], num_heads=heads,
      num_kv_heads=kv_heads, vocab_size=rows,
      mlp_width=options["mlp_hidden_size"] or options["mlp_ratio"] * config["d_model"],
      norm_eps=options["rms_norm_eps"], rope_theta=float(options["rope_theta"]),
      max_length=options["max_sequence_length"], tied=options["weight_tying"])


def _to_config(spec: transformer.Transformer) -> dict[str, Any]:
  if spec.per_head * spec.num_heads != spec.width:
    raise ValueError(f"network.head_dim {spec.head_dim} cannot be exported as 'llada', whose heads "
                     f"have width / num_heads = {spec.width}/{spec.num_heads}.")
  family.check_fields(spec, "llada", _FIXED)
  constants = {key: values[0] for key, values in _ALLOWED.items() if values[0] is not None}
  return constants | dict(
      architectures=["LLaDAModelLM"], model_type="llada", d_model=spec.width,
      n_heads=spec.num_heads, n_kv_heads=spec.kv_heads, n_layers=spec.num_layers,
      mlp_hidden_size=spec.hidden_width, rms_norm_eps=spec.norm_eps, rope_theta=spec.rope_theta,
      rope_full_precision=True, max_sequence_length=spec.max_length, vocab_size=spec.vocab_size,
      embedding_size=spec.vocab_size, weight_tying=spec.tied, attention_dropout=0.0,
      residual_dropout=0.0, embedding_dropout=0.0, init_std=spec.init_std, use_cache=False)


def _tensors(spec: transformer.Transformer) -> dict[str, family.Tensor]:
  block = "model.transformer.blocks.{layer}."
  table = {
      "embed/embedding": family.Tensor("model.transformer.wte.weight"),
      "layers/attention_norm/scale": family.Tensor(block + "attn_norm.weight"),
      "layers/mlp_norm/scale": family.Tensor(block + "ff_norm.weight"),
      "final_norm/scale": family.Tensor("model.transformer.ln_f.weight"),
  }
  for path, name in (("attention/q", "q_proj"), ("attention/k", "k_proj"),
                     ("attention/v", "v_proj"), ("attention/o", "attn_out"),
                     ("mlp/gate", "ff_proj"), ("mlp/up", "up_proj"), ("mlp/down", "ff_out")):
    table |= family.linear(f"layers/{path}", block + name)
  if not spec.tied:
    table |= family.linear("lm_head", "model.transformer.ff_out")
  return table


FAMILY = family.Family(model_type="llada", architectures=("LLaDAModelLM",), to_fields=_to_fields,
                       to_config=_to_config, tensors=_tensors,
                       # Its loss and decoders keep the column of the mask id.
                       objective=lambda config: {"name": "diffusion", "mask_column": True},
                       # The defaults of its authors' generate.py.
                       decoding=lambda config: dict(name="confidence", gen_length=128, steps=128,
                                                    block_length=32, temperature=0.0))
