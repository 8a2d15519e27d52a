"""Masked diffusion that reads the text of an image.

Contents: MDiff4STR.

Convention: rows are of layout "captioned": patches [P, C], and tokens [L] that end with an end
token. The model is the decoder, with cross-attention to the states of an encoder of the patches.
What stands behind the end of a text is masked, seen, and no target. The encoder is a plain
transformer of patches, where the paper has the convolutions of SVTRv2.

Reference: MDiff4STR, arXiv:2512.01422.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import strategies as strategies_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.networks import patches as patches_lib
from mdx.objectives import reading
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDiff4STR(types.Objective):
  """Mean over the masked tokens of -log p(x_i | masked text, image), of several draws of the masks.

  With `replaces`, as many draws more have tokens replaced instead, and all tokens of the text are
  targets: the model learns to doubt what it is shown. An image is encoded once for all its draws.
  The weight 1 / (number of masked tokens) is the paper's; the released code's is n / (n + 1) of it.

  Attributes:
    network: the decoder; its `context_width` is the width of the encoder.
    mask_id, pad_id: ids that are never predicted.
    random_ids: ids that replace others.
    encoder: fields of the transformer that the encoder has otherwise than the decoder.
    strategies: names of `corruption.strategies.STRATEGIES`, one of which is drawn for each draw.
    num_draws: of each image in a step.
    replaces: whether there are draws with replaced tokens (token-replacement noise).
    channels, num_patches: values of a patch, and patches of an image; 0: those of the data.
  """
  network: types.Network
  mask_id: int
  pad_id: int = -1
  random_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
  encoder: Any = dataclasses.field(default_factory=dict)
  strategies: tuple[str, ...] = tuple(strategies_lib.STRATEGIES)
  num_draws: int = 3
  replaces: bool = True
  channels: int = 0
  num_patches: int = 0
  signal = "patches"

  @classmethod
  def build(cls, fields, world):
    """Builds the objective; the data have said what an image is."""
    tokenizer = world.tokenizer
    pad_id = -1 if tokenizer.pad_id == tokenizer.eos_id else tokenizer.pad_id
    usual = tuple(i for i in range(tokenizer.vocab_size) if i not in (tokenizer.mask_id, pad_id))
    return config_lib.construct(cls, fields, what="objective", network=world.network,
                                mask_id=tokenizer.mask_id, pad_id=pad_id, random_ids=usual)

  @classmethod
  def complete(cls, config, data):
    """The config with the sizes of its images."""
    if data.layout != "captioned":
      raise ValueError("objective mdiff4str is for rows of images with a text, and the data has "
                       f"rows of layout {data.layout!r}; use source rendered, or images with "
                       "labels.tsv.")
    if not config["data"].get("append_eos", True):
      raise ValueError("objective mdiff4str predicts the end of a text; set data.append_eos=True.")
    own = dict(config["objective"])
    for name in ("channels", "num_patches"):
      own[name] = own.get(name) or config["data"][name]
    return {**config, "objective": own}

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(num_draws=1, channels=0, num_patches=0))
    names = self.strategies if isinstance(self.strategies, (list, tuple)) else ()
    if not names or set(names) - set(strategies_lib.STRATEGIES):
      raise ValueError(f"objective.strategies is {self.strategies!r}; expected some of "
                       f"{', '.join(strategies_lib.STRATEGIES)}.")
    object.__setattr__(self, "strategies", tuple(names))
    if self.network.context_width != self.images.width:
      raise ValueError(f"network.context_width is {self.network.context_width}, and the encoder of "
                       f"images has width {self.images.width}; set it to {self.images.width}.")

  @functools.cached_property
  def images(self) -> types.Network:
    """The encoder, which reads states and has neither vocabulary nor head."""
    assert self.network.vary is not None  # a transformer can be varied
    return self.network.vary(**{
        "vocab_size": 1, "vocab_multiple": 1, "head": "none", "embed_width": 0, "context_width": 0,
        "position": "none", "max_length": max(self.num_patches, 1), **self.encoder})

  @property
  def frontend(self) -> patches_lib.Patches:
    """Embeddings of patches."""
    return patches_lib.Patches(width=self.images.width, channels=self.channels,
                               num_patches=self.num_patches)

  @property
  def scales(self) -> Mapping[str, float]:
    """One or two terms."""
    return {"denoise": 1.0} | ({"correct": 1.0} if self.replaces else {})

  def parts(self):
    """The decoder, the encoder, and the embeddings of patches."""
    own = self.images.part or types.Part(self.images.init)
    return super().parts() | {"encoder": own._replace(is_served=True, is_fresh=False),
                              "frontend": self.frontend.part()}

  def prepare(self, params, batch, key, context):
    """Draws masks and replacements; the weights are the numbers of draws.

    Returns:
      The batch with `noisy_tokens` int32 and `is_target` bool [B, draws, L].
    """
    del params, context
    tokens, is_text = batch["tokens"], mask_lib.allowed_positions(batch)
    count, length = is_text.sum(axis=1), tokens.shape[1]
    given = jnp.where(is_text, tokens, self.mask_id)
    noisy, targets = [], []
    keys = lambda name, i: rng.per_example(rng.stream(key, name, i), batch["example_index"])
    for i in range(self.num_draws):
      is_masked = strategies_lib.draw(keys("mask", i), count, length, self.strategies)
      noisy.append(jnp.where(is_masked, self.mask_id, given))
      targets.append(is_masked)
    for i in range(self.num_draws if self.replaces else 0):
      noisy.append(strategies_lib.replaced(keys("replace", i), given, count,
                                           jnp.asarray(np.array(self.random_ids, np.int32))))
      targets.append(is_text)
    number = (count > 0).sum(dtype=jnp.float32) * self.num_draws
    return (batch | {"noisy_tokens": jnp.stack(noisy, 1), "is_target": jnp.stack(targets, 1)},
            dict.fromkeys(self.scales, number))

  def context_of(self, params: types.Params, batch: types.Batch, noise: jax.Array | None = None
                 ) -> jax.Array:
    """States of the images, [B, P, D], for the decoder's cross-attention."""
    inputs = types.Inputs(None, states=self.frontend.embed(params["frontend"], batch).states)
    return self.images.encode(params["encoder"], inputs, attention=attention_lib.Full(),
                              noise=reading.noise_of(noise, batch)).last

  def __call__(self, params, batch, context):
    """Sums over images and draws of the mean -log p of the targets."""
    noisy, is_target = batch["noisy_tokens"], batch["is_target"]
    rows, draws, length = noisy.shape
    flat = lambda x: x.reshape(rows * draws, *x.shape[2:])
    states = self.context_of(params, batch, reading.noise_for(context.noise, "images"))
    inputs = types.Inputs(flat(noisy), context=jnp.repeat(states, draws, axis=0))
    hidden = self.network.encode(params["model"], inputs, attention=self.visibility,
                                 noise=reading.noise_of(context.noise, batch, draws)).last
    logits = self._blocked(self.network.head(params["model"], hidden, "lm"))
    nats = heads.cross_entropy(logits, jnp.repeat(batch["tokens"], draws, axis=0))
    nats = jnp.where(flat(is_target), nats, 0.0).reshape(rows, draws, length)
    number = is_target.sum(axis=2)
    means = nats.sum(axis=2) / jnp.maximum(number, 1)
    first = slice(self.num_draws)
    totals = {"denoise": means[:, first].sum()}
    if self.replaces:
      totals["correct"] = means[:, self.num_draws:].sum()
    masked = number[:, first].sum(axis=1).astype(jnp.float32)
    nll = nats[:, first].sum(axis=(1, 2))
    return totals, types.Aux({"masked_nats": (nll.sum(), masked.sum())},
                             {"nll": nll, "count": masked}, {})

  def _blocked(self, logits):
    return heads.block_columns(logits, self.mask_id, None if self.pad_id < 0 else self.pad_id)

  @property
  def visibility(self):
    """Full attention within the text."""
    return attention_lib.Full()

  def reader(self):
    """Reader for the rules of masked diffusion, with an image."""
    return types.Reader(self.answer, self.visibility, sampler="mean_confidence", reads_context=True)

  def answer(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    found = reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                              attention=self.visibility, time=None, blocked=self.mask_id)
    return found._replace(logits=self._blocked(found.logits))
