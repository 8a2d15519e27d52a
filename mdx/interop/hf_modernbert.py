"""ModernBERT: a pre-norm encoder with rotary positions and local layers.

Contents: FAMILY.

Convention: queries, keys and values are one stored matrix, and so are both inputs of the gated MLP.
The first block has no norm before attention. Every third layer is global; the others see half of
`local_attention` places on both sides, and have rotary angles of their own.

Reference: Warner et al. 2024, arXiv:2412.13663.
"""

from __future__ import annotations

from mdx.interop import family

_SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size",
          "vocab_size")
_DEFAULTS = dict(
    hidden_activation="gelu", classifier_activation="gelu", max_position_embeddings=8192,
    norm_eps=1e-5, norm_bias=False, attention_bias=False, mlp_bias=False, classifier_bias=False,
    decoder_bias=True, local_attention=128, global_attn_every_n_layers=3, tie_word_embeddings=True)
_THETAS = {"full_attention": ("global_rope_theta", 160000.0),
           "sliding_attention": ("local_rope_theta", 10000.0)}
_ALLOWED = dict(
    hidden_activation=("gelu",), classifier_activation=("gelu",), norm_bias=(True, False),
    attention_bias=(True, False), mlp_bias=(True, False), classifier_bias=(True, False),
    decoder_bias=(True, False), tie_word_embeddings=(True, False))
_FIXED = dict(mlp="geglu_erf", norm="layer", position="rope", embed_norm=True, first_norm=False,
              head_transform=True)
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def _to_fields(config):
  options = family.read_options(config, sizes=_SIZES, defaults=_DEFAULTS, allowed=_ALLOWED)
  biases = {options[name] for name in ("attention_bias", "mlp_bias", "classifier_bias")}
  if len(biases) > 1:
    raise ValueError("attention_bias, mlp_bias and classifier_bias differ; the transformer has all "
                     "or none.")
  every, radius = _every(options), options["local_attention"] // 2
  thetas = [_theta(options, kind) for kind in (_GLOBAL, _LOCAL)]
  return _FIXED | dict(
      num_layers=config["num_hidden_layers"], width=config["hidden_size"],
      num_heads=config["num_attention_heads"], mlp_width=config["intermediate_size"],
      vocab_size=config["vocab_size"], norm_eps=options["norm_eps"], norm_bias=options["norm_bias"],
      use_bias=biases.pop(), head_bias=options["decoder_bias"],
      max_length=options["max_position_embeddings"], tied=options["tie_word_embeddings"],
      rope_theta=thetas[0], local_rope_theta=thetas[1], local_radius=radius if every != 1 else 0,
      global_every=every if every != 1 else 0)


def _every(options):
  """Of how many layers the first is global."""
  kinds = options.get("layer_types")
  if not kinds:
    return options["global_attn_every_n_layers"]
  every = next((i for i, kind in enumerate(kinds) if i and kind == _GLOBAL), len(kinds))
  if list(kinds) != [_LOCAL if i % every else _GLOBAL for i in range(len(kinds))] or (
      len(kinds) != options["num_hidden_layers"]):
    raise ValueError(f"layer_types {kinds} is not one {_GLOBAL!r} in every so many of the "
                     f"{options['num_hidden_layers']} layers, beginning with the first.")
  return every


def _theta(options, kind):
  given = (options.get("rope_parameters") or {}).get(kind) or {}
  if given.get("rope_type", "default") != "default" or options.get("rope_scaling"):
    raise ValueError("rope_scaling is not supported in models of type 'modernbert'.")
  name, default = _THETAS[kind]
  theta = given.get("rope_theta", options.get(name, default))
  if theta is None and kind == _LOCAL:  # published configs may so mean the global one
    return _theta(options, _GLOBAL)
  if not family.is_positive(theta):
    raise ValueError(f"{name} is {theta!r:.40}; expected a positive number.")
  return float(theta)


