"""Held-out texts, and texts of another kind, read with hidden states that move.

Contents: Moving, MovingStates.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.data import pipeline
from mdx.eval import hidden_states
from mdx.eval import likelihood
from mdx.objectives.causal import ar
from mdx.utils import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moving:
  """Fields of `config.eval.moving`.

  Attributes:
    window: tokens that are read before the states move; it divides `data.length`.
    rates: of the steps; 0, states that stay, is read beside them.
    num_rows: rows of each text; 0 = all.
    other: fields of a source of texts of another kind; {}: none.
  """
  window: int = 32
  rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
  num_rows: int = 0
  other: Any = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    config_lib.check(self, "eval.moving", at_least=dict(window=1, num_rows=0))
    if not self.rates or not all(rate > 0 for rate in self.rates):
      raise ValueError(f"eval.moving.rates must be positive, got {self.rates}; 0 is read anyway.")


def settings_of(config: Mapping[str, Any]) -> Moving:
  """`config.eval.moving`; ValueError for values without meaning."""
  fields = config_lib.to_dict(config["eval"].get("moving", {}))
  if isinstance(fields.get("rates"), list):
    fields["rates"] = tuple(fields["rates"])
  found = config_lib.construct(Moving, fields, what="eval.moving")
  if config["data"]["length"] % found.window:
    raise ValueError(f"eval.moving.window {found.window} does not divide data.length "
                     f"{config['data']['length']}; use a divisor.")
  return found


class MovingStates(types.Evaluator):
  """Nats per token with hidden states that move after each window (`eval.hidden_states`).

  Results, of each rate R and of 0: moving_nats_R of the validation split, other_nats_R of the other
  texts; and moving_gain_R, other_gain_R, what R has less than 0. The tokens of a row know what
  stands before them in the row. Nothing during training.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._settings = parts, settings_of(parts.config)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for another objective, settings without meaning, or rows too long."""
    if not isinstance(objective, ar.AutoRegressive) or objective.start != "always":
      raise ValueError("eval.evaluators moving_states reads texts from left to right, which "
                       f"objective {config['objective']['name']} does not, or begins otherwise; "
                       "use objective ar, with start always.")
    own, length = settings_of(config), config["data"]["length"]
    most = config["network"]["max_length"]
    if length + own.window > most:
      raise ValueError(f"eval.moving.window {own.window} and data.length {length} are "
                       f"{length + own.window} positions, more than network.max_length {most}; "
                       "shorten one of them.")
    if config["data"].get("isolate_documents", True):
      raise ValueError("eval.evaluators moving_states carries states along a row, which is one "
                       "text; set data.isolate_documents=False.")

  @functools.cached_property
  def _losses(self):
    """((params, rate), batch) -> float32 [B, L]; one program for all rates."""
    parts, own = self._parts, self._settings
    return processes.Jitted(lambda given, batch: hidden_states.losses(
        parts.objective, given[0], batch, window=own.window,
        adam=hidden_states.Adam(given[1])))

  def __call__(self, params, frozen, *, quick):
    """Reads both texts at every rate; nothing during training."""
    del frozen
    own, config = self._settings, self._parts.config["data"]
    if quick:
      return {}
    results = {}
    texts = {"moving": config} | ({"other": {**config, "source": own.other}} if own.other else {})
    for name, data in texts.items():
      for rate in (0.0, *own.rates):
        results[f"{name}_nats_{rate:g}"] = self._nats(params, data, rate)
      nats = lambda rate: results[f"{name}_nats_{rate:g}"]  # pylint: disable=cell-var-from-loop
      results |= {f"{name}_gain_{rate:g}": nats(0.0) - nats(rate) for rate in own.rates}
    return results

  def _nats(self, params, data, rate):
    """Nats per token of the validation split of some data."""
    parts, limit = self._parts, self._settings.num_rows
    size = parts.config["batch_size"]
    batches = pipeline.build(data, parts.tokenizer, split="validation", batch_size=size, seed=0,
                             shuffle=False, repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i * size < limit)
    found, rows = likelihood.run_batches(self._losses, (params, jnp.float32(rate)), batches,
                                         mesh=parts.mesh)
    return float(sum(map(np.sum, found)) / sum(row["loss_mask"].sum() for row in rows))

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    names = [name for name in ("moving", "other") if f"{name}_nats_0" in results]
    head = f"{'rate of the states':<20}" + "".join(f"{name + ' nats':>14}" for name in names)
    lines = [f"{rate:<20g}" + "".join(f"{results[f'{name}_nats_{rate:g}']:14.4f}" for name in names)
             for rate in (0.0, *self._settings.rates)]
    return "\n".join([head, *lines]) if names else ""
