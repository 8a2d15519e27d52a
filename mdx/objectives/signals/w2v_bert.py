"""Masked speech modelling: contrasts of codes below, masked prediction of the codes above.

Contents: W2vBert, info_nce, distractors.

Convention: the first `context_layers` blocks read corrupted features and tell the code of a masked
state from those of other masked states; the blocks above them predict its number. The codes are of
the uncorrupted features. wav2vec 2.0 is this without blocks above, HuBERT without codes: the
deeper blocks predict fixed clusters of frames (`clusters`).

References: Chung et al. 2021, arXiv:2108.06209 (w2v-BERT); Baevski et al. 2020, arXiv:2006.11477
(wav2vec 2.0); Hsu et al. 2021, arXiv:2106.07447 (HuBERT); Baskar et al. 2022, arXiv:2202.12719
(Ask2Mask, `ask`). The context is standardised before its map to the codes' width.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mdx import assets
from mdx import config as config_lib
from mdx import types
from mdx.corruption import guided
from mdx.networks import attention as attention_lib
from mdx.networks import frontends
from mdx.networks import heads
from mdx.objectives import reading
from mdx.objectives.signals import ask as ask_lib
from mdx.objectives.signals import quantizer as quantizer_lib
from mdx.utils import rng


def distractors(keys: jax.Array, is_masked: jax.Array, number: int) -> jax.Array:
  """Other masked positions of the same row, bool [B, T, T]: up to `number` for each masked one.

  Args:
    keys: typed keys [B], consumed.
    is_masked: bool [B, T].
    number: drawn without replacement, uniformly.
  """
  length = is_masked.shape[1]
  allowed = is_masked[:, None, :] & is_masked[:, :, None] & ~jnp.eye(length, dtype=bool)[None]
  if number >= length - 1:
    return allowed
  draws = jax.vmap(lambda key: jax.random.uniform(key, (length, length)))(keys)
  rank = jnp.argsort(jnp.argsort(jnp.where(allowed, draws, 2.0), axis=2), axis=2)
  return allowed & (rank < number)


def info_nce(context: jax.Array, codes: jax.Array, is_candidate: jax.Array, temperature: float
             ) -> tuple[jax.Array, jax.Array]:
  """-log of the share of its own code in the exponentiated cosines with all candidates.

  Args:
    context: float32 [B, T, D].
    codes: float32 [B, T, D].
    is_candidate: bool [B, T, T], distractors of each position; its own code always counts.
    temperature: divides the cosines.

  Returns:
    Nats float32 [B, T], and whether the own code has the largest cosine, bool [B, T].
  """
  unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)
  scores = jnp.einsum("btd,bsd->bts", unit(context), unit(codes)) / temperature
  own = jnp.eye(scores.shape[1], dtype=bool)[None]
  scores = jnp.where(is_candidate | own, scores, heads.NEVER)
  target = jnp.broadcast_to(jnp.arange(scores.shape[1])[None], scores.shape[:2])
  is_best = scores >= scores.max(axis=-1, keepdims=True)
  return heads.cross_entropy(scores, target), (is_best & own).any(-1) & is_candidate.any(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class W2vBert(types.Coupled):
  """Contrast, diversity of the codes and masked prediction, in nats a masked state.

  contrast: -log exp(cos(c_t, q_t) / T) / sum of that over q_t and the codes of distractors.
  diversity: (V - exp(H(p))) / V of the mean distribution p over codes in the global batch.
  prediction: -log p(number of the code of t | context of the deeper blocks); no gradient in codes.

  Attributes:
    network: the blocks; its embeddings and head are not used.
    frontend: fields of `networks.frontends.Subsampling`.
    codes: fields of `quantizer.Quantizer`.
    context_layers: blocks below the contrast; 0 = all of them, without masked prediction.
    clusters: .npy of centres [K, stride * channels], whose numbers are predicted instead of codes;
      "" = the codes.
    mask_rate: probability that a state begins a masked span.
    span: states of a span.
    noise_std: spread of the vectors that stand for masked features.
    num_distractors: of each masked state.
    contrast_temperature: T.
    contrast_scale, diversity_scale, prediction_scale: factors of the terms; 0 = none.
    ask: fields of `ask.Ask`; {} = masks are random.
  """
  network: types.Network
  frontend: frontends.Subsampling
  codes: quantizer_lib.Quantizer
  centres: Any = dataclasses.field(default=None, repr=False, compare=False)
  context_layers: int = 0
  clusters: str = ""
  mask_rate: float = 0.065
  span: int = 10
  noise_std: float = 0.1
  num_distractors: int = 100
  contrast_temperature: float = 0.1
  contrast_scale: float = 1.0
  diversity_scale: float = 0.1
  prediction_scale: float = 1.0
  ask: ask_lib.Ask | None = None
  evaluators = ("loss", "metrics")
  signal = "frames"

  def __post_init__(self):
    config_lib.check(
        self, "objective", at_least=dict(
            span=1, num_distractors=1, noise_std=0, context_layers=0, contrast_scale=0,
            diversity_scale=0, prediction_scale=0),
        between=dict(mask_rate="(0, 1)", contrast_temperature="(0, 100]"))
    if self.context_layers >= max(self.network.num_layers, 1):
      raise ValueError(f"objective.context_layers {self.context_layers} leaves none of the "
                       f"{self.network.num_layers} layers for masked prediction; lower it, or use "
                       "0 for the contrast alone.")
    if not (self.has_codes or self.predicts):
      raise ValueError("objective has no term: contrast_scale is 0 and nothing is predicted; set "
                       "contrast_scale, or clusters, or context_layers.")
    if self.centres is not None:
      size = self.frontend.stride * self.frontend.num_inputs
      if self.centres.ndim != 2 or self.centres.shape[1] != size:
        raise ValueError(f"objective.clusters {self.clusters} has the shape {self.centres.shape}; "
                         f"expected [clusters, {size}], centres of {self.frontend.stride} frames "
                         f"(--span={self.frontend.stride} of prepare frame_clusters).")

  @classmethod
  def build(cls, fields, world):
    """Builds it with its frontend, codes, centres and scorer."""
    fields = dict(fields)
    channels = fields.pop("num_inputs", 0)
    frontend = config_lib.construct(
        frontends.Subsampling, fields.pop("frontend", {}), what="objective.frontend",
        width=world.network.width, num_inputs=channels)
    codes = config_lib.construct(quantizer_lib.Quantizer, fields.pop("codes", {}),
                                 what="objective.codes", num_features=frontend.num_features)
    ask = fields.pop("ask", None)
    ask = ask_lib.Ask.build(ask, world.frozen) if ask and world.frozen else None
    centres = _read(fields["clusters"]) if fields.get("clusters") else None
    return config_lib.construct(cls, fields, what="objective", network=world.network,
                                frontend=frontend, codes=codes, ask=ask, centres=centres)

  @classmethod
  def complete(cls, config, data):
    """The config with the channels of its data; refuses more codes than a batch has states."""
    config = {**config, "objective": {**config["objective"],
                                      "num_inputs": config["data"].get("channels", 0)}}
    ask = config["objective"].get("ask")
    if ask and ask.get("scorer") not in config.get("frozen", {}):
      ask_lib.Ask.build(ask, config.get("frozen", {}))
    if data.layout not in ("frames", "speech"):
      raise ValueError(f"objective {config['objective']['name']} reads frames, and the data have "
                       f"layout {data.layout!r}; use a source of frames, such as speech or arrays.")
    strides = config["objective"].get("frontend", {}).get("strides", (2, 2))
    states = config["batch_size"] * -(-config["data"]["length"] // int(np.prod(strides)))
    num_codes = config["objective"].get("codes", {}).get("num_codes", 1024)
    if num_codes > states and not config["objective"].get("clusters"):
      raise ValueError(f"objective.codes.num_codes {num_codes} exceeds the {states} states of a "
                       "batch, which can then not use all codes; use fewer codes, or a larger "
                       "batch_size.")
    return config

  @property
  def predicts(self) -> bool:
    """Whether the last block predicts numbers."""
    return bool(self.prediction_scale and (self.context_layers or self.centres is not None))

  @property
  def has_codes(self) -> bool:
    """Whether features are compared with codes."""
    return self.contrast_scale > 0

  @property
  def scales(self) -> Mapping[str, float]:
    """The terms whose factor is not 0."""
    found = {"contrast": self.contrast_scale, "prediction": self.prediction_scale * self.predicts,
             "diversity": self.diversity_scale * (self.centres is None)}
    return {name: scale for name, scale in found.items() if scale}

  def parts(self):
    """The blocks, the frontend, the codes, and the maps of the context."""
    width, found = self.network.width, dict(super().parts()) | {"frontend": self.frontend.part()}
    if self.centres is None:
      found["codes"] = self.codes.part()
    if self.has_codes:
      found["context"] = _linear(width, self.codes.code_width)
    if self.predicts:
      found["prediction"] = _linear(width, self.num_targets * self.num_groups)
    return found

  @property
  def num_targets(self) -> int:
    """Numbers that are predicted, of a group."""
    return self.codes.num_codes if self.centres is None else len(self.centres)

  @property
  def num_groups(self) -> int:
    """Numbers that a state has."""
    return self.codes.groups if self.centres is None else 1

  @property
  def visibility(self):
    """Full attention."""
    return attention_lib.Full()

  def inputs(self, params, batch):
    """The uncorrupted rows."""
    return self.frontend.embed(params["frontend"], batch)

  def states(self, params, batch):
    """States [B, T, D] of the uncorrupted rows."""
    return self.network.encode(params["model"], self.inputs(params, batch),
                               attention=self.visibility).last

  def is_state(self, batch):
    """States of real frames."""
    return self.frontend.is_real(batch)

  def look(self, frozen, batch, context):
    """The confidence of the scorer, where masks are guided."""
    if self.ask is None:
      return batch
    return batch | {"confidence": self.ask.confidence(frozen, batch)}

  def prepare(self, params, batch, key, context):
    """Draws masks and keys of the noise; the weights are the number of masked states, and 1."""
    del params, context
    is_real = self.frontend.is_real(batch)
    draws = lambda name: rng.per_example(rng.stream(key, name), batch["example_index"])
    weight = jnp.ones(len(is_real), jnp.float32)
    if self.ask is None:
      is_masked = guided.spans_of_rate(draws("mask"), self.mask_rate, self.span, is_real)
    else:
      rate = 1 - (1 - self.mask_rate) ** self.span
      is_masked = self.ask.select(draws("mask"), batch["confidence"], rate, self.span, is_real)
      weight = self.ask.weights(batch["confidence"], is_real)
    batch = batch | {"is_masked": is_masked, "row_weight": weight, "noise_key": draws("noise")}
    number = is_masked.sum(dtype=jnp.float32)
    weights = {"contrast": number, "prediction": number, "diversity": jnp.float32(1)}
    return batch, {name: weights[name] for name in self.scales}

  def represent(self, params, rows, context):
    """Sums of each row: nats, right answers, and the use of the codes."""
    is_masked, keys = rows["is_masked"], rows["noise_key"]
    fold = lambda name: jax.vmap(lambda key: rng.stream(key, name))(keys)
    features = self.frontend.features(params["frontend"], rows)
    drawn = self.noise_std * jax.vmap(lambda key: jax.random.normal(key, features.shape[1:]))(
        fold("vectors"))
    corrupted = jnp.where(is_masked[..., None], drawn, features)
    hidden = self.network.encode(
        params["model"], self.frontend.inputs(params["frontend"], rows, corrupted),
        attention=self.visibility, noise=reading.noise_of(context.noise, rows),
        keep_layers=bool(self.context_layers))
    masked = lambda x: jnp.where(is_masked, x, 0).sum(axis=1).astype(jnp.float32)
    found = {"count": masked(1.0)}
    if self.centres is None:
      noise_keys = None if context.noise is None else fold("codes")
      codes = self.codes(params["codes"], features, context.step, noise_keys)
      is_real = self.frontend.is_real(rows)
      numbers = jax.lax.stop_gradient(codes.ids)
      use = lambda x: jnp.where(is_real[..., None, None], x, 0).sum(axis=1)
      found |= {"real": is_real.sum(axis=1, dtype=jnp.float32), "probs": use(codes.probs),
                "used": use(jax.nn.one_hot(numbers, self.codes.num_codes))}
    else:
      numbers = self._nearest(rows)[..., None]
    if self.has_codes:
      context_of = hidden.layers[self.context_layers - 1] if self.context_layers else hidden.last
      given = heads.affine(params["context"], frontends.standardized(context_of))
      is_same = (numbers[:, :, None] == numbers[:, None]).all(axis=-1)
      chosen = distractors(fold("distractors"), is_masked, self.num_distractors) & ~is_same
      nats, is_right = info_nce(given, codes.vectors, chosen, self.contrast_temperature)
      found |= {"contrast": masked(nats), "contrast_right": masked(is_right)}
    if self.predicts:
      logits = heads.affine(params["prediction"], hidden.last.astype(jnp.float32))
      logits = logits.reshape(*numbers.shape, self.num_targets)
      nats = heads.cross_entropy(logits, numbers).sum(axis=-1)
      found |= {"prediction": masked(nats), "prediction_right": masked(
          (logits.argmax(axis=-1) == numbers).all(axis=-1))}
    return found

  def _nearest(self, rows):
    """Number of the nearest centre of the frames of each state, int32 [B, T]."""
    x, stride = rows["frames"], self.frontend.stride
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % stride), (0, 0)))
    x = x.reshape(x.shape[0], -1, stride * x.shape[2])
    centres = jnp.asarray(self.centres, jnp.float32)
    return (jnp.square(centres).sum(axis=1)[None, None] - 2 * x @ centres.T).argmin(axis=-1)

  def compare(self, params, reps, batch, context):
    """Totals over the batch, with the diversity of the codes."""
    del params, context
    weight, count = batch["row_weight"], reps["count"].sum()
    totals, metrics = {}, {"masked_share": (count, self.frontend.is_real(batch).sum(
        dtype=jnp.float32))}
    rows = jnp.zeros_like(weight)
    for name in ("contrast", "prediction"):
      if name in reps:
        rows += reps[name]
        metrics |= {f"{name}_nats": (reps[name].sum(), count),
                    f"{name}_accuracy": (reps[f"{name}_right"].sum(), count)}
        totals[name] = (weight * reps[name]).sum()
    if "probs" in reps:
      number = jnp.maximum(reps["real"].sum(), 1.0)
      totals["diversity"] = quantizer_lib.diversity(reps["probs"].sum(axis=0) / number)
      used = quantizer_lib.perplexity(reps["used"].sum(axis=0) / number).mean()
      metrics |= {"diversity_loss": (totals["diversity"], jnp.float32(1)),
                  "code_perplexity": (used, jnp.float32(1))}
    totals = {name: totals[name] for name in self.scales}
    return totals, types.Aux(metrics, {"nll": rows, "count": reps["count"]}, {})


def _linear(width, size) -> types.Part:
  """A linear map, which the exported model keeps."""
  return types.Part(lambda key: heads.linear_init(key, width, size), is_served=True)


def _read(path: str) -> np.ndarray:
  """Centres of a file."""
  try:
    return np.load(assets.resolve(path), allow_pickle=False)
  except (OSError, ValueError) as e:
    raise ValueError(f"objective.clusters {path}: no .npy of centres ({e}); make it with python -m "
                     "mdx.data.prepare frame_clusters.".replace("\n", " ")) from None
