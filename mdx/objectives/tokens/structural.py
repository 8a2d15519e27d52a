"""Structural objectives: how the texts of a row belong together, beside a token-level objective.

Contents: Structural, HEADS, decisions.

Convention: rows are those of `data.source.name` "structure": special tokens begin the parts, and
`labels` says at which positions there is a decision to be made, 1 wrong or 2 right. A head sees the
hidden states of the parts' first positions: `first` [B, D] of the premise, `others` [B, k, D] of
several candidates.

References: Di Liello et al. 2022, arXiv:2205.10455 (SSP, SP, PSD); Di Liello et al. 2022,
arXiv:2205.01228 (joint inference over several candidates, the heads IE and AE).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives.tokens import selection
from mdx.utils import rng


def _each(params, first, others):
  del first
  return heads.mlp(params, others)[..., 0]


def _each_with_first(params, first, others):
  both = jnp.concatenate([jnp.broadcast_to(first[:, None], others.shape), others], axis=-1)
  return heads.mlp(params, both)[..., 0]


# Name -> (inputs of the MLP in widths, outputs for k candidates, its decisions [B, 1 or k]).
HEADS = {
    "pair": (1, lambda k: 1, lambda params, first, others: heads.mlp(params, first)),
    "ie_k": (1, lambda k: 1, _each),
    "ae_k": (2, lambda k: 1, _each_with_first),
    "re_k": (1, lambda k: k, lambda params, first, others: heads.mlp(params, first)),
    "ie_1": (1, lambda k: 1, lambda params, first, others: heads.mlp(params, first)),
    "ae_1": (1, lambda k: 1, lambda params, first, others: heads.mlp(params, others.sum(axis=1))),
}


def decisions(name: str, params: types.PyTree, hidden: jax.Array, num_candidates: int) -> jax.Array:
  """Scores that candidates are right: float32 [B, k]; [B, 1] of a head that decides once.

  Args:
    name: key of `HEADS`.
    params: of the head.
    hidden: [B, L, D].
    num_candidates: k; the slots of k > 1 candidates are L / (k + 1) positions long.
  """
  first, others = hidden[:, 0], None
  if num_candidates > 1:
    slot = hidden.shape[1] // (num_candidates + 1)
    others = hidden[:, slot::slot]
  return HEADS[name][2](params, first, others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structural(types.Objective):
  """A token-level objective + pair_weight * cross-entropy of whether candidates are right.

  The token-level objective corrupts the rows, and what is corrupted is what is judged. The weight
  of the second term is the number of decisions. `params["pair"]` is the head, an MLP.

  Attributes:
    token: the token-level objective (in a config its `name` and fields): mlm, rts, cluster_rts,
      electra.
    head: "pair" for one candidate. For several: "ie_k" each from its own first position, "ae_k"
      from that and the premise's, "re_k" all from the premise's; "ie_1" (from the premise's) and
      "ae_1" (from the sum of the candidates') decide once, whether any is right.
    num_candidates: candidates of a row, those of the data.
    pair_weight: factor of the second term; 0 leaves it out of the loss.

  Raises:
    ValueError: a head that does not fit the candidates, or a token-level objective that reads rows
      several times.
  """
  token: selection.Selection
  head: str = "pair"
  num_candidates: int = 1
  pair_weight: float = 1.0

  def __post_init__(self):
    config_lib.check(self, "objective", choices=dict(head=HEADS),
                     at_least=dict(num_candidates=1, pair_weight=0))
    if (self.head == "pair") != (self.num_candidates == 1):
      raise ValueError(f"objective.head {self.head} does not fit {self.num_candidates} candidates; "
                       "use pair for one, another head for several.")
    if not isinstance(self.token, selection.Selection) or self.token.num_copies > 1:
      raise ValueError("objective.token must be a token-level objective that reads a row once "
                       "(mlm, rts, cluster_rts, electra, without copies).")

  @property
  def network(self) -> types.Network:
    """The model."""
    return self.token.network

  @property
  def scales(self) -> Mapping[str, float]:
    """The terms of the token-level objective, and one of the pairs."""
    return {**self.token.scales, "pair": self.pair_weight}

  @property
  def visibility(self):
    """The attention value: across parts."""
    return attention_lib.Full()

  def check_length(self, length):
    """Slots of one length, and what the token-level objective needs."""
    if self.num_candidates > 1 and length % (self.num_candidates + 1):
      raise ValueError(f"data.length {length} is not divided by the {self.num_candidates + 1} "
                       "slots of a premise and its candidates; use a multiple.")
    self.token.check_length(length)

  @classmethod
  def build(cls, fields, world):
    """Builds it with the token-level objective, which has the network."""
    fields = dict(fields)
    return config_lib.construct(cls, fields, what="objective",
                                token=world.objective(fields.pop("token", {})))

  def parts(self):
    """Parts of the token-level objective, and the head."""
    width, (inputs, outputs, _) = self.network.width, HEADS[self.head]
    return {**self.token.parts(), "pair": heads.mlp_part(inputs * width, width,
                                                         outputs(self.num_candidates))}

  def init(self, key):
    """The token-level objective's own, and the head."""
    return {**self.token.init(key), "pair": self.parts()["pair"].init(rng.stream(key, "pair"))}

  def served(self, config):
    """The token-level objective, as it is served."""
    return self.token.served(config["token"])

  def also_served(self, params):
    """Networks of the token-level objective that are served too."""
    return self.token.also_served(params)

  def init_state(self):
    """State of the token-level objective."""
    return self.token.init_state()

  def prepare(self, params, batch, key, context):
    """Prepares the token-level objective; the pair term's weight is the number of decisions."""
    if "labels" not in batch:
      raise ValueError("structural objectives read premises with candidates; use data.source.name "
                       "structure.")
    batch, weights = self.token.prepare(params, batch, key, context)
    counted = self._labels(batch)[1]
    return batch, weights | {"pair": counted.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Totals and Aux; `rows` has the nats of the decisions."""
    batch, hidden = self.token.read(params, batch, context)
    totals, aux = self.token.score(params, batch, hidden, context)
    scores = decisions(self.head, params["pair"], hidden, self.num_candidates)
    labels, counted = self._labels(batch)
    nats = jnp.where(counted, heads.binary_cross_entropy(scores, labels), 0.0)
    count = counted.sum(axis=1, dtype=jnp.float32)
    right = (counted & ((scores > 0) == labels)).sum(dtype=jnp.float32)
    metrics = aux.metrics | {"pair_nats": (nats.sum(), count.sum()),
                             "pair_accuracy": (right, count.sum())}
    rows = {"nll": nats.sum(axis=1), "count": count}
    return totals | {"pair": nats.sum()}, types.Aux(metrics, rows, aux.state)

  def _labels(self, batch) -> tuple[Any, Any]:
    """Rightness of each candidate, and whether there is a decision, bool [B, 1 or k]."""
    labels = batch["labels"]
    if self.num_candidates == 1:
      labels = labels[:, :1]
    else:
      slot = labels.shape[1] // (self.num_candidates + 1)
      labels = labels[:, slot::slot]
    if self.head in ("ie_1", "ae_1"):
      labels = labels.max(axis=1, keepdims=True)
    return labels == 2, labels > 0
