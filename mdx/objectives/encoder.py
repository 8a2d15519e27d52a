"""A model that is only read: states of texts, and their embeddings.

Contents: Encoder.

Convention: it writes no tokens and is not trained; a fine-tuning begins with the directory that it
came from. `params["dense"]` has the linear maps behind the pooling, "0", "1", ... in their order.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads
from mdx.objectives import reading

ACTIVATIONS = {"identity": lambda x: x, "tanh": jnp.tanh, "relu": jax.nn.relu,
               "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(types.Objective):
  """An encoder, or decoder, of texts (Reimers & Gurevych 2019, arXiv:1908.10084).

  Attributes:
    network: the model.
    attention: dict(name="full"), "causal", ... that it reads with.
    embedding: fields of `eval.embedders.Settings`, how it was trained to embed.
    dense: linear maps behind the pooling, dict(num_inputs, num_outputs, has_bias, activation) each,
      `activation` one of ACTIVATIONS.
  """
  network: types.Network
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  embedding: Any = dataclasses.field(default_factory=dict)
  dense: tuple[Any, ...] = ()

  def __post_init__(self):
    self.visibility  # pylint: disable=pointless-statement  (refuses what is wrong with it)
    for layer in self.dense:
      if layer["activation"] not in ACTIVATIONS:
        raise ValueError(f"objective.dense has the activation {layer['activation']!r}; choose from "
                         f"{', '.join(ACTIVATIONS)}.")

  @property
  def visibility(self):
    """The attention value."""
    return reading.attention_of(self.attention, self.network)

  @property
  def scales(self) -> Mapping[str, float]:
    """No term."""
    return {}

  def check_length(self, length):
    """Refuses training."""
    del length
    raise ValueError("objective encoder reads texts and has no loss; train with another objective, "
                     "such as mlm or classification, from the same init.checkpoint.")

  def parts(self):
    """The model, and the maps behind the pooling."""
    if not self.dense:
      return super().parts()
    zeros = lambda *shape: jnp.zeros(shape, jnp.float32)

    def init(key):
      del key  # they are always loaded
      return {str(i): {"kernel": zeros(layer["num_inputs"], layer["num_outputs"])} | (
          {"bias": zeros(layer["num_outputs"])} if layer["has_bias"] else {})
              for i, layer in enumerate(self.dense)}

    return super().parts() | {"dense": types.Part(init, is_served=True)}

  def embedder(self):
    """Embedder with the maps behind the pooling."""
    return types.Embedder(self.visibility, settings=config_lib.to_dict(self.embedding),
                          project=self._project if self.dense else None)

  def _project(self, params, pooled):
    for i, layer in enumerate(self.dense):
      own = params["dense"][str(i)]
      mapped = heads.affine(own, pooled) if "bias" in own else pooled @ own["kernel"]
      pooled = ACTIVATIONS[layer["activation"]](mapped)
    return pooled
