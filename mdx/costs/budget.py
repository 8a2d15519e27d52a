"""Cost of a whole run from the estimated time of its programs.

Contents: Budget, of_run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Budget(NamedTuple):
  """Cost of a run, without evaluation, checkpoints, data and restarts.

  Attributes:
    iterations: steps of training; of RL rollouts with their updates.
    days: wall time.
    chip_hours: over all chips.
    tokens: positions of the rows trained on, padding included; of RL those generated.
    money: `chip_hours` times the price; None without one.
  """
  iterations: int
  days: float
  chip_hours: float
  tokens: int
  money: float | None


def of_run(config: Mapping[str, Any], programs: Sequence[Mapping[str, Any]], *, num_chips: int,
           price: float = 0.0) -> Budget | None:
  """Returns the cost of a run; None where a program has no estimated time.

  Args:
    config: of training or RL.
    programs: entries of `compile.json`, all that an iteration runs, with `estimated_seconds` of one
      run of each and its `repeats`.
    num_chips: that run it.
    price: of a chip for an hour, in any currency; 0 = not known.
  """
  if any(one["estimated_seconds"] is None for one in programs):
    return None
  if "rollout" in config:
    rollout = config["rollout"]
    iterations = config["updates"] // rollout["epochs"]
    tokens = rollout["num_prompts"] * rollout["group_size"] * rollout["sampler"]["gen_length"]
  else:
    iterations, tokens = config["steps"], config["batch_size"] * config["data"]["length"]
  hours = iterations * sum(one["estimated_seconds"] * one["repeats"] for one in programs) / 3600
  return Budget(iterations, hours / 24, hours * num_chips, iterations * tokens,
                hours * num_chips * price if price else None)
