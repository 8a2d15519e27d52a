"""ELECTRA: the generator, a masked language model, and the discriminator.

Contents: FAMILY.

Convention: the class in `architectures` says which of the two a directory holds. The discriminator
has the head "rtd", a score that a token was replaced, and writes no text.

Reference: Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

from mdx.interop import family
from mdx.interop import hf_bert

_ONLY = {"gelu": "gelu_erf"}  # of the generator's head, whatever the body has
_GENERATOR, _DISCRIMINATOR = "ElectraForMaskedLM", "ElectraForPreTraining"


def _is_discriminator(config):
  classes = config.get("architectures") or []
  if not classes:
    raise ValueError(f"architectures is missing; expected [{_GENERATOR!r}] or "
                     f"[{_DISCRIMINATOR!r}], which have different heads.")
  return _GENERATOR not in classes


def _to_fields(config):
  is_discriminator = _is_discriminator(config)
  # The generator's head has an activation of its own; the discriminator's follows the body.
  fields = hf_bert.read(config, **({} if is_discriminator else dict(activations=_ONLY)))
  width = family.read_options(config, sizes=("embedding_size",) if "embedding_size" in config
                              else (), defaults=dict(embedding_size=128),
                              allowed={})["embedding_size"]
  head = (dict(head="rtd", tied=True) if is_discriminator else
          dict(head_transform=True, head_bias=True))
  return fields | head | dict(embed_width=0 if width == config["hidden_size"] else width)


def _to_config(spec):
  if spec.head == "rtd":
    config = hf_bert.write(spec, "electra", _DISCRIMINATOR, head="rtd", embed_width=None)
  else:
    config = hf_bert.write(spec, "electra", _GENERATOR, activations=_ONLY, embed_width=None,
                           head_transform=True, head_bias=True)
  return config | dict(embedding_size=spec.embed_columns)


def _tensors(spec):
  head = "generator_lm_head"
  is_copied = spec.head == "lm" and spec.tied
  table = hf_bert.body("electra", (f"{head}.weight",) if is_copied else ())
  if spec.embed_columns != spec.width:
    table |= family.linear("embed_projection", "electra.embeddings_project", has_bias=True)
  if spec.head == "rtd":
    part = "discriminator_predictions."
    return (table | family.linear("head_dense", part + "dense", has_bias=True)
            | family.linear("rtd_head", part + "dense_prediction", has_bias=True))
  table |= family.linear("head_dense", "generator_predictions.dense", has_bias=True)
  table |= hf_bert.norm("head_norm", "generator_predictions.LayerNorm")
  table |= {} if spec.tied else family.linear("lm_head", head)
  return table | {"lm_head/bias": family.Tensor(f"{head}.bias")}


FAMILY = family.Family(
    model_type="electra", architectures=(_GENERATOR, _DISCRIMINATOR), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors,
    objective=lambda config: {} if _is_discriminator(config) else {"name": "mlm"},
    bodies=("ElectraModel",), prefix="electra.", headed=dict(head="rtd"),
    beside=(r"electra\.embeddings\.position_ids",))
