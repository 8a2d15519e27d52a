"""Masked autoregression: the next token from a context some of whose tokens are masked.

Contents: MEAP (pre-training), MEAPFineTuning (on answers).

Convention: inputs are masked, targets never are; everything else is `ar.AutoRegressive`. A model is
scored and sampled without masks. The mask is also the start token unless `start_id` names another.

Reference: Zhuang et al. 2025, arXiv:2502.07490 (mask-enhanced autoregressive prediction).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.objectives.causal import ar
from mdx.utils import rng


def _is_text(batch):
  segments = batch.get("segment_ids")
  return jnp.ones(batch["tokens"].shape, bool) if segments is None else segments > 0


def _is_last(batch):
  """The last token of each document, which is nobody's context."""
  tokens, segments = batch["tokens"], batch.get("segment_ids")
  if segments is None:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1, tokens.shape)
  following = jnp.pad(segments[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  return segments != following


def _selected(key, batch, rate, candidates):
  """A share `rate` of each row's candidates, rounded down, bool [B, L]."""
  keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
  # The margin keeps 0.15 * 20 at 3, whatever its rounding in float32.
  count = jnp.floor(rate * candidates.sum(axis=1) + 1e-4).astype(jnp.int32)
  return mask_lib.exact_count(keys, count, candidates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEAP(ar.AutoRegressive):
  """-sum over i of log p(x_i | masked x_<i), in nats, over all tokens.

  Exactly floor(mask_rate * candidates) inputs of a row are masked, drawn anew for each row and step
  (the authors' code draws one mask for a whole batch, of 51 that recur). The last token of a
  document is no candidate, for it is nobody's input.

  Attributes:
    mask_rate: share of the inputs that is masked, in [0, 1); 0 is next-token prediction.
    protect_last: so many tokens before the end of each row's text are never masked (a query).
  """
  mask_rate: float = 0.15
  protect_last: int = 0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least=dict(protect_last=0),
                     between=dict(mask_rate="[0, 1)"))

  def check_length(self, length: int) -> None:
    """Raises ValueError if nothing could be masked in rows of `length` tokens."""
    if self.mask_rate and int(self.mask_rate * (length - 1 - self.protect_last) + 1e-4) < 1:
      raise ValueError(f"objective.mask_rate {self.mask_rate} masks nothing of a row of {length} "
                       f"tokens of which the last {self.protect_last} are protected; raise it, or "
                       "data.length.")

  def prepare(self, params, batch, key, context):
    """Masks inputs; the weight is the number of supervised tokens."""
    batch, weights = super().prepare(params, batch, key, context)
    is_text = _is_text(batch)
    left = is_text[:, ::-1].cumsum(axis=1)[:, ::-1]  # text from a position to the end of the row
    candidates = is_text & ~_is_last(batch) & (left > self.protect_last)
    selected = _selected(key, batch, self.mask_rate, candidates)
    return batch | {"inputs": replace_lib.mask_all(batch["tokens"], selected,
                                                   self.mask_id)}, weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEAPFineTuning(ar.AutoRegressive):
  """Next-token loss on answers, and on what is masked in a second reading of the example.

  copies: the second reading is a row of its own. `mask_rate` of the answer is masked, and only that
    is predicted (the authors' code).
  concatenated: it follows the first in one row of twice the length, which it sees; `mask_rate` of
    its whole text is masked and predicted (the paper).
  Either is left out for answers of at most `min_answer` tokens. The weight counts all predictions.

  Attributes:
    form: "copies" or "concatenated".
    mask_rate: share that is masked, in (0, 1).
    min_answer: see above.
  """
  form: str = "copies"
  mask_rate: float = 0.1
  min_answer: int = 50

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices=dict(form=_FORMS), at_least=dict(min_answer=0),
                     between=dict(mask_rate="(0, 1)"))
    if self.start != "always":
      raise ValueError(f"objective.start {self.start!r} is not for meap on answers, whose readings "
                       "both begin with the start token; use always.")

  def prepare(self, params, batch, key, context):
    """Draws the masks of the second reading; the weight counts the targets of both."""
    del params, context
    answer = mask_lib.allowed_positions(batch)
    if self.form == "copies":
      candidates = answer
    else:
      candidates = _is_text(batch)
    selected = _selected(key, batch, self.mask_rate, candidates)
    selected &= answer.sum(axis=1, keepdims=True) > self.min_answer
    count = answer.sum(dtype=jnp.float32) + selected.sum(dtype=jnp.float32)
    return batch | {"is_masked": selected}, {"nll": count}

  def __call__(self, params, batch, context):
    """Sum of -log p over both readings."""
    rows = _FORMS[self.form](batch, self._inputs(batch),
                             self._previous(replace_lib.mask_all(
                                 batch["tokens"], batch["is_masked"], self.mask_id),
                                            batch.get("segment_ids")))
    total, aux = super().__call__(params, rows, context)
    split = lambda x: x.reshape(2, -1).sum(axis=0) if self.form == "copies" else x
    return total, aux._replace(rows={k: split(v) for k, v in aux.rows.items()})


def _as_copies(batch, first, second):
  """Both readings as rows: first all the one, then all the other."""
  twice = lambda x: jnp.concatenate([x, x])
  fields = {k: twice(v) for k, v in batch.items() if k in ("tokens", "segment_ids", "positions")}
  index = batch["example_index"]
  return fields | {"previous": jnp.concatenate([first, second]), "loss_mask": jnp.concatenate(
      [mask_lib.allowed_positions(batch), batch["is_masked"]]),
                   "example_index": jnp.concatenate([index, ~index])}  # noise of its own


def _as_one_row(batch, first, second):
  """The second reading behind the first, in the same segments, with positions that go on."""
  tokens, length = batch["tokens"], batch["tokens"].shape[1]
  join = lambda a, b: jnp.concatenate([a, b], axis=1)
  positions = batch.get("positions")
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
  segments = batch.get("segment_ids")
  if segments is None:
    segments = jnp.ones(tokens.shape, jnp.int32)
  sizes = jax.vmap(lambda s: jax.ops.segment_sum(jnp.ones_like(s), s, length + 1)[s])(segments)
  return {"tokens": join(tokens, tokens), "segment_ids": join(segments, segments),
          "positions": join(positions, positions + sizes), "previous": join(first, second),
          "loss_mask": join(mask_lib.allowed_positions(batch), batch["is_masked"]),
          "example_index": batch["example_index"]}


_FORMS = {"copies": _as_copies, "concatenated": _as_one_row}
