"""Masked language modelling.

Contents: MaskedLM.

References: Devlin et al. 2019, arXiv:1810.04805; Wettig et al. 2023, arXiv:2202.08005 (rates of
corruption and of prediction); Di Liello 2023 (swapped language modelling, in "Structural
Self-Supervised Objectives for Transformers"); those of `mdx.objectives.tokens.selection`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Mapping

import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import replace as replace_lib
from mdx.objectives import reading
from mdx.objectives.tokens import selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(selection.Selection):
  """-sum over predicted i of log p(x_i | corrupted x), in nats.

  The weight is the number of predicted tokens. Not a likelihood. With `replace_mask_rate` 0 and
  `replace_random_rate` 1 there is never a [MASK]: the swapped language model (SLM) of Di Liello
  2023.

  Attributes (more in `Selection`):
    replace_mask_rate: share of the selected that becomes [MASK].
    replace_random_rate: share that becomes a random token; the rest is kept.
    replace_together: whether all of a span or unit meets the same of these fates.
    predict_rate: 0: all that is corrupted is predicted, and nothing else. Below `mask_rate`: so
      large a share of the units, a part of the corrupted ones. A multiple of `mask_rate`: the row
      is read as often, with disjoint selections, each predicted: more is predicted, no more is
      corrupted, at that multiple of the cost.
  """
  replace_mask_rate: float = 0.8
  replace_random_rate: float = 0.1
  replace_together: bool = False
  predict_rate: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    rates = ("replace_mask_rate", "replace_random_rate")
    config_lib.check(self, "objective", between=dict.fromkeys(("predict_rate", *rates), "[0, 1]"))
    if (total := sum(getattr(self, name) for name in rates)) > 1 + 1e-6:
      raise ValueError(f"objective.{' + '.join(rates)} must be at most 1, got {total}.")
    self._check_copies()

  def _check_copies(self):
    if self.predict_rate <= self.mask_rate:
      return
    if not math.isclose(self.num_copies * self.mask_rate, self.predict_rate, rel_tol=1e-6):
      raise ValueError(f"objective.predict_rate {self.predict_rate} must be below mask_rate "
                       f"{self.mask_rate} or a multiple of it; use "
                       f"{self.num_copies * self.mask_rate:.6g}.")
    if self.span_max > 1 or self.final_mask_rate:
      raise ValueError("objective.predict_rate above mask_rate makes disjoint selections of one "
                       "size, without spans (span_max=1) or a final_mask_rate.")

  @property
  def num_copies(self) -> int:
    """Readings of a row, with disjoint selections."""
    return max(round(self.predict_rate / self.mask_rate), 1)

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"mlm": 1.0}

  def prepare(self, params, batch, key, context):
    """Selects and replaces tokens; the weight is the number of predicted ones.

    Returns:
      The batch with `noisy_tokens` and `is_target` [B, L], or [B, copies, L].
    """
    del params
    rate, draws = self.rate(context.step), self.draws(batch, key)
    words = self.words(batch)
    noisy, targets = [], []
    for nth in range(self.num_copies):
      selected, units = self.select(draws("mask"), rate, batch, words, nth)
      noisy.append(replace_lib.mask_random_keep(
          draws(f"replace {nth}" if nth else "replace"), batch["tokens"], selected,
          mask_id=self.mask_id, vocab_size=self.network.vocab_size,
          mask_rate=self.replace_mask_rate, random_rate=self.replace_random_rate,
          units=units if self.replace_together else None,
          others=self.random_tokens(draws, batch)))
      if 0 < self.predict_rate < self.mask_rate:
        share = jnp.minimum(self.predict_rate / rate, 1.0)
        selected = self.draw(draws("predict"), share, selected, units)
      targets.append(selected)
    if self.num_copies == 1:
      fields = {"noisy_tokens": noisy[0], "is_target": targets[0]}
    else:
      fields = {"noisy_tokens": jnp.stack(noisy, 1), "is_target": jnp.stack(targets, 1)}
    return batch | fields, {"mlm": fields["is_target"].sum(dtype=jnp.float32)}

  def random_tokens(self, draws, batch):
    """Random tokens to write, int32 [B, L], uniform ones where negative; None: all."""
    del draws, batch
    return None

  def read(self, params, batch, context):
    """Reads like `Selection`, with the copies of a row one behind the other: [B * copies, L, D]."""
    noisy = batch["noisy_tokens"].reshape(-1, batch["tokens"].shape[1])
    return batch, self.network.encode(
        params["model"], reading.copied_inputs(batch, noisy, self.num_copies),
        attention=self.visibility,
        noise=reading.noise_of(context.noise, batch, self.num_copies)).last

  def score(self, params, batch, hidden, context):
    """Sum of -log p(x_i | noisy) over the predicted tokens."""
    del context
    tokens, is_target = batch["tokens"], batch["is_target"]
    losses = self.at_targets(
        self.network, params["model"], hidden, jnp.repeat(tokens, self.num_copies, axis=0),
        is_target.reshape(-1, tokens.shape[1]), rate=self._target_rate)
    rows = losses.reshape(tokens.shape[0], -1).sum(axis=1)
    count = is_target.reshape(tokens.shape[0], -1).sum(axis=1, dtype=jnp.float32)
    total = rows.sum()
    metrics = {"masked_nats": (total, count.sum())}
    return {"mlm": total}, types.Aux(metrics, {"nll": rows, "count": count}, {})

  @property
  def _target_rate(self) -> float:
    """Share of the positions of a reading that are predicted, at most."""
    highest = max(self.mask_rate, self.final_mask_rate)
    return min(self.predict_rate, highest) if 0 < self.predict_rate < self.mask_rate else highest

  def reader(self):
    """Reader for any rule but the ancestral one, which needs the schedule of a process."""
    return types.Reader(self.answer, self.visibility)

  def answer(self, params, request):
    """Logits of the clean tokens; see `types.Request`."""
    return reading.logits_at(self.network, params["model"], request, tokens=request.tokens,
                             attention=self.visibility, time=None, blocked=self.mask_id)
