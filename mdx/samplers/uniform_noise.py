"""Decoding of uniform-state diffusion, whose noise is other tokens and not a mask.

Contents: Uniform.

References: Austin et al. 2021, arXiv:2107.03006 (the uniform process); Sahoo et al. 2025,
arXiv:2506.10892 (Duo).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(decoder.Decoder):
  """Ancestral sampling of the uniform process on a grid of `steps` equal times.

  Free positions begin as uniform tokens. In a step from t to s, with a = alpha(t) / alpha(s), K
  tokens and the marginal q_s(v) = alpha(s) p(v) + (1 - alpha(s)) / K at s, a position whose token
  is z has the posterior (a 1[v = z] + (1 - a) / K) q_s(v), normalised. That is a mixture: with mass
  a q_s(z) the token stays; else, with mass (1 - a) / K, it is a draw from q_s: from the model with
  probability alpha(s), uniform otherwise. The last step has alpha(s) = 1.

  Attributes:
    num_ids: ids of the model, the mask among them; given by the model.
  """
  num_ids: int | None = dataclasses.field(default=None, repr=False)

  mixes = False
  revises = True

  def __post_init__(self):
    super().__post_init__()
    if self.cache != "none" or self.block_length not in (0, self.gen_length):
      raise ValueError("sampler uniform changes all positions in every step, got cache "
                       f"{self.cache} and block_length {self.block_length}; use none and 0.")
    if self.eos != "allow" or self.eos_stop != "never":
      raise ValueError("sampler uniform settles no token before the last step, got eos "
                       f"{self.eos} and eos_stop {self.eos_stop}; use allow and never.")
    if decoder.is_set(self.guidance_scale):
      raise ValueError("sampler.guidance_scale blanks the prompt by masks, which a model of "
                       "uniform noise does not know; use 0.")

  def check_reader(self, reader):
    """Raises ValueError for a model that was trained with masks."""
    if "num_ids" not in reader.given:
      raise ValueError("sampler uniform decodes models of uniform noise (objective "
                       "uniform_diffusion); this one knows masks: use sampler.name="
                       f"{reader.sampler}.")

  def width(self, num_free):
    """All free positions."""
    return num_free

  def max_steps(self, num_free):
    """The steps."""
    del num_free
    return self.steps

  def extras(self, state, keys):
    """A canvas of noise, and the positions that a step makes noise of again."""
    noise = self._noise(keys, state["positions"])
    return {"canvas": jnp.where(state["free"], noise, state["canvas"]),
            "again": jnp.zeros(state["canvas"].shape, bool)}

  def wanted(self, state):
    """All free positions."""
    return state["free"]

  def noise_level(self, state):
    """The time of the step, float32 [B]."""
    return 1 - state["step"] / self.steps

  def commit(self, params, state, proposal, keys):
    """Positions that take the model's draw; those that become noise are in the state."""
    del params
    late = self.alpha.alpha(self.noise_level(state))[:, None]
    is_last = state["step"][:, None] == self.steps - 1
    early = self.alpha.alpha(1 - (state["step"][:, None] + 1) / self.steps)
    early = jnp.where(is_last, 1.0, early)
    same, each = late / early, 1 / (self.num_ids - 1)
    probability = jnp.take_along_axis(jax.nn.softmax(proposal.logits, axis=-1),
                                      proposal.current[..., None], axis=-1)[..., 0]
    stays = same * (early * probability + (1 - early) * each)
    draws = [logits_lib.uniforms(jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys),
                                 proposal.positions) for i in range(2)]
    exists = proposal.index < state["canvas"].shape[1]
    is_new = exists & (draws[0] * (stays + (1 - same) * each) >= stays)
    is_written = is_new & (draws[1] < early)
    return decoder.Commit(is_written, {"again": decoder.put(
        jnp.zeros_like(state["again"]), proposal.index, exists, is_new & ~is_written)})

  def revoke(self, state, proposal, is_written, keys):
    """Writes noise at the chosen positions."""
    del proposal, is_written
    noise = self._noise(keys, state["positions"])
    return state | {"canvas": jnp.where(state["again"], noise, state["canvas"])}

  def block_done(self, state, old_canvas):
    """Returns whether this was the last step."""
    del old_canvas
    return state["step"] >= self.steps

  def _enter_next_block(self, state):
    is_left = jnp.any(state["free"], axis=1) & (state["nfe"] < self.steps)
    return state | {"block": jnp.where(is_left, 0, decoder.END).astype(jnp.int32),
                    "step": jnp.zeros_like(state["step"])}

  def _noise(self, keys, positions):
    """Uniform tokens without the mask, int32 [B, S]."""
    def draw(key):
      other = jax.random.randint(key, (), 0, self.num_ids - 1)
      return other + (other >= self.mask_id)
    return jax.vmap(jax.vmap(draw))(logits_lib.position_keys(keys, positions))
