"""MTO-style terms in closed form, and what each of them has a gradient for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.objectives.signals import mto
from mdx.utils import rng
from mdx.utils import tree

VISIBLE = jnp.array([[True, True, False, True]])


def test_uniformity_is_zero_for_equal_cosines_alone_and_known_for_others():
  content = jnp.array([[[1.0, 0], [2.0, 0], [0, 5.0], [3.0, 0]]])
  token = jnp.array([1.0, 1.0])
  assert mto.uniformity(token, content, VISIBLE, 0.1)[0] == pytest.approx(0, abs=1e-5)
  content = content.at[0, 0].set(jnp.array([0.0, -1.0]))
  cosines = np.array([-1, 1, 1]) / 2 ** 0.5 / 0.1
  probs = np.exp(cosines - cosines.max())
  probs /= probs.sum()
  entropy = -(probs * np.log(np.maximum(probs, 1e-30))).sum()
  found = mto.uniformity(token, content, VISIBLE, 0.1)[0]
  assert found == pytest.approx(np.log(3) - entropy, abs=1e-5) and found > 0.3


def test_correlation_is_the_mean_of_positive_cosines():
  content = jnp.array([[[2.0, 0], [-1.0, 0], [1.0, 0], [1.0, 1.0]]])
  found = mto.correlation(jnp.array([3.0, 0.0]), content, VISIBLE)[0]
  assert found == pytest.approx((1 + 0 + 2 ** -0.5) / 3, rel=1e-5)


def test_sparsity_is_the_entropy_of_masked_rows_over_visible_columns_by_depth():
  probs = jnp.zeros((2, 1, 1, 4, 4)).at[:, :, :, :, :].set(jnp.array([0.3, 0.3, 0.1, 0.3]))
  probs = probs.at[1, :, :, 2].set(jnp.array([0.5, 0.0, 0.5, 0.0]))
  found = mto.sparsity(probs, ~VISIBLE, VISIBLE)[0]
  assert found == pytest.approx((0.5 * np.log(3) + 1.0 * 0) / 2, abs=1e-5)


def test_terms_reach_their_parts_and_none_moves_with_the_pixels_to_predict():
  network = transformer.Transformer(num_layers=2, width=8, num_heads=2, mlp_width=8, vocab_size=4,
                                    position="none", head="none").network()
  objective = objectives.build(dict(name="mto_style", channels=3, num_patches=6, mask_rate=0.5),
                               network, tokenizer_lib.build("symbols:0"))
  rows = {"patches": jax.random.normal(rng.root(1), (2, 6, 3)), "patch_mask": jnp.ones((2, 6), bool),
          "segment_ids": jnp.ones((2, 6), int), "example_index": jnp.arange(2)}
  batch, weights = objective.prepare(None, rows, rng.root(2), types.context(0))
  assert weights == {"mim": 18, "uniformity": 2, "correlation": 2, "sparsity": 2}
  params = objective.init(rng.root(0))
  both = jax.jit(jax.jacrev(lambda params, patches: objective(
      params, batch | {"patches": patches}, types.context(0))[0], argnums=(0, 1)))
  found = both(params, rows["patches"])
  moved = {name: {k.split("/")[0] for k, v in tree.flatten(grads[0]).items() if jnp.abs(v).max() > 0}
           for name, grads in found.items()}
  assert moved["uniformity"] == moved["correlation"] == {"mask", "frontend"}
  assert moved["sparsity"] == {"model", "mask", "frontend"}
  of_masked = {name: jnp.abs(jnp.where(batch["is_masked"][..., None], grads[1], 0)).max()
               for name, grads in found.items()}
  assert of_masked.pop("mim") > 0 and not any(of_masked.values())
