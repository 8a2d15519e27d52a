"""Speech recognition: connectionist temporal classification of transcripts.

Contents: CTC, greedy.

Convention: labels are the tokens of `transcript`; the blank is the tokenizer's padding. A row whose
transcript does not fit into its states (a state a label, and one between equal neighbours) has no
alignment: it is left out of the loss and counted in `unalignable`.

References: Graves et al. 2006 (CTC); Chung et al. 2021, arXiv:2108.06209 (fine-tuning of a
pre-trained encoder; there with an RNN transducer).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import frontends
from mdx.networks import heads
from mdx.objectives import reading


def greedy(ids: np.ndarray, is_real: np.ndarray, blank: int) -> list[list[int]]:
  """Labels of the best paths: repetitions are merged, then blanks dropped.

  Args:
    ids: int [B, T], the best label of every state.
    is_real: bool [B, T].
    blank: label that stands for none.
  """
  found = []
  for row, real in zip(ids, is_real):
    row = row[real]
    is_new = np.append(True, row[1:] != row[:-1])[:len(row)]
    found.append([int(i) for i in row[is_new] if i != blank])
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTC(types.Objective):
  """-log of the summed probability of all alignments of a transcript, in nats.

  The weight is the number of labels of transcripts that have an alignment.

  Attributes:
    network: the blocks; its embeddings and head are not used.
    frontend: fields of `networks.frontends.Subsampling`.
    vocab_size: labels, the blank among them.
    blank: id of the blank.
    init_std: spread of the new map to the labels.
  """
  network: types.Network
  frontend: frontends.Subsampling
  vocab_size: int
  blank: int
  init_std: float = 0.02
  evaluators = ("loss", "transcripts")
  signal = "frames"

  def __post_init__(self):
    config_lib.check(self, "objective", at_least=dict(init_std=0))

  @classmethod
  def build(cls, fields, world):
    """Builds it with its frontend, and the tokenizer's labels."""
    fields = dict(fields)
    frontend = config_lib.construct(
        frontends.Subsampling, fields.pop("frontend", {}), what="objective.frontend",
        width=world.network.width, num_inputs=fields.pop("num_inputs", 0))
    return config_lib.construct(
        cls, fields, what="objective", network=world.network, frontend=frontend,
        vocab_size=world.tokenizer.vocab_size, blank=world.tokenizer.pad_id)

  @classmethod
  def complete(cls, config, data):
    """The config with the channels of its data; refuses rows without transcripts."""
    if data.layout != "speech" or not config["data"].get("transcript_length"):
      raise ValueError(f"objective {config['objective']['name']} learns transcripts; set "
                       "data.layout='speech' and data.transcript_length to the tokens of the "
                       "longest one.")
    return {**config, "objective": {**config["objective"],
                                    "num_inputs": config["data"].get("channels", 0)}}

  @property
  def scales(self) -> Mapping[str, float]:
    """One term."""
    return {"ctc": 1.0}

  @property
  def visibility(self):
    """Full attention."""
    return attention_lib.Full()

  def parts(self):
    """The blocks, the frontend, and the map to the labels."""
    width, size = self.network.width, self.vocab_size
    init = lambda key: {
        "kernel": self.init_std * jax.random.normal(key, (width, size), jnp.float32),
        "bias": jnp.zeros(size, jnp.float32)}
    axes = lambda path, shape: ("embed", None) if len(shape) == 2 else (None,)
    return dict(super().parts()) | {"frontend": self.frontend.part(),
                                    "labels": types.Part(init, axes, is_served=True)}

  def inputs(self, params, batch):
    """The rows."""
    return self.frontend.embed(params["frontend"], batch)

  def logits(self, params: types.Params, batch: types.Batch,
             noise: Any = None) -> tuple[jax.Array, jax.Array]:
    """Scores of the labels float32 [B, T, V], and which states are real, bool [B, T]."""
    hidden = self.states(params, batch, noise)
    return heads.affine(params["labels"], hidden.astype(jnp.float32)), self.is_state(batch)

  def best(self, params: types.Params, batch: types.Batch) -> tuple[jax.Array, jax.Array]:
    """The best label of every state int32 [B, T], and which states are real, bool [B, T]."""
    logits, is_real = self.logits(params, batch)
    return logits.argmax(axis=-1), is_real

  def states(self, params, batch, noise=None):
    """States [B, T, D] of the recordings."""
    return self.network.encode(params["model"], self.inputs(params, batch),
                               attention=self.visibility,
                               noise=reading.noise_of(noise, batch)).last

  def is_state(self, batch):
    """States of real frames."""
    return self.frontend.is_real(batch)

  def labels_of(self, ids: np.ndarray, is_real: np.ndarray) -> list[list[int]]:
    """Transcripts of the best labels int [B, T] of the states that are real, bool [B, T]."""
    return greedy(ids, is_real, self.blank)

  def confidence(self, params, batch):
    """The probability of the most likely label at each state, without the blank.

    Of junk the blank is as sure as of speech.
    """
    probs = jax.nn.softmax(self.logits(params, batch)[0], axis=-1)
    is_blank = (jnp.arange(self.vocab_size) == self.blank)[None, None]
    return jnp.where(is_blank, 0.0, probs).max(axis=-1)

  def prepare(self, params, batch, key, context):
    """Draws nothing; finds the rows that have an alignment."""
    del params, key, context
    labels, states = batch["transcript"], self.frontend.is_real(batch).sum(axis=1)
    is_label = labels != self.blank
    repeats = (is_label[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(axis=1)
    fits = is_label.sum(axis=1) + repeats <= states
    is_scored = is_label & fits[:, None]
    return batch | {"is_scored": is_scored, "fits": fits}, {
        "ctc": is_scored.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    """Sum of the nats of the transcripts."""
    logits, is_real = self.logits(params, batch, context.noise)
    paddings = lambda x: 1.0 - x.astype(jnp.float32)
    nats = optax.ctc_loss(logits, paddings(is_real), batch["transcript"],
                          paddings(batch["transcript"] != self.blank), blank_id=self.blank)
    count = batch["is_scored"].sum(axis=1, dtype=jnp.float32)
    rows = jnp.where(count > 0, nats, 0.0)
    metrics = {"ctc_nats": (rows.sum(), count.sum()),
               "unalignable": ((~batch["fits"]).sum(dtype=jnp.float32),
                               jnp.float32(len(rows)))}
    return {"ctc": rows.sum()}, types.Aux(metrics, {"nll": rows, "count": count}, {})
