"""Training of a joint head: a frozen model's next conditionals, without its network calls.

Contents: JointHead, TOKENS.

Reference: Bansal & Sanghavi 2025, arXiv:2509.22738 (ADJUST).
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
from mdx.corruption import replace as replace_lib
from mdx.corruption import schedule as schedule_lib
from mdx.networks import drafter
from mdx.networks import heads
from mdx.objectives import wrapping
from mdx.utils import rng

TOKENS = ("data", "head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointHead(types.Objective):
  """KL of a model's conditionals to those of its joint head, after k unrolled tokens, in nats.

  A row is masked at a uniform number of positions. From the states of one call of the model, k
  tokens are written one after another, each at the position of least entropy; k is drawn with
  probability proportional to exp(2^-k), k = 1 .. `max_unroll`. The loss is
  KL(p_model(. | x_k) || p_k), summed over the positions that are masked still, at the last k
  alone; the gradient goes back through the unrolled steps, and the model has none. Rows with one
  masked position have no loss.

  Attributes:
    model: the objective that the model was trained with.
    mask_id: id of the mask token.
    max_unroll: most tokens that are written.
    tokens: "data" writes the tokens of the data, which may be samples of the model; "head" those
      that the head draws, from the distributions that it meets when it decodes.

  Raises:
    ValueError: a model that writes no text, or from left to right, or has no block to copy.
  """
  model: types.Objective
  mask_id: int
  max_unroll: int = 3
  tokens: str = "data"

  trains_model = False

  def __post_init__(self):
    config_lib.check(self, "objective", choices={"tokens": TOKENS}, at_least={"max_unroll": 1})
    reader = self.model.reader()
    if reader is None or reader.sampler in ("autoregressive", "uniform"):
      raise ValueError(f"objective.model {type(self.model).__name__} fills no masks; use one that "
                       "does, such as dict(name=\"diffusion\").")
    self.head  # pylint: disable=pointless-statement  (checks the network)

  @classmethod
  def build(cls, fields, world):
    """The model's own objective is built in the same world."""
    return wrapping.build(cls, fields, world, mask_id=world.tokenizer.mask_id)

  @property
  def network(self) -> types.Network:
    """The model's network."""
    return self.model.network

  @functools.cached_property
  def head(self) -> drafter.Head:
    """The joint head."""
    return drafter.Head(self.network, self.mask_id)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"kl": 1.0}

  def parts(self):
    """Parts of the model, and the head."""
    return {**self.model.parts(), "joint": self.head.part._replace(is_served=True)}

  def check_length(self, length):
    """Checks the length as the model does."""
    self.model.check_length(length)

  def check_fields(self, fields):
    """Checks the fields as the model does."""
    self.model.check_fields(fields)

  def prepare(self, params, batch, key, context):
    """Draws the masks and the number of tokens to write."""
    del params, context
    allowed, index = mask_lib.allowed_positions(batch), batch["example_index"]
    keys = lambda name: rng.per_example(rng.stream(key, name), index)
    time = batch["time"] if "time" in batch else 1 - jax.vmap(jax.random.uniform)(keys("time"))
    length = allowed.sum(axis=1)
    count = jnp.minimum(jnp.floor(length * (1 - time)).astype(jnp.int32) + 1, length)
    is_masked = mask_lib.exact_count(keys("mask"), count, allowed)
    chances = 0.5 ** jnp.arange(1, self.max_unroll + 1)
    unroll = 1 + jax.vmap(lambda k: jax.random.categorical(k, chances))(keys("unroll"))
    unroll = jnp.clip(unroll, 0, count - 1).astype(jnp.int32)
    number = jnp.where(unroll > 0, count - unroll, 0)
    batch = batch | {
        "noisy_tokens": replace_lib.mask_all(batch["tokens"], is_masked, self.mask_id),
        "is_masked": is_masked, "unroll": unroll, "num_scored": number.astype(jnp.float32),
        "draw_key": jax.vmap(jax.random.key_data)(keys("draw"))}
    return batch, {"kl": number.sum().astype(jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of the divergences; `stale_kl` is that of the model's own logits before the tokens."""
    del context
    model = jax.lax.stop_gradient({k: v for k, v in params.items() if k != "joint"})
    canvas = batch["noisy_tokens"]
    answer = self._ask(model, batch, canvas)
    first = heads.log_probs(answer.logits, self.mask_id)
    canvas, states = self._unrolled(params["joint"], model, batch, answer)
    said = heads.log_probs(self.head.logits(model["model"], states), self.mask_id)
    wanted = heads.log_probs(self._ask(model, batch, canvas).logits, self.mask_id)
    is_scored = (canvas == self.mask_id) & batch["is_masked"] & (batch["unroll"] > 0)[:, None]
    divergence = lambda log_probs: jnp.where(is_scored, _kl(wanted, log_probs), 0.0).sum(axis=1)
    rows, stale = divergence(said), divergence(first)
    number = batch["num_scored"]
    return {"kl": rows.sum()}, types.Aux(
        {"kl_nats": (rows.sum(), number.sum()), "stale_kl_nats": (stale.sum(), number.sum())},
        {"nll": rows, "count": number}, {})

  def _unrolled(self, own, model, batch, answer):
    """The canvas after `unroll` tokens, and the head's states there."""
    keys = jax.random.wrap_key_data(batch["draw_key"])
    canvas, states, logits = batch["noisy_tokens"], answer.states, answer.logits
    for number in range(self.max_unroll):
      goes_on = number < batch["unroll"]
      logits = heads.block_columns(jax.lax.stop_gradient(logits), self.mask_id)
      is_open = (canvas == self.mask_id) & batch["is_masked"]
      best = jnp.argmin(jnp.where(is_open, heads.entropy(logits), jnp.inf), axis=1)[:, None]
      tokens = batch["tokens"]
      if self.tokens == "head":
        uniform = jax.vmap(lambda key, n=number: jax.random.uniform(rng.stream(key, "token", n)))
        at_best = jnp.take_along_axis(logits, best[..., None], axis=1)[:, 0]
        tokens = jnp.broadcast_to(heads.sample(at_best, uniform(keys))[:, None], canvas.shape)
      is_next = (jnp.arange(canvas.shape[1])[None] == best) & goes_on[:, None]
      canvas = jnp.where(is_next, tokens, canvas)
      new = self.head.step(own, model["model"], states, canvas, batch.get("positions"),
                           batch.get("segment_ids"))
      states = jnp.where(goes_on[:, None, None], new, states)
      logits = self.head.logits(model["model"], states) if number + 1 < self.max_unroll else logits
    return canvas, states

  def _ask(self, model: types.Params, batch: types.Batch, canvas: jax.Array) -> types.Answer:
    """The model's answer at every position of a canvas."""
    left = ((canvas == self.mask_id) & batch["is_masked"]).sum(axis=1)
    share = left / jnp.maximum(mask_lib.allowed_positions(batch).sum(axis=1), 1)
    noise = dict(self._reader.noise or {"name": "linear"})
    alpha = config_lib.build(schedule_lib.SCHEDULES, noise, what="schedule")
    answer = self._reader.answer(model, types.Request(
        canvas, alpha.time(share), batch.get("positions"), batch.get("segment_ids")))
    assert answer.states is not None  # no cache was given
    return answer

  @property
  def _reader(self) -> types.Reader:
    reader = self.model.reader()
    assert reader is not None  # as __post_init__ says
    return reader

  def embedder(self) -> types.Embedder:
    """The model's."""
    return self.model.embedder()

  def reader(self) -> Any:
    """The model's, with the head that sampler `joint` draws with."""
    return self._reader._replace(given={"head": self.head})


def _kl(wanted: jax.Array, log_probs: jax.Array) -> jax.Array:
  """KL of log-probabilities [..., V] to others, float32 [...]."""
  probs = jnp.exp(wanted)
  return jnp.where(probs > 0, probs * (wanted - log_probs), 0.0).sum(axis=-1)
