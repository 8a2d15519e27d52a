"""Objectives: pure losses in the draw-then-score form.

Contents: OBJECTIVES, build, POLICIES, build_policy, check_policy.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

from mdx import config as config_lib
from mdx import types
from mdx.objectives.causal import ar
from mdx.objectives.causal import meap
from mdx.objectives.diffusion import adapt
from mdx.objectives.diffusion import block as block_diffusion
from mdx.objectives.diffusion import d3pm
from mdx.objectives.diffusion import genmd4
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.diffusion import sedd
from mdx.objectives.labels import finetune
from mdx.objectives.policies import grpo
from mdx.objectives.policies import mdpo
from mdx.objectives.tokens import bitimebert
from mdx.objectives.tokens import decoded
from mdx.objectives.tokens import electra
from mdx.objectives.tokens import ernie_gram
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import rts
from mdx.objectives.tokens import structural

OBJECTIVES = {
    "ar": ar.AutoRegressive,
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
    "genmd4": genmd4.GenMD4,
    "block_diffusion": block_diffusion.BlockDiffusion,
    "adapt": adapt.Adaptation,
    "meap": meap.MEAP,
    "meap_sft": meap.MEAPFineTuning,
    "classification": finetune.Classification,
    "regression": finetune.Regression,
    "tagging": finetune.Tagging,
}
POLICIES = {
    "mdpo": mdpo.MDPO,
    "diffu_grpo": grpo.DiffuGRPO,
    "wd1": grpo.WeightedLikelihood,
    "coupled_grpo": grpo.CoupledGRPO,
}


def build(cfg: Mapping[str, Any], network: types.Network, tokenizer: Any) -> types.Objective:
  """Builds the objective of a config.

  Args:
    cfg: `config.objective`: `name` and fields of the dataclass.
    network: the model.
    tokenizer: gives the special ids (`mask_id`, `eos_id`, ...) and the edges of words.

  Raises:
    ValueError: unknown name or field, or values the objective refuses.
  """
  cfg = config_lib.to_dict(cfg)
  cls = OBJECTIVES.get(cfg.get("name"))
  names = {field.name for field in dataclasses.fields(cls)} if cls else ()
  extra = dict(network=network, mask_id=tokenizer.mask_id)
  if "token" in names:  # it goes with another, which has the network
    extra = dict(token=build(cfg.pop("token", {}), network, tokenizer))
  if "word_edges" in names:
    extra["word_edges"] = tokenizer.word_edges
  if "tokenizer_hash" in names:
    extra["tokenizer_hash"] = tokenizer.fingerprint
  if "to_ids" in names:
    extra["to_ids"] = tokenizer.encode
  return config_lib.build(OBJECTIVES, cfg, what="objective", **extra)


def build_policy(cfg: Mapping[str, Any], model: types.Objective, tokenizer: Any,
                 **rollout: Any) -> types.Objective:
  """Builds the policy loss of an RL config.

  Args:
    cfg: `config.objective`: `name` and fields of the dataclass.
    model: the objective that the model was trained with.
    tokenizer: gives the special ids.
    **rollout: what the rollouts fix: `group_size` and `temperature`.

  Raises:
    ValueError: as `build`.
  """
  return config_lib.build(POLICIES, cfg, what="objective", model=model, mask_id=tokenizer.mask_id,
                          eos_id=tokenizer.eos_id, **rollout)


def check_policy(cfg: Mapping[str, Any], **rollout: Any) -> None:
  """Refuses a policy config before there is a model for it; ValueError."""
  config_lib.build(POLICIES, cfg, what="objective", model=None, mask_id=0, **rollout)
