"""SimMIM with a mask token that is told from patches: MTO-style, a reconstruction.

Contents: MTOStyle, uniformity, correlation, sparsity.

The formulas of masked token optimisation are not public: its analysis, that masked tokens should be
unlike visible ones at the input and should weigh less where they carry no content, and the names of
its losses are. What is here is our reading of these, and not the published method.

Reference: Choi et al. 2024, arXiv:2404.08330.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.networks import heads
from mdx.networks import visibility as visibility_lib
from mdx.objectives.signals import mim

_TINY = 1e-12


def _cosines(token: jax.Array, content: jax.Array) -> jax.Array:
  """Cosines of the mask token [D] with patches [B, P, D], float32 [B, P]."""
  unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _TINY)
  return unit(content.astype(jnp.float32)) @ unit(token.astype(jnp.float32))


def uniformity(token: jax.Array, content: jax.Array, is_visible: jax.Array, temperature: float
               ) -> jax.Array:
  """log V - H(softmax of the cosines with the V visible patches), nats, float32 [B]; at least 0."""
  scores = jnp.where(is_visible, _cosines(token, content) / temperature, heads.NEVER)
  number = jnp.maximum(is_visible.sum(axis=1), 1)
  return jnp.where(is_visible.any(axis=1), jnp.log(number) - heads.entropy(scores), 0.0)


def correlation(token: jax.Array, content: jax.Array, is_visible: jax.Array) -> jax.Array:
  """Mean positive cosine of the mask token with the visible patches, float32 [B]."""
  positive = jnp.where(is_visible, jax.nn.relu(_cosines(token, content)), 0.0)
  return positive.sum(axis=1) / jnp.maximum(is_visible.sum(axis=1), 1)


def sparsity(probs: jax.Array, is_masked: jax.Array, is_visible: jax.Array) -> jax.Array:
  """Entropy of what masked patches attend to among visible ones, nats, float32 [B].

  A mean over layers, heads and masked patches; layer l of n counts l / n times, from 1.

  Args:
    probs: float32 [layers, B, heads, P, P].
    is_masked, is_visible: bool [B, P].
  """
  seen = jnp.where(is_visible[None, :, None, None], probs, 0.0)
  seen = seen / jnp.maximum(seen.sum(axis=-1, keepdims=True), _TINY)
  entropy = -(seen * jnp.log(jnp.maximum(seen, _TINY))).sum(axis=-1).mean(axis=2)
  layers = len(probs)
  weight = ((1 + jnp.arange(layers)) / layers)[:, None, None]
  total = jnp.where(is_masked[None], weight * entropy, 0.0).mean(axis=0).sum(axis=1)
  return total / jnp.maximum(is_masked.sum(axis=1), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTOStyle(mim.SimMIM):
  """SimMIM with recalibrated attention and three losses of the mask token; each may be left out.

  Attributes (more in `SimMIM`):
    recalibrate: whether visible patches give masked ones less weight in the lower layers.
    reach: share of the layers after which they give them the whole weight.
    uniformity_scale: of the loss that makes the mask token equally like all visible patches.
    temperature: of the softmax of that loss.
    correlation_scale: of the loss that makes it unlike them.
    sparsity_scale: of the entropy of what masked patches attend to.
  """
  recalibrate: bool = True
  reach: float = 0.5
  uniformity_scale: float = 0.05
  temperature: float = 0.1
  correlation_scale: float = 0.05
  sparsity_scale: float = 0.05

  def __post_init__(self):
    super().__post_init__()
    names = ("uniformity_scale", "correlation_scale", "sparsity_scale")
    config_lib.check(self, "objective", at_least=dict.fromkeys(names, 0),
                     between=dict(reach="(0, 1]", temperature="(0, inf)"))

  @property
  def scales(self):
    """The reconstruction, and the terms that count."""
    own = {"uniformity": self.uniformity_scale, "correlation": self.correlation_scale,
           "sparsity": self.sparsity_scale}
    return super().scales | {name: scale for name, scale in own.items() if scale}

  def prepare(self, params, batch, key, context):
    """As `SimMIM`; the other terms are means over images."""
    batch, weights = super().prepare(params, batch, key, context)
    number = batch["patch_mask"].any(axis=1).sum(dtype=jnp.float32)
    return batch, dict.fromkeys(self.scales, number) | weights

  def attention_of(self, batch):
    """Attention that leaves masked patches out at first."""
    if not self.recalibrate:
      return super().attention_of(batch)
    return visibility_lib.Recalibrated(batch["is_masked"], self.reach)

  def __call__(self, params, batch, context):
    """Sums of the terms, and each as a figure."""
    predicted, (content, out) = self.predict(params, batch, context,
                                             keep_attention=bool(self.sparsity_scale))
    totals, aux = self.error(predicted, batch)
    is_visible = batch["patch_mask"] & ~batch["is_masked"]
    token = params["mask"]["token"]
    found = {"uniformity": uniformity(token, content, is_visible, self.temperature),
             "correlation": correlation(token, content, is_visible)}
    if self.sparsity_scale:
      found["sparsity"] = sparsity(out.attention, batch["is_masked"], is_visible)
    rows = jnp.maximum(batch["patch_mask"].any(axis=1).sum(dtype=jnp.float32), _TINY)
    metrics = {name: (value.sum(), rows) for name, value in found.items()}
    return (totals | {name: value.sum() for name, value in found.items() if name in self.scales},
            aux._replace(metrics=aux.metrics | metrics))
