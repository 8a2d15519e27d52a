"""BERT, and what RoBERTa, ELECTRA and other encoders share with it.

Contents: ACTIVATIONS, FIXED, read, write, norm, body, lm_head, FAMILY.

Convention: the pooler and the next-sentence head are no part of the network.

Reference: Devlin et al. 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx.interop import family
from mdx.networks import transformer

_SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size",
          "vocab_size")
_DEFAULTS = dict(hidden_act="gelu", max_position_embeddings=512, type_vocab_size=2,
                 layer_norm_eps=1e-12, position_embedding_type="absolute", is_decoder=False,
                 add_cross_attention=False, tie_word_embeddings=True)
ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu",
                "gelu_fast": "gelu", "relu": "relu", "silu": "swish", "swish": "swish"}
_ALLOWED = dict(position_embedding_type=("absolute", None), is_decoder=(False, None),
                add_cross_attention=(False, None), tie_word_embeddings=(True, False))
FIXED = dict(norm="layer", post_norm=True, embed_norm=True, position="learned", use_bias=True)


def read(config: Mapping[str, Any], *, activations: Mapping[str, str] = ACTIVATIONS,
         **defaults: Any) -> dict[str, Any]:
  """Fields of the transformer that the body of an encoder has, from config.json."""
  options = family.read_options(config, sizes=_SIZES, defaults=_DEFAULTS | defaults,
                                allowed=_ALLOWED | dict(hidden_act=tuple(activations)))
  return FIXED | dict(
      num_layers=config["num_hidden_layers"], width=config["hidden_size"],
      num_heads=config["num_attention_heads"], mlp_width=config["intermediate_size"],
      mlp=activations[options["hidden_act"]], norm_eps=options["layer_norm_eps"],
      max_length=options["max_position_embeddings"], token_types=options["type_vocab_size"],
      vocab_size=config["vocab_size"], tied=options["tie_word_embeddings"])


def write(spec: transformer.Transformer, model_type: str, architecture: str, *,
          activations: Mapping[str, str] = ACTIVATIONS, needs_types: bool = True,
          **allowed: Any) -> dict[str, Any]:
  """Entries of config.json.

  Args:
    spec: the model.
    model_type, architecture: of the family.
    activations: their name -> ours, of those that the family has.
    needs_types: whether every model of the family has token types.
    **allowed: as `family.check_fields` takes them, over `FIXED`.

  Raises:
    ValueError: the family has no such model.
  """
  family.check_fields(spec, model_type, FIXED | dict(mlp=None, token_types=None) | allowed)
  names = {ours: theirs for theirs, ours in reversed(activations.items())}
  if (spec.mlp not in names or (needs_types and not spec.token_types)
      or spec.kv_heads != spec.num_heads or spec.per_head * spec.num_heads != spec.width):
    types = ", token types," if needs_types else ""
    raise ValueError(f"a network with mlp {spec.mlp}, {spec.token_types} token types and heads "
                     f"{spec.num_heads}/{spec.kv_heads} of {spec.per_head} cannot be exported as "
                     f"{model_type!r}; it needs mlp {' or '.join(names)}{types} and heads of one "
                     "kind that fill the width.")
  return dict(
      architectures=[architecture], model_type=model_type, hidden_size=spec.width,
      num_attention_heads=spec.num_heads, num_hidden_layers=spec.num_layers,
      intermediate_size=spec.hidden_width, hidden_act=names[spec.mlp], vocab_size=spec.vocab_size,
      layer_norm_eps=spec.norm_eps, max_position_embeddings=spec.max_length,
      type_vocab_size=spec.token_types, tie_word_embeddings=spec.tied,
      initializer_range=spec.init_std, is_decoder=False)


def norm(path: str, name: str) -> dict[str, family.Tensor]:
  """A norm; files converted long ago call its parameters gamma and beta."""
  return {f"{path}/scale": family.Tensor(f"{name}.weight", also=(f"{name}.gamma",)),
          f"{path}/bias": family.Tensor(f"{name}.bias", also=(f"{name}.beta",))}


def body(prefix: str, tied_to: tuple[str, ...] = ()) -> dict[str, family.Tensor]:
  """Parameter path -> tensor, of all but the head; `tied_to` names copies of the embedding."""
  embeddings, block = f"{prefix}.embeddings.", prefix + ".encoder.layer.{layer}."
  table = {"embed/embedding": family.Tensor(embeddings + "word_embeddings.weight", also=tied_to)}
  for name in ("position", "token_type"):
    table[f"{name}_embed/embedding"] = family.Tensor(f"{embeddings}{name}_embeddings.weight")
  table |= norm("embed_norm", embeddings + "LayerNorm")
  for ours, theirs in (("attention/q", "attention.self.query"),
                       ("attention/k", "attention.self.key"),
                       ("attention/v", "attention.self.value"),
                       ("attention/o", "attention.output.dense"),
                       ("mlp/up", "intermediate.dense"), ("mlp/down", "output.dense")):
    table |= family.linear(f"layers/{ours}", block + theirs, has_bias=True)
  return table | norm("layers/attention_norm", block + "attention.output.LayerNorm") | norm(
      "layers/mlp_norm", block + "output.LayerNorm")


def lm_head(spec: transformer.Transformer, decoder: str, bias: str) -> dict[str, family.Tensor]:
  """The matrix of an untied head, and the bias, which files may have twice."""
  names = (bias, f"{decoder}.bias") if spec.tied else (f"{decoder}.bias", bias)
  table = {} if spec.tied else family.linear("lm_head", decoder)
  return table | {"lm_head/bias": family.Tensor(names[0], also=names[1:], used=f"{decoder}.bias")}


def _tensors(spec):
  decoder = "cls.predictions.decoder"
  return (body("bert", (f"{decoder}.weight",) if spec.tied else ())
          | family.linear("head_dense", "cls.predictions.transform.dense", has_bias=True)
          | norm("head_norm", "cls.predictions.transform.LayerNorm")
          | lm_head(spec, decoder, "cls.predictions.bias"))


_HEAD = dict(head_transform=True, head_bias=True)
FAMILY = family.Family(
    model_type="bert", architectures=("BertForMaskedLM", "BertForPreTraining"),
    to_fields=lambda config: read(config) | _HEAD,
    to_config=lambda spec: write(spec, "bert", "BertForMaskedLM", **_HEAD),
    tensors=_tensors, objective=lambda config: {"name": "mlm"}, bodies=("BertModel",),
    prefix="bert.", headed=_HEAD, labelled={
        "BertForSequenceClassification": family.LabelHead(
            "pooled_first", family.linear("dense", "bert.pooler.dense", has_bias=True)
            | family.linear("out", "classifier", has_bias=True)),
        "BertForTokenClassification": family.WORDS},
    beside=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*", r"bert\.embeddings\.position_ids"))
