"""Masked diffusion of answers behind an image: a frozen encoder, a connector, a language model.

Contents: Connected.

Convention: rows are of layout "pictured": patches, and a prompt with its answer. The model reads
[vectors of the image | prompt | answer]; only the answer is ever masked. The encoder is a model of
`config.frozen`, so it has neither gradient nor moments, and its states are those of `states`.

References: You et al. 2025, arXiv:2505.16933 (LLaDA-V); Liu et al. 2023, arXiv:2304.08485 (LLaVA).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import connectors
from mdx.objectives import reading
from mdx.objectives.diffusion import masked

_SCHEDULE = {"name": "linear", "eps": 1e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connected(masked.MaskedDiffusion):
  """(1 - eps) / (p n) times the sum of -log p(x_i | image, prompt, masked answer), of n tokens.

  p = (1 - eps) t + eps is the probability of a mask. The paper's weight is 1 / (p n). The
  connector alone is trained where `optimizer.trainable` says nothing, with the adapters of `lora`
  where there are some. Rows without `patches` are those of the language model.

  Attributes (more in `MaskedDiffusion`):
    connector: dict(name=..., **fields) of `networks.connectors`.
    num_features: width of the encoder's states.
    encoder: name of the encoder in `config.frozen`.
    is_new: whether the connector begins from the seed; if not, `init.checkpoint` has it.
    reads: how the encoder is read.
  """
  connector: Any = dataclasses.field(default_factory=lambda: {"name": "mlp"})
  num_features: int = 0
  encoder: str = "encoder"
  is_new: bool = True
  reads: Any = dataclasses.field(default=None, repr=False, compare=False)
  schedule: Any = dataclasses.field(default_factory=lambda: dict(_SCHEDULE))
  normalizer: str = "per_row"
  trains_model = False
  signal = "patches"

  @classmethod
  def build(cls, fields, world):
    """Builds it; a model that is loaded to be read has no encoder."""
    fields = dict(fields)
    name = fields.get("encoder", "encoder")
    if world.data is not None and name not in world.frozen:
      raise ValueError(f"objective.encoder is {name!r}, which is none of the frozen models "
                       f"({', '.join(world.frozen) or 'none'}); name it in config.frozen.")
    reads = world.frozen.get(name)
    if reads is not None and fields.get("num_features") != reads.network.width:
      raise ValueError(f"objective.num_features is {fields.get('num_features', 0)}, and the "
                       f"encoder has states of width {reads.network.width}; set it to "
                       f"{reads.network.width}.")
    return config_lib.construct(cls, fields, what="objective", network=world.network, reads=reads,
                                mask_id=world.tokenizer.mask_id)

  @classmethod
  def complete(cls, config, data):
    """Refuses rows without images."""
    if data.layout != "pictured":
      raise ValueError(f"objective {config['objective']['name']} is for rows of an image, a prompt "
                       f"and an answer, and the data has rows of layout {data.layout!r}; use a "
                       "source of layout pictured, such as scenes.")
    return config

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least=dict(num_features=1))
    self.link  # pylint: disable=pointless-statement  (checks it)
    if self.attention != {"name": "full"}:
      raise ValueError(f"objective.attention is {self.attention!r}, and the vectors of an image "
                       "have no place in blocks; use dict(name='full').")
    if self.shift or not self.carry_over:
      raise ValueError("objective.shift and carry_over=False are not for rows behind an image; "
                       "leave them out.")

  @functools.cached_property
  def link(self) -> Any:
    """The connector."""
    embed = lambda key: self.network.embed(self.network.init(key), jnp.zeros((1,), jnp.int32))
    width = jax.eval_shape(embed, jax.random.key(0)).shape[-1]
    return config_lib.build(connectors.CONNECTORS, self.connector, what="objective.connector",
                            num_features=self.num_features, width=width)

  def parts(self):
    """The language model and the connector."""
    return dict(super().parts()) | {
        "connector": self.link.part()._replace(is_fresh=self.is_new)}

  def look(self, frozen, batch, context):
    """States of the images, `features` [B, P, S]."""
    del context
    if "patches" not in batch:
      return batch
    return batch | {"features": jax.lax.stop_gradient(
        self.reads.states(frozen[self.encoder], {"patches": batch["patches"]}))}

  def context_of(self, params: types.Params, batch: types.Batch, noise: Any = None
                 ) -> jax.Array | None:
    """Vectors of the images that `look` has read, [B, Q, E]; None of rows without any."""
    del noise
    return self.link(params["connector"], batch["features"]) if "features" in batch else None

  def _hidden(self, params, batch, noise=None):
    """States of the tokens alone."""
    vectors = self.context_of(params, batch)
    inputs = reading.behind(vectors, reading.inputs_of(batch, batch["noisy_tokens"]))
    hidden = self.network.encode(params["model"], inputs, attention=self.visibility,
                                 time=batch["noise_level"],
                                 noise=reading.noise_of(noise, batch)).last
    return hidden[:, hidden.shape[1] - batch["tokens"].shape[1]:]

  def bound(self, estimator):
    """No bound is estimated by given masks."""
    return None if estimator == "subsets" else super().bound(estimator)

  def reader(self):
    """Reader for the rules of masked diffusion, behind an image."""
    return types.Reader(self.answer, attention_lib.Full(), self.schedule, "confidence",
                        reads_context=True)

  def answer(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=request.noise_level,
                             blocked=self._never, is_prefixed=True)
