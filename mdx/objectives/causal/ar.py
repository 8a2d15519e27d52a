"""Autoregressive language modelling.

Contents: AutoRegressive.

Convention: a start token is put before every document of a row, so all
tokens are predicted and the likelihood of a row is complete. With another `start` a document begins
as its tokenizer has it: its own first token takes that place and is not predicted.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib


STARTS = ("always", "missing", "never")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoRegressive(types.Objective):
  """-sum over i of log p(x_i | x_<i), in nats; exact.

  The weight is the number of supervised tokens, so total / weight is nats per
  token. The mask id occurs in no data: it gets probability 0.

  Attributes:
    network: the model, read with causal attention.
    mask_id: id of the mask token.
    start_id: the start token's id; -1 = the mask id.
    start: documents that it is put before: "always"; "missing", those that do not begin with it;
      or "never".
  """
  network: types.Network
  mask_id: int
  start_id: int = -1
  start: str = "always"

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(start=STARTS))
    if not -1 <= self.start_id < self.network.vocab_size:
      raise ValueError(f"objective.start_id {self.start_id} is not among the "
                       f"{self.network.vocab_size} ids of the model; -1 takes the mask id.")

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"nll": 1.0}

  def prepare(self, params, batch, key, context):
    """Draws nothing; the weight is the number of supervised tokens."""
    del params, key, context
    batch = self._begun(batch)
    return batch, {"nll": mask_lib.allowed_positions(batch).sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of -log p(x_i | x_<i) over the rows."""
    tokens, is_target = batch["tokens"], mask_lib.allowed_positions(batch)
    hidden = reading.encode(self.network, params["model"], batch, attention=self.visibility,
                            tokens=self._inputs(batch), noise=context.noise)
    losses, is_right = targets_lib.target_losses(
        self.network, params["model"], hidden, tokens, is_target, blocked=self.mask_id,
        score=_nats_and_right)
    rows = losses.sum(axis=1)
    total = rows.sum()
    count = is_target.sum(axis=1, dtype=jnp.float32)
    metrics = {"nats_per_token": (total, count.sum())}
    return {"nll": total}, types.Aux(
        metrics, {"nll": rows, "count": count, "right": is_right.sum(axis=1)}, {})

  def bound(self, estimator):
    """This objective without any masks: exact."""
    del estimator
    return AutoRegressive(network=self.network, mask_id=self.mask_id, start_id=self.start_id,
                          start=self.start)

  def reader(self):
    """Reader from left to right; the cache of a causal model is exact."""
    return types.Reader(self.answer, self.visibility, None, "autoregressive", (),
                        start_id=-1 if self.start == "always" else self.start_token)

  def embedder(self):
    """Embedder of rows that begin with the start token, unless documents never do."""
    return types.Embedder(self.visibility, () if self.start == "never" else (self.start_token,))

  def answer(self, params, request):
    """Logits of each token given those before it; see `types.Request`."""
    before, starts = reading.previous_positions(request.segment_ids, request.tokens.shape)
    start = self.start_token if request.before is None else request.before[:, None]
    previous = jnp.where(starts, start, jnp.take_along_axis(request.tokens, before, axis=1))
    if self.start != "always" and request.before is None:
      segments, _ = self._apart(request.tokens, request.segment_ids, starts)
      request = request._replace(segment_ids=segments)
    return reading.logits_at(self.network, params["model"], request, tokens=previous,
                             attention=self.visibility, time=None, blocked=self.mask_id)

  @property
  def visibility(self):
    """The attention value."""
    return attention_lib.Causal()

  def _inputs(self, batch):
    """Input of each position: `previous` if `prepare` gave it, else the token before it."""
    if "previous" in batch:
      return batch["previous"]
    return self._previous(batch.get("inputs", batch["tokens"]), batch.get("segment_ids"),
                          batch.get("before"))

  @property
  def start_token(self):
    """Id of the start token."""
    return self.mask_id if self.start_id < 0 else self.start_id

  def _begun(self, batch):
    """The rows, in which a document without a start token begins with its own first token."""
    if self.start == "always" or "before" in batch:
      return batch
    segments, is_alone = self._apart(
        batch["tokens"], batch.get("segment_ids"),
        reading.segment_starts(batch.get("segment_ids"), batch["tokens"].shape))
    return batch | {"previous": self._inputs(batch), "segment_ids": segments,
                    "loss_mask": mask_lib.allowed_positions(batch) & ~is_alone}

  def _apart(self, tokens, segments, starts):
    """Segments in which no position sees a start token that is not to be there; where it is."""
    is_alone = starts
    if self.start == "missing":
      is_alone &= tokens == self.start_token
    segments = jnp.ones(tokens.shape, jnp.int32) if segments is None else segments
    return jnp.where(is_alone, -1 - segments, segments), is_alone

  def _previous(self, tokens, segments, before=None):
    start = self.start_token if before is None else before[:, None]
    previous = jnp.concatenate([jnp.broadcast_to(start, (len(tokens), 1)).astype(tokens.dtype),
                                tokens[:, :-1]], axis=1)
    return jnp.where(reading.segment_starts(segments, tokens.shape), start, previous)


def _nats_and_right(logits, targets):
  """-log p(target), and 1 where the target is the most likely token."""
  is_right = logits.argmax(axis=-1) == targets
  return heads.cross_entropy(logits, targets), is_right.astype(jnp.float32)
