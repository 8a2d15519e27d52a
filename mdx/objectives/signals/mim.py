"""Masked image modelling: patches are hidden, and predicted from those that are left.

Contents: Reconstruction, SimMIM, MAE.

Convention: rows are of layout "patches". The loss is a mean over the values of the masked patches;
no likelihood, though reports call its unit nats. An exact number of an image's patches is masked.

References: Xie et al. 2021, arXiv:2111.09886 (SimMIM); He et al. 2021, arXiv:2111.06377 (MAE).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import patches as patches_lib
from mdx.objectives import reading
from mdx.utils import rng

LOSSES = {"l1": jnp.abs, "l2": jnp.square}
_EPSILON = 1e-6  # of the variance of a patch


class Reconstruction(types.Objective):
  """Base of the objectives that predict masked patches.

  Attributes:
    network: the model, an encoder of patches.
    mask_rate: share of the patches of an image that is masked, rounded to a whole number.
    loss: "l1" or "l2", of a value's error.
    normalised: whether each patch is predicted with its own mean and deviation taken out.
    channels, num_patches: values of a patch, and patches of an image; 0: those of the data.
  """
  network: types.Network
  mask_rate: float
  loss: str
  normalised: bool
  channels: int
  num_patches: int
  reads_tokens = False
  signal = "patches"

  @classmethod
  def build(cls, fields, world):
    """Builds the objective; the data have said what an image is."""
    return config_lib.construct(cls, fields, what="objective", network=world.network)

  @property
  def visibility(self):
    """Full attention."""
    return attention_lib.Full()

  @classmethod
  def complete(cls, config, data):
    """The config with the sizes of its rows."""
    if data.layout != "patches":
      raise ValueError(f"objective {config['objective']['name']} is for rows of patches, and the "
                       f"data has rows of layout {data.layout!r}; use source images or shapes, or "
                       "data.layout='patches'.")
    own = dict(config["objective"])
    own["channels"] = own.get("channels") or config["data"]["channels"]
    own["num_patches"] = own.get("num_patches") or config["data"]["length"]
    return {**config, "objective": own}

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(loss=LOSSES), between=dict(
        mask_rate="(0, 1)"), at_least=dict(channels=0, num_patches=0))

  def check_length(self, length):
    """Refuses rows that no patch of is masked, or of another size."""
    if length != self.num_patches:
      raise ValueError(f"objective.num_patches {self.num_patches} is not data.length {length}; "
                       "leave it out.")
    if not 0 < round(self.mask_rate * length) < length:
      raise ValueError(f"objective.mask_rate {self.mask_rate} masks all or none of {length} "
                       "patches; use another rate, or smaller patches.")

  @property
  def frontend(self) -> patches_lib.Patches:
    """Embeddings of patches."""
    return patches_lib.Patches(width=self.network.width, channels=self.channels,
                               num_patches=self.num_patches)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"mim": 1.0}

  def parts(self):
    """The model, and the embeddings of patches."""
    return super().parts() | {"frontend": self.frontend.part()}

  def prepare(self, params, batch, key, context):
    """Masks an exact number of patches; the weight is the number of their values.

    Returns:
      The batch with `is_masked` bool [B, P].
    """
    del params, context
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    real = batch["patch_mask"]
    count = jnp.round(self.mask_rate * real.sum(axis=1)).astype(jnp.int32)
    is_masked = mask_lib.exact_count(keys, count, real)
    values = is_masked.sum(dtype=jnp.float32) * self.channels
    return batch | {"is_masked": is_masked}, {"mim": values}

  def targets(self, batch: types.Batch) -> jax.Array:
    """Values to predict, float32 [B, P, C]."""
    patches = batch["patches"]
    if not self.normalised:
      return patches
    mean, std = _moments(patches)
    return (patches - mean) / std

  def predict(self, params: types.Params, batch: types.Batch, context: types.Context) -> Any:
    """Returns predictions of the targets, float32 [B, P, C], and what else `score` needs."""
    raise TypeError("a reconstruction defines predict")

  def __call__(self, params, batch, context):
    """Sum of the errors of the values of the masked patches."""
    predicted, _ = self.predict(params, batch, context)
    return self.error(predicted, batch)

  def error(self, predicted: jax.Array, batch: types.Batch
            ) -> tuple[dict[str, jax.Array], types.Aux]:
    """The term of the reconstruction, and its figures."""
    error = LOSSES[self.loss](predicted - self.targets(batch)).sum(axis=-1)
    rows = jnp.where(batch["is_masked"], error, 0.0).sum(axis=1)
    count = batch["is_masked"].sum(axis=1, dtype=jnp.float32) * self.channels
    metrics = {"reconstruction": (rows.sum(), count.sum())}
    return {"mim": rows.sum()}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  def reconstructed(self, params: types.Params, batch: types.Batch) -> jax.Array:
    """Rows of `prepare` with the masked patches as they are predicted, float32 [B, P, C]."""
    predicted, _ = self.predict(params, batch, types.context(0))
    if self.normalised:  # with the moments of the original, which the loss leaves open
      mean, std = _moments(batch["patches"])
      predicted = predicted * std + mean
    return jnp.where(batch["is_masked"][..., None], predicted, batch["patches"])

  def states(self, params, batch):
    """States [B, P, D] of whole images."""
    return self.network.encode(params["model"], self.frontend.embed(params["frontend"], batch),
                               attention=self.visibility).last


def _moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and deviation of each patch, [B, P, 1]."""
  return (patches.mean(axis=-1, keepdims=True),
          jnp.sqrt(patches.var(axis=-1, keepdims=True) + _EPSILON))


