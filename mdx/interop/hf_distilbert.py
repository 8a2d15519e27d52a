"""DistilBERT: BERT's body without token types, under names of its own.

Contents: FAMILY.

Reference: Sanh et al. 2019, arXiv:1910.01108.
"""

from __future__ import annotations

from mdx.interop import family
from mdx.interop import hf_bert

_SIZES = ("dim", "n_heads", "n_layers", "hidden_dim", "vocab_size")
_DEFAULTS = dict(activation="gelu", max_position_embeddings=512, tie_word_embeddings=True)
_EPS = 1e-12  # of the norms of every model
_HEAD = dict(head_transform=True, head_bias=True)
# Our name in an encoder's config.json -> its name here.
_NAMES = dict(hidden_size="dim", num_attention_heads="n_heads", num_hidden_layers="n_layers",
              intermediate_size="hidden_dim", hidden_act="activation")
_SAME = ("architectures", "model_type", "vocab_size", "max_position_embeddings",
         "tie_word_embeddings", "initializer_range")


def _to_fields(config):
  options = family.read_options(
      config, sizes=_SIZES, defaults=_DEFAULTS, allowed=dict(
          activation=tuple(hf_bert.ACTIVATIONS), tie_word_embeddings=(True, False)))
  named = {ours: options[theirs] for ours, theirs in _NAMES.items()}
  fields = hf_bert.read({**options, **named, "layer_norm_eps": _EPS, "type_vocab_size": 1})
  return fields | _HEAD | dict(token_types=0)


def _to_config(spec):
  config = hf_bert.write(spec, "distilbert", "DistilBertForMaskedLM", needs_types=False,
                         token_types=0, **_HEAD)
  if spec.norm_eps != _EPS:
    raise ValueError(f"network.norm_eps = {spec.norm_eps} cannot be exported as 'distilbert', "
                     f"whose models have {_EPS}.")
  return {name: config[name] for name in _SAME} | {
      theirs: config[ours] for ours, theirs in _NAMES.items()}


def _tensors(spec):
  body, block = "distilbert.embeddings.", "distilbert.transformer.layer.{layer}."
  head = "vocab_projector"
  table = {"embed/embedding": family.Tensor(f"{body}word_embeddings.weight",
                                            also=(f"{head}.weight",) if spec.tied else ()),
           "position_embed/embedding": family.Tensor(f"{body}position_embeddings.weight")}
  table |= hf_bert.norm("embed_norm", f"{body}LayerNorm")
  for ours, theirs in (("attention/q", "attention.q_lin"), ("attention/k", "attention.k_lin"),
                       ("attention/v", "attention.v_lin"), ("attention/o", "attention.out_lin"),
                       ("mlp/up", "ffn.lin1"), ("mlp/down", "ffn.lin2")):
    table |= family.linear(f"layers/{ours}", block + theirs, has_bias=True)
  table |= hf_bert.norm("layers/attention_norm", f"{block}sa_layer_norm")
  table |= hf_bert.norm("layers/mlp_norm", f"{block}output_layer_norm")
  table |= family.linear("head_dense", "vocab_transform", has_bias=True)
  table |= hf_bert.norm("head_norm", "vocab_layer_norm")
  table |= {} if spec.tied else family.linear("lm_head", head)
  return table | {"lm_head/bias": family.Tensor(f"{head}.bias")}


FAMILY = family.Family(
    model_type="distilbert", architectures=("DistilBertForMaskedLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors, objective=lambda config: {"name": "mlm"},
    bodies=("DistilBertModel",), prefix="distilbert.", headed=_HEAD, labelled={
        "DistilBertForSequenceClassification": family.LabelHead(
            "", {}, (r"(pre_)?classifier\..*",)),  # with ReLU
        "DistilBertForTokenClassification": family.WORDS},
    beside=(r"distilbert\.embeddings\.position_ids",))