def _to_config(spec):
  free = dict.fromkeys(("norm_bias", "use_bias", "head_bias", "local_rope_theta", "local_radius",
                        "global_every"))
  family.check_fields(spec, "modernbert", _FIXED | free)
  if spec.per_head * spec.num_heads != spec.width or spec.kv_heads != spec.num_heads:
    raise ValueError(f"heads {spec.num_heads}/{spec.kv_heads} of {spec.per_head} cannot be "
                     "exported as 'modernbert', whose heads are of one kind and fill the width.")
  every = (spec.global_every or spec.num_layers) if spec.local_radius else 1
  if spec.local_radius and not spec.global_every:
    raise ValueError("network.global_every = 0 cannot be exported as 'modernbert', whose first "
                     "layer is global.")
  local = spec.local_rope_theta or spec.rope_theta
  return dict(
      architectures=["ModernBertForMaskedLM"], model_type="modernbert", hidden_size=spec.width,
      num_attention_heads=spec.num_heads, num_hidden_layers=spec.num_layers,
      intermediate_size=spec.hidden_width, vocab_size=spec.vocab_size, norm_eps=spec.norm_eps,
      norm_bias=spec.norm_bias, attention_bias=spec.use_bias, mlp_bias=spec.use_bias,
      classifier_bias=spec.use_bias, decoder_bias=spec.head_bias, hidden_activation="gelu",
      classifier_activation="gelu", max_position_embeddings=spec.max_length,
      local_attention=2 * spec.local_radius or 128, global_attn_every_n_layers=every,
      layer_types=[_LOCAL if i % every else _GLOBAL for i in range(spec.num_layers)],
      global_rope_theta=spec.rope_theta, local_rope_theta=local,
      rope_parameters={_GLOBAL: {"rope_type": "default", "rope_theta": spec.rope_theta},
                       _LOCAL: {"rope_type": "default", "rope_theta": local}},
      tie_word_embeddings=spec.tied, initializer_range=spec.init_std, attention_dropout=0.0,
      embedding_dropout=0.0, mlp_dropout=0.0)


def _norm(spec, path, name, **fields):
  table = {f"{path}/scale": family.Tensor(f"{name}.weight", **fields)}
  return table | ({f"{path}/bias": family.Tensor(f"{name}.bias", **fields)} if spec.norm_bias
                  else {})


def _tensors(spec):
  block, biases = "model.layers.{layer}.", dict(has_bias=spec.use_bias)
  table = {"embed/embedding": family.Tensor("model.embeddings.tok_embeddings.weight",
                                            also=("decoder.weight",) if spec.tied else ())}
  for i, name in enumerate("qkv"):
    table |= family.linear(f"layers/attention/{name}", block + "attn.Wqkv", part=(i, i + 1, 3),
                           **biases)
  for i, name in enumerate(("gate", "up")):
    table |= family.linear(f"layers/mlp/{name}", block + "mlp.Wi", part=(i, i + 1, 2), **biases)
  table |= family.linear("layers/attention/o", block + "attn.Wo", **biases)
  table |= family.linear("layers/mlp/down", block + "mlp.Wo", **biases)
  table |= family.linear("head_dense", "head.dense", **biases)
  table |= _norm(spec, "embed_norm", "model.embeddings.norm")
  table |= _norm(spec, "layers/attention_norm", block + "attn_norm", first=1)
  table |= _norm(spec, "layers/mlp_norm", block + "mlp_norm")
  table |= _norm(spec, "final_norm", "model.final_norm") | _norm(spec, "head_norm", "head.norm")
  table |= {} if spec.tied else family.linear("lm_head", "decoder")
  return table | ({"lm_head/bias": family.Tensor("decoder.bias")} if spec.head_bias else {})


FAMILY = family.Family(
    model_type="modernbert", architectures=("ModernBertForMaskedLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors, objective=lambda config: {"name": "mlm"},
    bodies=("ModernBertModel",), prefix="model.", headed=dict(head_transform=True, head_bias=True),
    labelled=dict.fromkeys(  # with GELU and a norm
        ("ModernBertForSequenceClassification", "ModernBertForTokenClassification"),
        family.LabelHead("", {}, (r"(head|classifier)\..*",))))