def mask_part(width: int) -> types.Part:
  """The embedding that stands for a masked patch, {"token": [D]}."""
  return types.Part(lambda key: {"token": 0.02 * jax.random.normal(key, (width,), jnp.float32)},
                    is_served=True, is_fresh=False)


def pixel_part(width: int, channels: int) -> types.Part:
  """The map from states to the values of a patch."""
  return types.Part(lambda key: heads.linear_init(key, width, channels), is_served=True,
                    is_fresh=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimMIM(Reconstruction):
  """Masked patches become a mask token in the encoder, and one linear map predicts their values.

  Attributes (more in `Reconstruction`): the defaults are the paper's, with single patches masked.
  """
  network: types.Network
  mask_rate: float = 0.6
  loss: str = "l1"
  normalised: bool = False
  channels: int = 0
  num_patches: int = 0

  def parts(self):
    """The model, its embeddings, the mask token, and the head."""
    return super().parts() | {
        "mask": mask_part(self.network.width),
        "pixels": pixel_part(self.network.width, self.channels)}

  def masked_states(self, params: types.Params, batch: types.Batch) -> tuple[jax.Array, jax.Array]:
    """Embeddings of all patches, and states with the masked ones hidden, [B, P, D] each."""
    content = self.frontend.content(params["frontend"], batch)
    token = params["mask"]["token"][None, None].astype(content.dtype)
    hidden = jnp.where(batch["is_masked"][..., None], token, content)
    return content, self.frontend.placed(params["frontend"], hidden)

  def attention_of(self, batch: types.Batch) -> Any:
    """The attention value of rows of `prepare`."""
    del batch
    return self.visibility

  def predict(self, params, batch, context, **options):
    """Predictions, and (embeddings of all patches [B, P, D], the network's output)."""
    content, states = self.masked_states(params, batch)
    inputs = types.Inputs(None, batch.get("positions"), batch.get("segment_ids"), states=states)
    out = self.network.encode(params["model"], inputs, attention=self.attention_of(batch),
                              noise=reading.noise_of(context.noise, batch), **options)
    predicted = heads.affine(params["pixels"], out.last.astype(jnp.float32))
    return predicted, (content, out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Reconstruction):
  """The encoder reads the visible patches alone, a light decoder their states and mask tokens.

  Attributes (more in `Reconstruction`): the defaults are the paper's.
    decoder_width, decoder_depth: shares of the model's width and layers that the decoder has.
  """
  network: types.Network
  mask_rate: float = 0.75
  loss: str = "l2"
  normalised: bool = True
  decoder_width: float = 0.5
  decoder_depth: float = 0.5
  channels: int = 0
  num_patches: int = 0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", between=dict.fromkeys(("decoder_width", "decoder_depth"),
                                                              "(0, inf)"))

  @functools.cached_property
  def decoder(self) -> types.Network:
    """The decoder's network, which reads states and has neither vocabulary nor head."""
    assert self.network.vary is not None  # a transformer can be varied
    return self.network.vary(self.decoder_width, self.decoder_depth, vocab_size=1, vocab_multiple=1,
                             head="none", embed_width=0)

  @property
  def num_visible(self) -> int:
    """Patches that the encoder reads."""
    return self.num_patches - round(self.mask_rate * self.num_patches)

  def parts(self):
    """The model and its embeddings; the decoder, and what it reads and writes with."""
    width, decoder = self.decoder.width, self.decoder.part or types.Part(self.decoder.init)
    positions = patches_lib.Patches(width=width, channels=self.network.width,
                                    num_patches=self.num_patches)
    return super().parts() | {
        "decoder": decoder._replace(is_served=True, is_fresh=False), "mask": mask_part(width),
        "decoder_frontend": positions.part(),
        "pixels": pixel_part(width, self.channels)}

  def predict(self, params, batch, context):
    """Predictions, and None."""
    noise, is_masked = reading.noise_of(context.noise, batch), batch["is_masked"]
    states = self.frontend.embed(params["frontend"], batch).states
    segments, length = batch["segment_ids"], is_masked.shape[1]
    # Visible patches first, then masked ones, then padding, each in their order.
    order = jnp.argsort(jnp.where(segments == 0, 2, is_masked), axis=1, stable=True)
    chosen = order[:, :self.num_visible]
    picked = jnp.take_along_axis(segments * ~is_masked, chosen, axis=1)
    inputs = types.Inputs(None, segment_ids=picked,
                          states=jnp.take_along_axis(states, chosen[..., None], axis=1))
    seen = self.network.encode(params["model"], inputs, attention=self.visibility,
                               noise=noise).last
    own = params["decoder_frontend"]
    known = heads.affine(own, seen)
    rows = jnp.arange(len(known))[:, None]
    token = jnp.broadcast_to(params["mask"]["token"][None, None].astype(known.dtype),
                             (len(known), length, known.shape[-1]))
    whole = token.at[rows, jnp.where(picked > 0, chosen, length)].set(known, mode="drop")
    inputs = types.Inputs(None, segment_ids=segments,
                          states=whole + own["position"][None].astype(whole.dtype))
    if noise is not None:
      noise = reading.noise_of(reading.noise_for(context.noise, "decoder"), batch)
    hidden = self.decoder.encode(params["decoder"], inputs, attention=self.visibility,
                                 noise=noise).last
    return heads.affine(params["pixels"], hidden.astype(jnp.float32)), None
