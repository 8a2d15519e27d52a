"""ELECTRA: a generator replaces tokens, the model finds them.

Contents: Electra, EMBEDDINGS, GENERATOR.

Convention: the model is the discriminator; the network needs the head "rtd". The model's parameters
are `params["model"]`, embeddings included; `params["generator"]` has what the generator does not
share.

References: Clark et al. 2020, arXiv:2003.10555; Clark et al. 2020, arXiv:2012.08561 (Electric, the
generator of two towers).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Mapping

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import replace as replace_lib
from mdx.networks import attention as attention_lib
from mdx.networks import heads
from mdx.objectives import reading
from mdx.objectives.tokens import detection
from mdx.objectives.tokens import selection
from mdx.utils import rng

# Parts that a generator may share with the model.
EMBEDDINGS = ("embed", "position_embed", "token_type_embed", "embed_norm")
# Fields of the generator's network that the model's may have otherwise.
GENERATOR = dict(head="lm", tied=True, head_transform=True, head_bias=True)
_HEADS = ("head_dense", "head_norm", "lm_head", "rtd_head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Electra(selection.Selection):
  """Masked language modelling of a generator + rtd_weight * detection of its samples.

  At every selected position the generator's sample is written into the original text. A sample that
  is the original is not replaced. No gradient goes through the sampling. The weight of the first
  term is the number of selected tokens, that of the second the number of tokens, special ones
  included (of selected ones, with `loss_on` "masked").

  The released code draws positions with replacement, counts a position that was drawn twice twice,
  and writes a third token there; here positions differ.

  Attributes (more in `Selection`):
    generator: "model", a masked language model; "two_tower" (Electric): one network reads from the
      left and one from the right, all tokens are predicted, the label is that a token was
      selected, and log q(x) + log(rate / (1 - rate)) is added to the model's score, so that it
      is an unnormalised log-likelihood of the token; q is the distribution at `temperature`, and
      the rate that of the row, which exact counts round. "uniform": random tokens, no generator.
    generator_width: its share of the model's heads and width, in whole heads.
    generator_depth: its share of the layers.
    tie: parameters that both share: "none", "embeddings" (token, position and type tables and their
      norm; a network of another width than the tables has a projection of its own), or "all" but
      the heads.
    keep_rate: share of the selected that the generator sees; the rest is [MASK].
    temperature: of the generator's samples.
    disallow_correct: never sample the original.
    loss_on: "all" tokens or "masked", those selected.
    rtd_weight: factor of the second term.

  Raises:
    ValueError: values out of range, or choices that exclude each other.
  """
  generator: str = "model"
  generator_width: float = 0.25
  generator_depth: float = 1.0
  tie: str = "embeddings"
  keep_rate: float = 0.15
  temperature: float = 1.0
  disallow_correct: bool = False
  loss_on: str = "all"
  rtd_weight: float = 50.0

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(
        self, "objective",
        choices=dict(generator=("model", "two_tower", "uniform"),
                     tie=("none", "embeddings", "all"), loss_on=("all", "masked")),
        between=dict(keep_rate="[0, 1)", temperature="(0, inf)", rtd_weight="(0, inf)"))
    if self.tie == "all" and (self.generator != "model" or
                              (self.generator_width, self.generator_depth) != (1.0, 1.0)):
      raise ValueError("objective.tie all needs a generator \"model\" of the model's size; set "
                       "generator_width and generator_depth to 1.")
    if self.generator == "two_tower" and self.disallow_correct:
      raise ValueError("objective.disallow_correct samples from another distribution than the one "
                       "that a two_tower generator adds to the scores; use generator \"model\".")
    if self.generator == "two_tower" and (
        self.loss_on == "masked" or max(self.mask_rate, self.final_mask_rate) == 1):
      raise ValueError("a two_tower generator has its loss on all tokens, some of them not "
                       "selected; use loss_on all and a mask_rate below 1.")

  @functools.cached_property
  def generator_network(self) -> types.Network:
    """The generator's network; of two towers that of each."""
    return self.network.vary(self.generator_width, self.generator_depth, **GENERATOR)

  @property
  def scales(self) -> Mapping[str, float]:
    """The two terms, or the second alone."""
    first = {} if self.generator == "uniform" else {"mlm": 1.0}
    return first | {"rtd": self.rtd_weight}

  def parts(self):
    """The model, and what the generator does not share with it."""
    model = self.network.part._replace(init=lambda key: self.network.init(rng.stream(key, "model")),
                                       is_served=True, is_fresh=False)
    if self.generator == "uniform":
      return {"model": model}
    return {"model": model, "generator": types.Part(
        self._init_generator, self._generator_axes, self._generator_decays, is_served=True,
        is_fresh=False)}

  def init(self, key):
    """Initializes all parts, from the key itself."""
    return {name: part.init(key) for name, part in self.parts().items()}

  def _init_generator(self, key):
    own = lambda name: self._own(self.generator_network.init(rng.stream(key, name)))
    left = own("generator")
    if self.generator == "model":
      return left
    right = {k: v for k, v in own("right tower").items() if k not in _HEADS}
    width = left["head_dense"]["kernel"].shape[0]
    merge = jax.random.normal(rng.stream(key, "merge"), (2 * width, width)) / math.sqrt(2 * width)
    return {"left": left, "right": right,
            "merge": {"kernel": merge.astype(jnp.float32), "bias": jnp.zeros(width, jnp.float32)}}

  def _generator_axes(self, path, shape):
    if path.startswith("merge/"):
      return (None, "embed") if len(shape) == 2 else (None,)
    return self.generator_network.part.axes(_within(path), shape)

  def _generator_decays(self, path):
    return path == "merge/kernel" or self.generator_network.part.decays(_within(path))

  def _own(self, generator):
    shared = {"none": (), "embeddings": EMBEDDINGS,
              "all": [k for k in generator if k not in _HEADS]}[self.tie]
    model = jax.eval_shape(self.network.init, rng.root(0))
    return {k: v for k, v in generator.items() if k not in shared or k not in model}

  def _whole(self, params, own):
    """Parameters of a network of the generator, shared ones included."""
    names = EMBEDDINGS if self.tie == "embeddings" else (
        [k for k in params["model"] if k not in _HEADS] if self.tie == "all" else ())
    return {k: params["model"][k] for k in names if k in params["model"]} | own

  def generator_params(self, params: types.Params) -> types.PyTree:
    """All parameters of the generator "model", those it shares with the model too."""
    return self._whole(params, params["generator"])

  def also_served(self, params):
    """The generator, where it is a model of its own."""
    if self.generator != "model":
      return {}
    shares = dict(width=self.generator_width, depth=self.generator_depth, **GENERATOR)
    return {"generator": (shares, self.generator_params(params))}

  def prepare(self, params, batch, key, context):
    """Selects tokens and draws what decides the samples.

    Returns:
      The batch with `is_selected` [B, L], the generator's input `masked_tokens` and `uniforms`;
      with a uniform generator `others` instead of these two.
    """
    del params
    draws, tokens, rate = self.draws(batch, key), batch["tokens"], self.rate(context.step)
    selected, _ = self.select(draws("mask"), rate, batch, self.words(batch))
    fields = {"is_selected": selected}
    if self.generator == "two_tower":
      rate = self.selected_rate(rate, batch)
      fields["log_odds"] = jnp.broadcast_to(jnp.log(rate / (1 - rate)), len(tokens))
    vocabulary = dict(vocab_size=self.network.vocab_size, mask_id=self.mask_id)
    if self.generator == "uniform":
      fields["others"] = replace_lib.random_tokens(draws("sample"), tokens.shape[1], **vocabulary)
    else:
      fields["masked_tokens"] = replace_lib.mask_random_keep(
          draws("replace"), tokens, selected, mask_rate=1 - self.keep_rate, random_rate=0.0,
          **vocabulary)
      fields["uniforms"] = jax.vmap(lambda k: jax.random.uniform(k, tokens.shape[1:]))(
          draws("sample"))
    batch = batch | fields
    weights = {"mlm": self._predicted(batch), "rtd": self._counted(batch)}
    return batch, {k: weights[k].sum(dtype=jnp.float32) for k in self.scales}

  def _predicted(self, batch):
    """Positions at which the generator has a loss."""
    is_cloze = self.generator == "two_tower"
    return mask_lib.allowed_positions(batch) if is_cloze else batch["is_selected"]

  def _counted(self, batch):
    """Positions at which the model has a loss; q is over tokens of the text, not special ones."""
    if self.generator == "two_tower":
      return mask_lib.allowed_positions(batch)
    return batch["is_selected"] if self.loss_on == "masked" else mask_lib.text_positions(batch)

  def read(self, params, batch, context):
    """Writes the samples, and reads them with the model."""
    tokens, selected = batch["tokens"], batch["is_selected"]
    generated = {} if self.generator == "uniform" else self._generate(params, batch, context.noise)
    noisy = jnp.where(selected, generated.get("sample", batch.get("others")), tokens)
    is_replaced, offset = selected & (noisy != tokens), jnp.zeros((), jnp.float32)
    if self.generator == "two_tower":
      is_replaced = selected
      offset = jax.lax.stop_gradient(jnp.where(selected, generated["log_prob"],
                                               generated["log_prob_of_original"]))
      offset = offset + batch["log_odds"][:, None]
    batch = batch | generated | {"noisy_tokens": noisy, "is_replaced": is_replaced,
                                 "score_offset": jnp.broadcast_to(offset, tokens.shape)}
    return batch, self.encode(self.network, params["model"], noisy, batch, noise=context.noise)

  def _generate(self, params, batch, noise):
    """Samples, nats, whether the best guess is right; of two towers log q too, [B, L] each."""
    network, noise = self.generator_network, reading.noise_for(noise, "generator")
    if self.generator == "model":
      own = self.generator_params(params)
      hidden = self.encode(network, own, batch["masked_tokens"], batch, noise=noise)
    else:
      own = self._whole(params, params["generator"]["left"])
      hidden = self._towers(params, own, batch, noise)

    def score(logits, targets):
      original, uniform = targets
      nats = heads.cross_entropy(logits, original)
      drawn_from = jax.lax.stop_gradient(logits) / self.temperature
      picked = jnp.take_along_axis(drawn_from, original[..., None], axis=-1)
      is_right = picked[..., 0] >= drawn_from.max(axis=-1)
      if self.disallow_correct:
        ids = jax.lax.broadcasted_iota(jnp.int32, drawn_from.shape, drawn_from.ndim - 1)
        drawn_from = jnp.where(ids == original[..., None], heads.NEVER, drawn_from)
      sample = heads.sample(drawn_from, uniform)
      found = {"nats": nats, "sample": sample, "is_right": is_right.astype(jnp.float32)}
      if self.generator == "two_tower":
        found["log_prob"] = -heads.cross_entropy(drawn_from, sample)
        found["log_prob_of_original"] = -heads.cross_entropy(drawn_from, original)
      return found

    is_cloze = self.generator == "two_tower"
    return self.at_targets(network, own, hidden, (batch["tokens"], batch["uniforms"]),
                           self._predicted(batch), rate=1.0 if is_cloze else 0.0,
                           blocked=self.mask_id, score=score)

  def _towers(self, params, left, batch, noise=None):
    """States [B, L, W] that have seen what is to the left and to the right of each position."""
    right = self._whole(params, params["generator"]["right"])
    names = ("positions", "segment_ids", "token_types")
    rows = {k: batch[k] for k in (*names, "example_index") if k in batch}
    turned = {k: x[:, ::-1] if k in names else x for k, x in rows.items()}

    def tower(name, own, tokens, rows):
      hidden = reading.encode(self.generator_network, own, rows, tokens=tokens,
                              attention=attention_lib.Causal(),
                              noise=reading.noise_for(noise, name))
      before = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
      segments = rows.get("segment_ids")
      if segments is None:
        return before
      is_same = segments == jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
      return jnp.where(is_same[..., None], before, 0)

    both = [tower("left", left, batch["tokens"], rows),
            tower("right", right, batch["tokens"][:, ::-1], turned)[:, ::-1]]
    return heads.affine(params["generator"]["merge"], jnp.concatenate(both, axis=-1))

  def score(self, params, batch, hidden, context):
    """The two terms; `rows` has the nats of the second."""
    del context
    counted, selected = self._counted(batch), batch["is_selected"]
    rows, _, metrics = detection.losses(self.network, params["model"], hidden,
                                        batch["is_replaced"], counted, batch["score_offset"])
    is_fake = selected & (batch["noisy_tokens"] != batch["tokens"])
    num_selected = selected.sum(dtype=jnp.float32)
    metrics["fake_rate"] = (is_fake.sum(dtype=jnp.float32), num_selected)
    totals = {"rtd": rows.sum()}
    if self.generator != "uniform":
      predicted = self._predicted(batch)
      totals["mlm"] = jnp.where(predicted, batch["nats"], 0.0).sum()
      num_predicted = predicted.sum(dtype=jnp.float32)
      metrics["masked_nats"] = (totals["mlm"], num_predicted)
      metrics["generator_accuracy"] = (
          jnp.where(predicted, batch["is_right"], 0.0).sum(), num_predicted)
    count = counted.sum(axis=1, dtype=jnp.float32)
    return totals, types.Aux(metrics, {"nll": rows, "count": count}, {})


def _within(path: str) -> str:
  """Path of a parameter within its network, of a generator or one of its towers."""
  return path.removeprefix("left/").removeprefix("right/")
