r"""A causal model that reads a long text in windows, with a recurrent state between them.

Contents: Recurrent.

Convention: a row is a long text, cut into windows of w tokens that the network reads one by one.
Before the tokens of a window stand M memory slots: the embedding of the mask token plus a vector
that a small MLP makes of the pooled states of the window before and of the slots before. Every
token sees the slots, in all layers; the slots see themselves. Targets of a window are never read in
it before they are predicted, nor pooled before the next window.

Reference: Yoshida, Ettinger & Gimpel 2020, arXiv:2008.07027 (recurrence for a pretrained decoder;
here several slots are allowed, and they are inputs of all layers).
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
from mdx.objectives import reading
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recurrent(types.Objective):
  """-sum over i of log p(x_i | x_<i of its window, memory of the windows before), in nats; exact.

  The gradient passes through all windows of a row. Each window is rematerialised, so that memory is
  that of one window and of the slots, whatever the number of windows.

  Attributes:
    network: the model, read with causal attention.
    mask_id: id that no text has; the start of a row, and the embedding of the slots.
    window: w; it divides `data.length`. The whole row is one window of full context.
    num_slots: M; 0: windows know nothing of each other.
    layer: block whose states are pooled, counted from the top if negative.
    hidden: width of the MLP; 0: that of the embeddings.
  """
  network: types.Network
  mask_id: int
  window: int
  num_slots: int = 1
  layer: int = -1
  hidden: int = 0

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(window=1, num_slots=0, hidden=0))
    if not -self.network.num_layers <= self.layer < self.network.num_layers:
      raise ValueError(f"objective.layer {self.layer} is none of the {self.network.num_layers} "
                       f"layers; choose from {-self.network.num_layers} to "
                       f"{self.network.num_layers - 1}.")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"nll": 1.0}

  def check_length(self, length):
    """Refuses rows that are no whole number of windows."""
    if length % self.window:
      raise ValueError(f"objective.window {self.window} does not divide data.length {length}; use "
                       "a divisor.")

  @classmethod
  def complete(cls, config, data):
    """The config; ValueError for rows of several texts that do not know each other."""
    del data
    if config["data"].get("isolate_documents", True):
      raise ValueError("objective recurrent carries memory along a row, which is one text; set "
                       "data.isolate_documents=False.")
    return config

  def longest(self, length):
    """Positions of a window."""
    del length
    return self.window + self.num_slots

  @functools.cached_property
  def _columns(self) -> int:
    """Width of the embeddings."""
    assert self.network.embed is not None  # a transformer has one
    params = jax.eval_shape(self.network.init, rng.root(0))
    return jax.eval_shape(self.network.embed, params, jnp.zeros(1, jnp.int32)).shape[-1]

  def parts(self):
    """The model, and the MLP with the first slots."""
    if not self.num_slots:
      return super().parts()
    size = self.num_slots * self._columns
    mlp = heads.mlp_part(self.network.width + size, self.hidden or self._columns, size)

    def init(key):
      return mlp.init(key) | {"first": jnp.zeros((self.num_slots, self._columns), jnp.float32)}

    return super().parts() | {"memory": types.Part(init, is_served=True)}

  def prepare(self, params, batch, key, context):
    """Draws nothing; the weight is the number of supervised tokens."""
    del params, key, context
    return batch, {"nll": mask_lib.allowed_positions(batch).sum(dtype=jnp.float32)}

  def read_window(self, params: types.Params, memory: jax.Array, previous: jax.Array,
                  is_real: jax.Array, noise: types.Noise | None = None
                  ) -> tuple[jax.Array, jax.Array]:
    """Reads a window.

    Args:
      params: of the parts.
      memory: float32 [B, M, E], the slots.
      previous: int32 [B, w], the token before each position.
      is_real: bool [B, w], False on padding.
      noise: of the reading.

    Returns:
      States [B, w, D], and the slots of the next window.
    """
    rows, slots = len(previous), self.num_slots
    join = lambda left, right: jnp.concatenate([left, right], axis=1) if slots else right
    inputs = types.Inputs(
        join(jnp.full((rows, slots), self.mask_id, previous.dtype), previous),
        join(jnp.zeros((rows, slots), jnp.int32),
             jnp.broadcast_to(jnp.arange(previous.shape[1])[None], previous.shape)),
        join(jnp.ones((rows, slots), jnp.int32), is_real.astype(jnp.int32)),
        added=jnp.pad(memory, ((0, 0), (0, previous.shape[1]), (0, 0))) if slots else None)
    found = self.network.encode(params["model"], inputs, attention=self.visibility, noise=noise,
                                keep_layers=bool(slots))
    if not slots:
      return found.last, memory
    pooled = found.layers[self.layer][:, slots:].astype(jnp.float32)
    weight = is_real[..., None] / jnp.maximum(is_real.sum(axis=1), 1)[:, None, None]
    given = jnp.concatenate([(pooled * weight).sum(axis=1), memory.reshape(rows, -1)], axis=1)
    return found.last[:, slots:], heads.mlp(params["memory"], given).reshape(memory.shape)

  def losses(self, params: types.Params, batch: types.Batch, noise: jax.Array | None = None
             ) -> tuple[jax.Array, jax.Array]:
    """-log p of every target, float32 [B, L], and whether it is the most likely token."""
    tokens, is_target = batch["tokens"], mask_lib.allowed_positions(batch)
    is_real = mask_lib.text_positions(batch)
    rows, length = tokens.shape
    before = batch.get("before", jnp.full(rows, self.mask_id, tokens.dtype))
    previous = jnp.concatenate([before[:, None], tokens[:, :-1]], axis=1)
    cut = lambda x: x.reshape(rows, length // self.window, self.window).swapaxes(0, 1)
    memory = jnp.zeros((rows, 0, 0))
    if self.num_slots:
      memory = jnp.broadcast_to(params["memory"]["first"][None],
                                (rows, *params["memory"]["first"].shape))

    def step(memory, given):
      number, previous, tokens, is_target, is_real = given
      key = reading.noise_for(noise, "window", number)
      hidden, memory = self.read_window(params, memory, previous, is_real,
                                        reading.noise_of(key, batch))
      logits = heads.block_columns(self.network.head(params["model"], hidden, "lm"), self.mask_id)
      nats = jnp.where(is_target, heads.cross_entropy(logits, tokens), 0.0)
      return memory, (nats, is_target & (logits.argmax(axis=-1) == tokens))

    windows = (jnp.arange(length // self.window), *map(cut, (previous, tokens, is_target, is_real)))
    _, found = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), memory, windows)
    nats, is_right = (x.swapaxes(0, 1).reshape(rows, length) for x in found)
    return nats, is_right

  def __call__(self, params, batch, context):
    """Sum of -log p over the rows."""
    nats, is_right = self.losses(params, batch, context.noise)
    rows, total = nats.sum(axis=1), nats.sum()
    count = mask_lib.allowed_positions(batch).sum(axis=1, dtype=jnp.float32)
    return {"nll": total}, types.Aux(
        {"nats_per_token": (total, count.sum())},
        {"nll": rows, "count": count, "right": is_right.sum(axis=1, dtype=jnp.float32)}, {})

  def bound(self, estimator):
    """This objective: exact."""
    del estimator
    return self

  @property
  def visibility(self) -> Any:
    """Causal attention."""
    return attention_lib.Causal()
