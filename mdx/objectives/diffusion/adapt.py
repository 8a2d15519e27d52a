"""Adaptation of a causal model to diffusion: its loss, under attention that opens slowly.

Contents: Adaptation.

Convention: a parameter tree is that of the network, as in `ar` and `diffusion`, so a checkpoint
of the one starts the other.

Reference: Gong et al. 2025, arXiv:2410.17891 (DiffuLLaMA); Ye et al. 2025, arXiv:2508.15487
(Dream).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import anneal
from mdx.objectives.diffusion import masked as diffusion
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation(types.Objective):
  """Masked diffusion whose attention goes from causal to full over `anneal_steps`.

  At step s a position sees each later one with probability s / anneal_steps, drawn anew for
  every step and shared by its rows. Evaluation and sampling have full attention.

  Attributes:
    network: the model.
    mask_id: id of the mask token.
    anneal_steps: steps until attention is full; 0 = full from the start.
    diffusion: fields of `diffusion.MaskedDiffusion`; its `attention` is that at the end.
  """
  network: types.Network
  mask_id: int
  anneal_steps: int = 10_000
  diffusion: Any = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(anneal_steps=0))
    self.final  # pylint: disable=pointless-statement  (checks it)

  @property
  def final(self) -> diffusion.MaskedDiffusion:
    """The objective once attention is full."""
    return self._with(self.network.encode)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return self.final.scales

  def check_length(self, length):
    """Checks the length as masked diffusion does."""
    self.final.check_length(length)

  def check_fields(self, fields):
    """Checks the fields as masked diffusion does."""
    self.final.check_fields(fields)

  @property
  def visibility(self):
    """The attention value at the end."""
    return self.final.visibility

  def prepare(self, params, batch, key, context):
    """Prepares masked diffusion; the key of this step's attention goes along with every row."""
    batch, weights = self.final.prepare(params, batch, key, context)
    data = jax.random.key_data(rng.stream(key, "anneal"))
    rows = len(batch["example_index"])
    return batch | {"anneal_key": jnp.broadcast_to(data, (rows,) + data.shape)}, weights

  def __call__(self, params, batch, context):
    """The loss of masked diffusion under this step's attention."""
    if not self.anneal_steps:
      return self.final(params, batch, context)
    key = jax.random.wrap_key_data(batch["anneal_key"][0])
    shown = anneal.future_draws(key, context.step / self.anneal_steps, batch["tokens"].shape[1])

    def encode(params, inputs, *, attention, **options):
      return self.network.encode(params, inputs, attention=anneal.Annealed(attention, shown),
                                 **options)

    return self._with(encode)(params, batch, context)

  def bound(self, estimator):
    """Bound of masked diffusion, with full attention."""
    return self.final.bound(estimator)

  def reader(self):
    """Reader of masked diffusion, with full attention."""
    return self.final.reader()

  def served(self, config):
    """Masked diffusion."""
    return {"name": "diffusion", **config.get("diffusion", {})}

  def _with(self, encode) -> diffusion.MaskedDiffusion:
    fields = {"name": "diffusion", **config_lib.to_dict(self.diffusion)}
    return config_lib.build({"diffusion": diffusion.MaskedDiffusion}, fields, what="objective",
                            network=self.network._replace(encode=encode), mask_id=self.mask_id)
