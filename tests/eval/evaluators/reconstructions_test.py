"""Reconstructions: visible pixels are the original's, and probes read patches."""

import jax
import numpy as np
import pytest

from mdx.build import setup as setup_lib
from mdx.eval.evaluators import reconstructions
from mdx.report import images
from mdx.utils import rng

import tiny


@pytest.mark.slow
def test_images_are_kept_with_their_masks_and_a_probe_reads_their_patches(tmp_path):
  config = tiny.config("mim", eval__evaluators=("reconstructions",), data__length=16,
                       network__num_layers=1, data__source__shift=0)
  config.eval.probe.update(num_labels=16, num_draws=2, pool=32)
  run = setup_lib.setup(config, str(tmp_path))
  jax.set_mesh(run.mesh)
  members = run.evaluation().members
  params = jax.jit(run.objective.init)(rng.root(0))
  assert members["reconstructions"](params, {}, quick=True) == {}
  assert members["reconstructions"](params, {}, quick=False) == {}
  with np.load(tmp_path / reconstructions.FILE) as file:
    original, masked, made = (file[x].astype(int) for x in ("original", "masked", "reconstructed"))
  assert original.shape == (8, 16, 16, 1)
  is_hidden = (masked == 128) & (original != 128)
  assert 0.5 < is_hidden.mean() < 0.7
  assert (abs(made - original)[~is_hidden & (masked != 128)] <= 1).all()
  assert images.reconstructions(tmp_path).startswith(b"\x89PNG")
  assert 0 <= members["linear_probe"](params, {}, quick=True)["probe_accuracy"] <= 1
