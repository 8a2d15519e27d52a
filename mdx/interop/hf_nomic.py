"""Nomic BERT: BERT with rotary positions and a gated MLP, without biases in its blocks.

Contents: FAMILY.

Convention: queries, keys and values are one stored matrix; `fc12` is the gate of `fc11`. Only a
config.json in the words of `transformers` is read, not that of the first published code.

Reference: Nussbaum et al. 2024, arXiv:2402.01613.
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family
from mdx.interop import hf_bert

_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu_erf"}
_THETA = 1000.0
_FIXED = dict(position="rope", use_bias=False, head_transform=True, head_bias=True,
              transform_bias=True)


def _to_fields(config):
  options = dict(max_position_embeddings=2048, rope_theta=_THETA) | config
  fields = hf_bert.read({"hidden_act": "silu", **options}, activations=_GATES)
  if config.get("head_dim") not in (None, fields["width"] // fields["num_heads"]):
    raise ValueError(f"head_dim = {config['head_dim']!r:.40} is not supported; expected heads that "
                     "fill hidden_size.")
  theta, scaling = decoder.rope(options)
  return fields | _FIXED | dict(rope_theta=theta, rope_scaling=scaling)


def _to_config(spec):
  config = hf_bert.write(spec, "nomic_bert", "NomicBertForMaskedLM", activations=_GATES, **_FIXED)
  return config | dict(head_dim=spec.per_head, rope_parameters={
      "rope_type": "default", "rope_theta": spec.rope_theta})


def _tensors(spec):
  body, block, head = "nomic_bert.", "nomic_bert.encoder.layers.{layer}.", "cls.predictions."
  table = {"embed/embedding": family.Tensor(
      f"{body}embeddings.word_embeddings.weight",
      also=(f"{head}decoder.weight",) if spec.tied else ()),
           "token_type_embed/embedding": family.Tensor(
               f"{body}embeddings.token_type_embeddings.weight")}
  for i, name in enumerate("qkv"):
    table |= family.linear(f"layers/attention/{name}", f"{block}attn.Wqkv", part=(i, i + 1, 3))
  for ours, theirs in (("attention/o", "attn.out_proj"), ("mlp/up", "mlp.fc11"),
                       ("mlp/gate", "mlp.fc12"), ("mlp/down", "mlp.fc2")):
    table |= family.linear(f"layers/{ours}", block + theirs)
  for ours, theirs in (("embed_norm", f"{body}emb_ln"), ("layers/attention_norm", f"{block}norm1"),
                       ("layers/mlp_norm", f"{block}norm2"),
                       ("head_norm", f"{head}transform.layer_norm")):
    table |= hf_bert.norm(ours, theirs)
  table |= family.linear("head_dense", f"{head}transform.dense", has_bias=True)
  return table | hf_bert.lm_head(spec, f"{head}decoder", f"{head}bias")


FAMILY = family.Family(
    model_type="nomic_bert", architectures=("NomicBertForMaskedLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors, objective=lambda config: {"name": "mlm"},
    bodies=("NomicBertModel",), prefix="nomic_bert.", headed={
        name: _FIXED[name] for name in ("head_transform", "head_bias", "transform_bias")},
    beside=(r"nomic_bert\.pooler\..*",))
