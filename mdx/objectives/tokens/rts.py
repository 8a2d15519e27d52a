"""Random token substitution: find the tokens that were replaced at random.

Contents: ReplacedTokens, ClusterReplacedTokens.

Convention: the label is that a token was selected, even where the random one is the original.
Special tokens and prompts are neither selected nor scored.

Reference: Di Liello et al. 2022, arXiv:2210.13815 ("Effective Pre-Training Objectives for
Transformer-based Autoencoders").
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Mapping

import jax.numpy as jnp
import numpy as np

from mdx import assets
from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.objectives.tokens import detection
from mdx.objectives.tokens import selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokens(selection.Selection):
  """Binary cross-entropy, at every token, of whether it was selected and replaced (RTS).

  Replacements are uniform over the vocabulary without the mask. The network needs the head "rtd",
  whose cost does not grow with the vocabulary; the weight is the number of tokens.
  """

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"rtd": 1.0}

  def prepare(self, params, batch, key, context):
    """Selects and replaces tokens; the batch gains `noisy_tokens` and `is_replaced` [B, L]."""
    del params
    draws = self.draws(batch, key)
    selected, _ = self.select(draws("mask"), self.rate(context.step), batch, self.words(batch))
    others = self.replacements(draws("replace"), batch["tokens"], context)
    noisy = jnp.where(selected, others, batch["tokens"])
    batch = batch | {"noisy_tokens": noisy, "is_replaced": selected}
    return batch, {"rtd": mask_lib.allowed_positions(batch).sum(dtype=jnp.float32)}

  def replacements(self, keys, tokens, context):
    """Replacement of each token, int32 [B, L]."""
    del context
    return replace_lib.random_tokens(keys, tokens.shape[1], vocab_size=self.network.vocab_size,
                                     mask_id=self.mask_id)

  def score(self, params, batch, hidden, context):
    """The cross-entropy of the rows."""
    del context
    counted = mask_lib.allowed_positions(batch)
    rows, is_wrong, metrics = detection.losses(self.network, params["model"], hidden,
                                               batch["is_replaced"], counted)
    count = counted.sum(axis=1, dtype=jnp.float32)
    state = self.state_sums(batch, is_wrong, counted)
    return {"rtd": rows.sum()}, types.Aux(metrics, {"nll": rows, "count": count}, state)

  def state_sums(self, batch, is_wrong, counted):
    """Sums to add to the state."""
    del batch, is_wrong, counted
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterReplacedTokens(ReplacedTokens):
  """RTS whose replacements drift to those that the model does not find (C-RTS).

  A token of cluster a is replaced by a uniform member of the cluster b, drawn in proportion to
  exp(sharpness * C[a, b]) with each row of C scaled to [0, 1]. C begins at 1; after each step every
  position with a token of a that reads b adds 1 to C[a, b] if the model was wrong about it, else
  -1. An evaluation has no such state: it draws b uniformly.

  Attributes (more in `Selection`):
    clusters: JSON file with the cluster of every id, as `python -m mdx.data.prepare clusters` makes
      it; "" = `num_clusters` equal runs of ids, which in a BPE are bands of frequency.
    num_clusters: with `clusters` "".
    sharpness: beta.
    count_changed: whether only positions that were replaced change C.

  Raises:
    ValueError: a file that is not there, or is of another vocabulary.
  """
  clusters: str = ""
  num_clusters: int = 16
  sharpness: float = 2.0
  count_changed: bool = False

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", at_least=dict(num_clusters=1, sharpness=0))
    self.partition  # pylint: disable=pointless-statement  (checks it)

  @functools.cached_property
  def partition(self) -> replace_lib.Clusters:
    """The clusters of the vocabulary, none of whose members is the mask."""
    num_ids = self.network.vocab_size
    if not self.clusters:
      of_token = np.arange(num_ids) * min(self.num_clusters, num_ids) // num_ids
      return replace_lib.Clusters.of(of_token, [self.mask_id])
    path = assets.resolve(self.clusters)
    of_token, excluded = selection.prepared("clusters", path, "of_token", "excluded")
    if len(of_token) != num_ids:
      raise ValueError(f"objective.clusters {path} is of {len(of_token)} ids, the network has "
                       f"{num_ids}; make clusters of its tokenizer.")
    return replace_lib.Clusters.of(of_token, [self.mask_id, *excluded])

  def init_state(self):
    """C, all ones."""
    num = len(self.partition.size)
    return {"confusion": jnp.ones((num, num), jnp.float32)}

  def replacements(self, keys, tokens, context):
    """A cluster by the confusions so far, and a member of it."""
    confusion = (context.state or self.init_state())["confusion"]
    probs = replace_lib.cluster_probs(confusion, self.sharpness, self.partition.size)
    return replace_lib.from_clusters(keys, tokens, self.partition, probs)

  def state_sums(self, batch, is_wrong, counted):
    """+1 for every wrong decision and -1 for every right one, at its two clusters."""
    of_token = jnp.asarray(self.partition.of_token)
    changed = batch["is_replaced"] if self.count_changed else counted
    change = jnp.where(changed & counted, jnp.where(is_wrong, 1.0, -1.0), 0.0)
    cells = of_token[batch["tokens"]], of_token[batch["noisy_tokens"]]
    zeros = jnp.zeros_like(self.init_state()["confusion"])
    return {"confusion": zeros.at[cells].add(change)}
