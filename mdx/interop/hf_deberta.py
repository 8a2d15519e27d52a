"""DeBERTa-v2 and -v3: BERT's blocks with disentangled attention.

Contents: FAMILY.

Convention: published files have the head under `lm_predictions`, which `transformers` reads with
legacy=False alone; classes of `transformers` have it under `cls.predictions`. Both are read,
whatever config.json says, and an export without a directory writes the second.

References: He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543.
"""

from __future__ import annotations

from mdx.interop import family
from mdx.interop import hf_bert
from mdx.networks import disentangled

_DEFAULTS = dict(layer_norm_eps=1e-7, type_vocab_size=0, relative_attention=False,
                 max_relative_positions=-1, position_buckets=-1, position_biased_input=True,
                 pos_att_type=None, share_att_key=False, norm_rel_ebd="none", conv_kernel_size=0,
                 legacy=True)
_SWITCHES = ("relative_attention", "position_biased_input", "share_att_key", "legacy")
_HEAD = dict(head_transform=True, head_bias=True)
_NORMED = {"none": False, "layer_norm": True}


def _kinds(value):
  kinds = value.lower().split("|") if isinstance(value, str) else value or []
  if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
    raise ValueError(f"pos_att_type is {value!r:.60}; expected a list of c2p and p2c.")
  return tuple(kind.strip() for kind in kinds if kind.strip())


def _to_fields(config):
  options = {**_DEFAULTS, **config}
  for name in _SWITCHES:
    if not isinstance(options[name], bool):
      raise ValueError(f"{name} is {options[name]!r:.40}; expected true or false.")
  if options["conv_kernel_size"]:
    raise ValueError(f"conv_kernel_size = {options['conv_kernel_size']!r:.40} is not supported; "
                     "there is no convolution here: expected 0 (DeBERTa-v3, or v2 without it).")
  for name, own in (("embedding_size", options.get("hidden_size")), ("attention_head_size", None)):
    if options.get(name, own) not in (None, own):
      raise ValueError(f"{name} = {options[name]!r:.40} is not supported; leave it out.")
  types = options["type_vocab_size"]
  if isinstance(types, bool) or not isinstance(types, int) or not 0 <= types <= 2**20:
    raise ValueError(f"type_vocab_size is {types!r:.40}; expected a number of token types, or 0.")
  fields = hf_bert.read(config | dict(type_vocab_size=types or 1),
                        layer_norm_eps=_DEFAULTS["layer_norm_eps"])
  return fields | _HEAD | dict(
      token_types=types, position="learned" if options["position_biased_input"] else "none",
      disentangled=_disentangled(options, fields["max_length"]))


def _disentangled(options, length):
  kinds, is_relative = _kinds(options["pos_att_type"]), options["relative_attention"]
  if is_relative != bool(kinds) or set(kinds) - set(disentangled.KINDS):
    raise ValueError(f"relative_attention = {is_relative} with pos_att_type "
                     f"{options['pos_att_type']!r:.60} is not supported; expected True with "
                     f"{' or '.join(disentangled.KINDS)} or both, or False with none.")
  if not is_relative:
    return None
  for name in ("max_relative_positions", "position_buckets"):
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**20:
      raise ValueError(f"{name} is {value!r:.40}; expected a number of positions, or -1.")
  if options["norm_rel_ebd"] not in _NORMED:
    raise ValueError(f"norm_rel_ebd = {options['norm_rel_ebd']!r:.60} is not supported; expected "
                     f"{' or '.join(_NORMED)}.")
  return disentangled.Disentangled(
      max_distance=options["max_relative_positions"] if options["max_relative_positions"] > 0
      else length, buckets=max(options["position_buckets"], 0), kinds=kinds,
      is_shared=options["share_att_key"], is_normed=_NORMED[options["norm_rel_ebd"]])


def _to_config(spec):
  is_absolute, own = spec.position == "learned", spec.disentangled
  config = hf_bert.write(
      spec, "deberta-v2", "DebertaV2ForMaskedLM", needs_types=False, disentangled=None,
      position="learned" if is_absolute else "none", **_HEAD)
  config |= dict(position_biased_input=is_absolute, relative_attention=own is not None, legacy=True,
                 conv_kernel_size=0)
  return config if own is None else config | dict(
      max_relative_positions=own.max_distance, position_buckets=own.buckets or -1,
      pos_att_type=list(own.kinds), share_att_key=own.is_shared,
      norm_rel_ebd="layer_norm" if own.is_normed else "none")


def _tensors(spec):
  body, block = "deberta.embeddings.", "deberta.encoder.layer.{layer}."
  own, decoder = spec.disentangled, "cls.predictions.decoder"
  table = {"embed/embedding": family.Tensor(f"{body}word_embeddings.weight",
                                            also=(f"{decoder}.weight",) if spec.tied else ())}
  for name, is_there in (("position", spec.position == "learned"),
                         ("token_type", spec.token_types)):
    if is_there:
      table[f"{name}_embed/embedding"] = family.Tensor(f"{body}{name}_embeddings.weight")
  table |= hf_bert.norm("embed_norm", f"{body}LayerNorm")
  linears = [(f"attention/{name[0]}", f"attention.self.{name}_proj")
             for name in ("query", "key", "value")]
  linears += [("attention/o", "attention.output.dense"), ("mlp/up", "intermediate.dense"),
              ("mlp/down", "output.dense")]
  if own is not None:
    table["relative_embed/embedding"] = family.Tensor("deberta.encoder.rel_embeddings.weight")
    if own.is_normed:
      table |= hf_bert.norm("relative_norm", "deberta.encoder.LayerNorm")
    linears += [(f"attention/{ours}", f"attention.self.{theirs}") for kind, ours, theirs in (
        ("c2p", "table_k", "pos_key_proj"), ("p2c", "table_q", "pos_query_proj"))
                if kind in own.kinds and not own.is_shared]
  for ours, theirs in linears:
    table |= family.linear(f"layers/{ours}", block + theirs, has_bias=True)
  table |= hf_bert.norm("layers/attention_norm", f"{block}attention.output.LayerNorm")
  table |= hf_bert.norm("layers/mlp_norm", f"{block}output.LayerNorm")
  return table | _head(spec, decoder)


def _head(spec, decoder):
  """The head, which files may have under either name."""
  head, other = "cls.predictions.", "lm_predictions.lm_head."
  plain = family.linear("head_dense", f"{head}transform.dense", has_bias=True)
  plain |= hf_bert.norm("head_norm", f"{head}transform.LayerNorm")
  plain |= hf_bert.lm_head(spec, decoder, f"{head}bias")

  def both(tensor):
    names = (tensor.name, *tensor.also)
    found = [name.replace(f"{head}transform.", other).replace(head, other) for name in names
             if "decoder" not in name]
    return family.Tensor(tensor.name, transpose=tensor.transpose,
                         also=(*tensor.also, *found), used=tensor.used)

  return {path: both(tensor) for path, tensor in plain.items()}


FAMILY = family.Family(
    model_type="deberta-v2", architectures=("DebertaV2ForMaskedLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors, objective=lambda config: {"name": "mlm"},
    bodies=("DebertaV2Model",), prefix="deberta.", headed=_HEAD, labelled={
        "DebertaV2ForSequenceClassification": family.LabelHead(
            "", {}, (r"(pooler|classifier)\..*",)),  # with GELU
        "DebertaV2ForTokenClassification": family.WORDS},
    beside=(r"deberta\.embeddings\.position_ids", r"mask_predictions\..*", r"pooler\..*"))
