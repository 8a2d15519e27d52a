"""Masked language modelling with a decoder on top of the encoder, which serving leaves out.

Contents: DecodedLM.

Convention: `params["model"]` is the encoder and the head; `params["decoder"]` has the blocks of the
decoder. The model is exported as one of `mlm`.

References: Liang et al. 2024, arXiv:2401.15861 (DrBERT, later BPDec); He et al. 2020,
arXiv:2006.03654 (the enhanced mask decoder of DeBERTa).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import visibility
from mdx.objectives import reading
from mdx.objectives.tokens import mlm

_KEPT = ("layers", "final_norm", "position_embed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedLM(mlm.MaskedLM):
  """MLM from o = m g + (1 - m) h: h the encoder's states, g those of a decoder that reads h.

  Attributes (more in `MaskedLM`):
    decoder: "plain" blocks; "gua", blocks the first of which sees of the [MASK]s only some
      (gradual unmasking attention); or "emd", one block that is applied `decoder_layers` times to
      queries that begin as h plus absolute positions, keys and values being those of h.
    decoder_layers: blocks, or steps of "emd".
    reveal_rate: of "gua": probability that its first block sees a [MASK].
    mix: unit that has an m of its own: an "example" or a "token", m being 1 with probability
      `decoder_rate`, else 0; or "convex": each example has m = decoder_rate * u, u uniform in
      [0, 1].
    decoder_rate: 1 (with example or token) = the decoder alone, 0 = MLM. An evaluation draws m too.

  Raises:
    ValueError: values out of range, or more than one reading of a row.
  """
  decoder: str = "gua"
  decoder_layers: int = 2
  reveal_rate: float = 0.5
  mix: str = "example"
  decoder_rate: float = 0.5

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(
        self, "objective", between=dict(reveal_rate="[0, 1]", decoder_rate="[0, 1]"),
        choices=dict(decoder=("plain", "gua", "emd"), mix=("example", "token", "convex")),
        at_least=dict(decoder_layers=1 + (self.decoder == "gua")))  # the last one sees everything
    if self.num_copies > 1:
      raise ValueError("objective.predict_rate above mask_rate reads a row several times, which a "
                       "decoder does not; use at most mask_rate.")

  @functools.cached_property
  def decoder_network(self) -> types.Network:
    """The decoder's network, whose blocks are run on states."""
    if self.decoder == "emd":
      return self.network.vary(num_layers=1, position="learned", embed_width=0)
    return self.network.vary(num_layers=self.decoder_layers)

  def parts(self):
    """The model, and the blocks of the decoder."""

    def init(key):
      kept = {k: v for k, v in self.decoder_network.init(key).items() if k in _KEPT}
      if self.decoder != "emd":
        kept.pop("position_embed", None)
      return kept

    own = self.decoder_network.part
    return super().parts() | {"decoder": types.Part(init, own.axes, own.decays)}

  def served(self, config):
    """MLM, without the decoder."""
    del config
    return {"name": "mlm"}

  def prepare(self, params, batch, key, context):
    """Prepares MaskedLM, with what the decoder's first block does not see, and m [B, L]."""
    batch, weights = super().prepare(params, batch, key, context)
    draws, shape = self.draws(batch, key), batch["tokens"].shape
    uniform = lambda name: jax.vmap(lambda k: jax.random.uniform(k, shape[1:]))(draws(name))
    mixed = uniform("mix")
    if self.mix != "token":
      mixed = jnp.broadcast_to(mixed[:, :1], shape)
    share = (self.decoder_rate * mixed if self.mix == "convex"
             else (mixed < self.decoder_rate).astype(jnp.float32))
    fields = {"decoder_share": share}
    if self.decoder == "gua":
      is_masked = batch["noisy_tokens"] == self.mask_id
      fields["is_hidden"] = is_masked & (uniform("reveal") >= self.reveal_rate)
    return batch | fields, weights

  def read(self, params, batch, context):
    """The batch, and the mixed states [B, L, D]."""
    batch, hidden = super().read(params, batch, context)
    share = batch["decoder_share"][..., None].astype(hidden.dtype)
    decoded = self._decode(params["decoder"], hidden, batch,
                           reading.noise_for(context.noise, "decoder"))
    return batch, share * decoded + (1 - share) * hidden

  def _decode(self, params, hidden, batch, noise):
    """The decoder's states, [B, L, D]."""
    network = self.decoder_network
    inputs = reading.inputs_of(batch)._replace(tokens=None)
    if self.decoder != "emd":
      attention = (visibility.Unmasking(batch["is_hidden"]) if self.decoder == "gua"
                   else attention_lib.Full())
      return network.encode(params, inputs._replace(states=hidden), attention=attention,
                            noise=reading.noise_of(noise, batch)).last
    length, positions = hidden.shape[1], inputs.positions
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), hidden.shape[:2])
    both = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=1),
                        inputs._replace(positions=positions))
    table = params["position_embed"]["embedding"].astype(hidden.dtype)
    queries = hidden + jnp.take(table, positions, axis=0)
    # Each step ends in the final norm, as the encoder's states do.
    for step in range(self.decoder_layers):
      states = jnp.concatenate([queries, hidden], axis=1)
      own = reading.noise_of(reading.noise_for(noise, "step", step), batch)
      queries = network.encode(params, both._replace(states=states), noise=own,
                               attention=visibility.Crossed()).last[:, :length]
    return queries
