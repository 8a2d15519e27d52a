"""Network and objective of a config.

Contents: build_objective.
"""

from __future__ import annotations

import math
from typing import Any, Mapping

import jax

from mdx import config as config_lib
from mdx import objectives
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer


def build_objective(config: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer,
                    mesh: jax.sharding.Mesh, *, data: Any = None,
                    frozen: Mapping[str, types.Objective] | None = None
                    ) -> tuple[transformer.Transformer, types.Objective]:
  """Builds the network's hyper-parameters and the objective of a config.

  Args:
    config: with network, objective, tokenizer, dtype and sharding.
    tokenizer: gives the ids.
    mesh: its tensor axis must divide vocabulary and heads.
    data: facts of the training data, where there is some.
    frozen: name -> objective of each frozen model.

  Raises:
    ValueError: a network or objective that cannot be.
  """
  spec = _transformer(config, tokenizer, mesh)
  return spec, objectives.build(config["objective"], spec.network(), tokenizer, data=data,
                                frozen=frozen)


def _transformer(config, tokenizer, mesh) -> transformer.Transformer:
  fields = dict(config["network"], dtype=config["dtype"])
  given = fields.get("vocab_size") or tokenizer.vocab_size
  if given < tokenizer.vocab_size:
    raise ValueError(f"network.vocab_size {given} is smaller than the {tokenizer.vocab_size} ids "
                     f"of tokenizer {config['tokenizer']['path']!r}; use 0 (the tokenizer's).")
  tensor = mesh.shape["tensor"]
  multiple = math.lcm(fields.get("vocab_multiple", 8), tensor)
  spec = config_lib.build(transformer.NETWORKS,
                          fields | {"vocab_size": given, "vocab_multiple": multiple},
                          what="network")
  if config["sharding"].get("heads") == "tensor" and spec.kv_heads % tensor:
    raise ValueError(f"mesh axis tensor={tensor} does not divide {spec.kv_heads} key-value heads "
                     "(network.num_heads or num_kv_heads); use a divisor.")
  return spec
