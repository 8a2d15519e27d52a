"""Objectives: pure losses in the draw-then-score form.

Contents: OBJECTIVES, READ_ONLY, build, complete, POLICIES, build_policy, check_policy.
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx import config as config_lib
from mdx import types
from mdx.objectives import encoder
from mdx.objectives import joint_head
from mdx.objectives import preference
from mdx.objectives.causal import ar
from mdx.objectives.causal import meap
from mdx.objectives.causal import recurrent
from mdx.objectives.diffusion import adapt
from mdx.objectives.diffusion import block as block_diffusion
from mdx.objectives.diffusion import d3pm
from mdx.objectives.diffusion import genmd4
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.diffusion import sedd
from mdx.objectives.diffusion import seq2seq
from mdx.objectives.diffusion import uniform
from mdx.objectives.embedding import contrastive
from mdx.objectives.embedding import distilled
from mdx.objectives.embedding import gem
from mdx.objectives.embedding import grl
from mdx.objectives.labels import finetune
from mdx.objectives.policies import action_grpo
from mdx.objectives.policies import agrpo
from mdx.objectives.policies import branch_mdpo
from mdx.objectives.policies import causal_grpo
from mdx.objectives.policies import cj_grpo
from mdx.objectives.policies import d2
from mdx.objectives.policies import espo
from mdx.objectives.policies import gdpo
from mdx.objectives.policies import grpo
from mdx.objectives.policies import just_grpo
from mdx.objectives.policies import mdpo
from mdx.objectives.policies import spg
from mdx.objectives.policies import trace_rl
from mdx.objectives.policies import vrpo
from mdx.objectives.signals import connector
from mdx.objectives.signals import ctc
from mdx.objectives.signals import w2v_bert
from mdx.objectives.signals import mdiff4str
from mdx.objectives.signals import mim
from mdx.objectives.signals import mto
from mdx.objectives.tokens import bitimebert
from mdx.objectives.tokens import decoded
from mdx.objectives.tokens import electra
from mdx.objectives.tokens import ernie_gram
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import rts
from mdx.objectives.tokens import structural
from mdx.objectives.transfer import generic_labels
from mdx.objectives.transfer import gradient_dropout
from mdx.objectives.transfer import masked_document
from mdx.objectives.transfer import unlearning

OBJECTIVES = {
    "ar": ar.AutoRegressive,
    "recurrent": recurrent.Recurrent,
    "mlm": mlm.MaskedLM,
    "bitimebert": bitimebert.BiTimeBERT,
    "decoded_mlm": decoded.DecodedLM,
    "electra": electra.Electra,
    "ernie_gram": ernie_gram.ErnieGram,
    "rts": rts.ReplacedTokens,
    "cluster_rts": rts.ClusterReplacedTokens,
    "structural": structural.Structural,
    "diffusion": diffusion.MaskedDiffusion,
    "d3pm": d3pm.D3PM,
    "sedd": sedd.SEDD,
    "uniform_diffusion": uniform.UniformDiffusion,
    "seq2seq": seq2seq.Seq2Seq,
    "genmd4": genmd4.GenMD4,
    "block_diffusion": block_diffusion.BlockDiffusion,
    "adapt": adapt.Adaptation,
    "meap": meap.MEAP,
    "masked_document": masked_document.MaskedDocument,
    "meap_sft": meap.MEAPFineTuning,
    "contrastive": contrastive.Contrastive,
    "distilled": distilled.Distilled,
    "gem": gem.GEM,
    "grl": grl.GRL,
    "preference": preference.Preference,
    "unlearn": unlearning.Unlearning,
    "generic_labels": generic_labels.GenericLabels,
    "gradient_dropout": gradient_dropout.GradientDropout,
    "joint_head": joint_head.JointHead,
    "simmim": mim.SimMIM,
    "mae": mim.MAE,
    "mto_style": mto.MTOStyle,
    "mdiff4str": mdiff4str.MDiff4STR,
    "connector": connector.Connected,
    "classification": finetune.Classification,
    "regression": finetune.Regression,
    "tagging": finetune.Tagging,
    "w2v_bert": w2v_bert.W2vBert,
    "ctc": ctc.CTC,
}
# Models that are only read: none is trained with these.
READ_ONLY = {"encoder": encoder.Encoder}
POLICIES = {
    "mdpo": mdpo.MDPO,
    "diffu_grpo": grpo.DiffuGRPO,
    "wd1": grpo.WeightedLikelihood,
    "coupled_grpo": grpo.CoupledGRPO,
    "causal_grpo": causal_grpo.CausalGRPO,
    "branch_mdpo": branch_mdpo.BranchMDPO,
    "espo": espo.ESPO,
    "gdpo": gdpo.GDPO,
    "spg": spg.SPG,
    "vrpo": vrpo.VRPO,
    "trace_rl": trace_rl.TraceRL,
    "d2": d2.D2,
    "agrpo": agrpo.AGRPO,
    "cj_grpo": cj_grpo.CJGRPO,
    "just_grpo": just_grpo.JustGRPO,
    "action_grpo": action_grpo.ActionGRPO,
}


def build(cfg: Mapping[str, Any], network: types.Network, tokenizer: Any, *, data: Any = None,
          frozen: Mapping[str, Any] | None = None) -> types.Objective:
  """Builds the objective of a config.

  Args:
    cfg: `config.objective`: `name` and fields of the dataclass.
    network: the model.
    tokenizer: gives the special ids (`mask_id`, `eos_id`, ...) and the edges of words.
    data: facts of the training data, where there is some.
    frozen: name -> objective of each frozen model.

  Raises:
    ValueError: unknown name or field, or values the objective refuses.
  """
  one = lambda fields: _class(fields).build(config_lib.to_dict(fields), world)
  world = types.World(network, tokenizer, data, frozen or {}, one)
  return one(cfg)


def complete(config: Mapping[str, Any], data: Any) -> dict[str, Any]:
  """The config with what its objective takes from the training data; see `Objective.complete`."""
  return dict(_class(config["objective"]).complete(config, data))


def _class(cfg: Mapping[str, Any]) -> type:
  name = cfg.get("name")
  if isinstance(name, str) and name in READ_ONLY:
    return READ_ONLY[name]
  if not isinstance(name, str) or name not in OBJECTIVES:
    raise ValueError(f"unknown objective name {name!r}; choose from "
                     f"{', '.join(sorted(OBJECTIVES))}." + config_lib.did_you_mean(
                         str(name), OBJECTIVES))
  return OBJECTIVES[name]


def build_policy(cfg: Mapping[str, Any], model: types.Objective, tokenizer: Any,
                 **rollout: Any) -> types.Objective:
  """Builds the policy loss of an RL config.

  Args:
    cfg: `config.objective`: `name` and fields of the dataclass.
    model: the objective that the model was trained with.
    tokenizer: gives the special ids.
    **rollout: values that the rollouts fix: `group_size`, `temperature` and `decoding`.

  Raises:
    ValueError: as `build`.
  """
  return config_lib.build(POLICIES, cfg, what="objective", model=model, mask_id=tokenizer.mask_id,
                          eos_id=tokenizer.eos_id, other_eos_ids=tokenizer.other_eos_ids, **rollout)


def check_policy(cfg: Mapping[str, Any], **rollout: Any) -> None:
  """Refuses a policy config before there is a model for it; ValueError."""
  config_lib.build(POLICIES, cfg, what="objective", model=None, mask_id=0, **rollout)
