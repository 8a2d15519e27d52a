"""RoBERTa: BERT's body, positions that begin behind the padding id.

Contents: FAMILY, XLM (XLM-R), CAMEMBERT.

Convention: rows of the position table up to the padding id are never read here. The published
class counts positions of tokens that are not the padding id, so they agree where padding is said
by `segment_ids` and `positions` count from the first real token.

Reference: Liu et al. 2019, arXiv:1907.11692.
"""

from __future__ import annotations

from mdx.interop import family
from mdx.interop import hf_bert

_ONLY = {"gelu": "gelu_erf"}  # the head has this one, whatever the body has


def _to_fields(config):
  fields = hf_bert.read(config, activations=_ONLY, pad_token_id=1)
  offset = config.get("pad_token_id", 1) + 1
  if fields["max_length"] <= offset:
    raise ValueError(f"max_position_embeddings {fields['max_length']} leaves no place behind "
                     f"pad_token_id {offset - 1}.")
  return fields | _HEAD | dict(position_offset=offset, max_length=fields["max_length"] - offset)


def _to_config(spec):
  config = hf_bert.write(spec, "roberta", "RobertaForMaskedLM", activations=_ONLY,
                         position_offset=None, **_HEAD)
  if not spec.position_offset:
    raise ValueError("network.position_offset = 0 cannot be exported as 'roberta', whose positions "
                     "begin behind the padding id.")
  return config | dict(max_position_embeddings=spec.max_length + spec.position_offset,
                       pad_token_id=spec.position_offset - 1)


def _tensors(spec):
  decoder = "lm_head.decoder"
  return (hf_bert.body("roberta", (f"{decoder}.weight",) if spec.tied else ())
          | family.linear("head_dense", "lm_head.dense", has_bias=True)
          | hf_bert.norm("head_norm", "lm_head.layer_norm")
          | hf_bert.lm_head(spec, decoder, "lm_head.bias"))


def _labelled(name):
  return {f"{name}ForTokenClassification": family.WORDS,
          f"{name}ForSequenceClassification": family.LabelHead(
              "pooled_first", family.linear("dense", "classifier.dense", has_bias=True)
              | family.linear("out", "classifier.out_proj", has_bias=True))}


_HEAD = dict(head_transform=True, head_bias=True)
FAMILY = family.Family(
    model_type="roberta", architectures=("RobertaForMaskedLM",), to_fields=_to_fields,
    to_config=_to_config, tensors=_tensors, objective=lambda config: {"name": "mlm"},
    bodies=("RobertaModel",), prefix="roberta.", headed=_HEAD, labelled=_labelled("Roberta"),
    beside=(r"roberta\.pooler\..*", r"roberta\.embeddings\.position_ids"))
XLM = family.alias(FAMILY, "xlm-roberta", "XLMRobertaForMaskedLM", bodies=("XLMRobertaModel",),
                   labelled=_labelled("XLMRoberta"))
CAMEMBERT = family.alias(FAMILY, "camembert", "CamembertForMaskedLM", bodies=("CamembertModel",),
                         labelled=_labelled("Camembert"))
