r"""Sequence to sequence without order: an encoder, and a decoder that is trained to refine.

Contents: Seq2Seq.

Convention: rows are of layout "sequences". An unknown token of the target is shown as a random one,
so that a mask in a request stands for a random token, the same at a position in every row. What
stands behind the end of a target is padding, which nothing sees; the encoder says where it is.

References: Yoshida 2024, "Making the Most of your Model" (encoder and decoder both from masked
language models); Savinov et al. 2022, arXiv:2112.06749 (SUNDAE: unrolled denoising).
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
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives import reading
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2Seq(types.Objective):
  """Mean over K unrolled steps of -log p(y | y^k, source), and -log p(length | source).

  y^0 is the target y with each token replaced, by a uniform one, with a probability that is uniform
  for every row; y^{k+1} is drawn from the model's answer to y^k, through which no gradient passes.

  Attributes:
    network: the decoder; its `context_width` is the width of the encoder.
    mask_id, pad_id: ids that are never predicted.
    random_ids: ids that replace others.
    encoder: fields of the transformer that the encoder has otherwise than the decoder.
    num_unrolls: K.
    length_scale: factor of the loss of the length.
    max_length: longest target; 0: `data.length`.
  """
  network: types.Network
  mask_id: int
  pad_id: int = -1
  random_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
  encoder: Any = dataclasses.field(default_factory=dict)
  num_unrolls: int = 2
  length_scale: float = 0.1
  max_length: int = 0

  evaluators = ("loss", "refined")

  @classmethod
  def build(cls, fields, world):
    """Builds the objective; the data have said how long a target is."""
    tokenizer = world.tokenizer
    pad_id = -1 if tokenizer.pad_id == tokenizer.eos_id else tokenizer.pad_id
    special = (tokenizer.mask_id, pad_id, tokenizer.eos_id)
    usual = tuple(i for i in range(tokenizer.vocab_size) if i not in special)
    return config_lib.construct(cls, fields, what="objective", network=world.network,
                                mask_id=tokenizer.mask_id, pad_id=pad_id, random_ids=usual)

  @classmethod
  def complete(cls, config, data):
    """The config with the length of its targets."""
    if data.layout != "sequences":
      raise ValueError("objective seq2seq reads sources and writes targets, and the data has rows "
                       f"of layout {data.layout!r}; use source parallel or bilingual.")
    own = dict(config["objective"])
    own["max_length"] = own.get("max_length") or config["data"]["length"]
    return {**config, "objective": own}

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(num_unrolls=1, length_scale=0, max_length=0))
    if self.network.context_width != self.source_network.width:
      raise ValueError(f"network.context_width is {self.network.context_width}, and the encoder of "
                       f"sources has width {self.source_network.width}; set it to "
                       f"{self.source_network.width}.")

  @functools.cached_property
  def source_network(self) -> types.Network:
    """The encoder."""
    assert self.network.vary is not None  # a transformer can be varied
    return self.network.vary(**{"context_width": 0, **self.encoder})

  @property
  def scales(self) -> Mapping[str, float]:
    """Two terms."""
    return {"denoise": 1.0, "length": self.length_scale}

  def check_length(self, length):
    """Refuses targets of more tokens than there are classes."""
    if self.max_length and length > self.max_length:
      raise ValueError(f"data.length {length} exceeds objective.max_length {self.max_length}, the "
                       "longest target that can be predicted; raise it.")

  def parts(self):
    """The decoder, the encoder, and the map from its pooled states to lengths."""
    own, width = self.source_network.part, self.source_network.width
    assert own is not None  # of a transformer
    classes = max(self.max_length, 1)

    def init(key):
      kernel = jax.random.normal(key, (width, classes), jnp.float32) / np.sqrt(width)
      return {"kernel": kernel, "bias": jnp.zeros(classes, jnp.float32)}

    return super().parts() | {"encoder": own._replace(is_served=True, is_fresh=False),
                              "length": types.Part(init, is_served=True)}

  def prepare(self, params, batch, key, context):
    """Draws the first corruption and the uniforms of the later ones.

    Returns:
      The batch with `noisy_tokens` int32 [B, L] and `uniforms` float32 [B, K - 1, L]; weights: K
      times the number of target tokens, and the number of rows.
    """
    del params, context
    is_target, length = mask_lib.allowed_positions(batch), batch["tokens"].shape[1]
    keys = lambda name: rng.per_example(rng.stream(key, name), batch["example_index"])
    rate = jax.vmap(jax.random.uniform)(keys("rate"))
    draw = lambda shape: jax.vmap(lambda one: jax.random.uniform(one, shape))
    is_noisy = is_target & (draw((length,))(keys("choose")) < rate[:, None])
    usual = jnp.asarray(np.array(self.random_ids, np.int32))
    others = usual[jax.vmap(lambda one: jax.random.randint(one, (length,), 0, len(usual)))(
        keys("replace"))]
    return batch | {
        "noisy_tokens": jnp.where(is_noisy, others, batch["tokens"]),
        "uniforms": draw((self.num_unrolls - 1, length))(keys("unroll"))}, {
            "denoise": self.num_unrolls * is_target.sum(dtype=jnp.float32),
            "length": is_target.any(axis=1).sum(dtype=jnp.float32)}

  def source_of(self, params: types.Params, batch: types.Batch, noise: jax.Array | None = None
                ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Reads sources.

    Returns:
      Their states [B, S, D], which are real bool [B, S], and log-probabilities of the lengths 1 ..
      `max_length` of the targets, float32 [B, max_length].
    """
    segments = batch["source_segment_ids"]
    states = self.source_network.encode(
        params["encoder"], types.Inputs(batch["source"], segment_ids=segments),
        attention=self.visibility, noise=reading.noise_of(noise, batch)).last
    is_real = segments > 0
    weight = is_real[..., None] / jnp.maximum(is_real.sum(axis=1), 1)[:, None, None]
    pooled = (states.astype(jnp.float32) * weight).sum(axis=1)
    return states, is_real, jax.nn.log_softmax(heads.affine(params["length"], pooled), axis=-1)

  def __call__(self, params, batch, context):
    """Sums of -log p of the target tokens over the unrolled steps, and of the lengths."""
    tokens, is_target = batch["tokens"], mask_lib.allowed_positions(batch)
    states, is_real, lengths = self.source_of(
        params, batch, reading.noise_for(context.noise, "source"))
    noisy, losses = batch["noisy_tokens"], []
    for step in range(self.num_unrolls):
      inputs = reading.inputs_of(batch, noisy, context=states, context_mask=is_real)
      hidden = self.network.encode(params["model"], inputs, attention=self.visibility,
                                   noise=reading.noise_of(reading.noise_for(
                                       context.noise, "unroll", step), batch)).last
      logits = self._blocked(self.network.head(params["model"], hidden, "lm"))
      losses.append(jnp.where(is_target, heads.cross_entropy(logits, tokens), 0.0).sum(axis=1))
      if step + 1 < self.num_unrolls:
        drawn = heads.sample(jax.lax.stop_gradient(logits), batch["uniforms"][:, step])
        noisy = jnp.where(is_target, drawn, tokens)
    rows, count = sum(losses), is_target.sum(axis=1)
    picked = jnp.take_along_axis(lengths, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    length_nats = jnp.where(count > 0, -picked, 0.0).sum()
    is_right = (lengths.argmax(axis=1) + 1 == count) & (count > 0)
    weight = (self.num_unrolls * count).astype(jnp.float32)
    number = (count > 0).sum(dtype=jnp.float32)
    return {"denoise": rows.sum(), "length": length_nats}, types.Aux(
        {"denoise_nats": (rows.sum(), weight.sum()), "length_nats": (length_nats, number),
         "length_accuracy": (is_right.sum(dtype=jnp.float32), number)},
        {"nll": rows, "count": weight}, {})

  def _blocked(self, logits):
    return heads.block_columns(logits, self.mask_id, None if self.pad_id < 0 else self.pad_id)

  @property
  def visibility(self):
    """Full attention within a text."""
    return attention_lib.Full()

  def reader(self):
    """Reader of targets, with the states of a source."""
    return types.Reader(self.answer, self.visibility, sampler="refinement", reads_context=True)

  def answer(self, params, request):
    """Logits of the clean tokens, with random ones for masks; see `types.Request`."""
    number = request.tokens.shape[1]
    usual = np.array(self.random_ids, np.int32)
    drawn = usual[np.random.default_rng(0).integers(len(usual), size=number)]
    tokens = jnp.where(request.tokens == self.mask_id, drawn[None], request.tokens)
    found = reading.logits_at(self.network, params["model"], request, tokens=tokens,
                              attention=self.visibility, time=None, blocked=self.mask_id)
    return found._replace(logits=self._blocked(found.logits))
