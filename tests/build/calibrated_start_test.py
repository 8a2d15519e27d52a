"""Starts from what a model reads: the first mask of a run, its resumption, and what is refused."""

import jax
import numpy as np
import pytest

from mdx import modes
from mdx.build import calibration
from mdx.build import setup as setup_lib
from mdx.networks import adaptation
from mdx.networks.adaptation import nm_masks
from mdx.networks.adaptation import pruning

import tiny

_MASK = dict(name="nm_mask", prior="wanda", strength=100.0, steps=2, targets=("q", "down"),
             calibration_rows=8)


@pytest.mark.slow
@pytest.mark.parametrize("name, prior", [("ar", "wanda"), ("mlm", "sparsegpt")])
def test_a_run_begins_with_the_mask_of_what_it_reads_and_a_resumed_one_keeps_its_own(
    name, prior, tmp_path):
  modes.run("train", tiny.config(name, sampler__num_samples=0), str(tmp_path / "base"))
  mask = _MASK | dict(prior=prior, updates_weights=prior == "sparsegpt")
  config = tiny.config(name, sampler__num_samples=0, steps=1, checkpoint_steps=1,
                       optimizer__learning_rate=1e-9)
  config.init.checkpoint = str(tmp_path / "base")
  config.adaptations = (mask,)
  modes.run("train", config, str(tmp_path / "run"))
  base, found = (tiny.stored(tmp_path / folder)[1]["params"]["model"]["layers"]
                 for folder in ("base", "run"))
  own = nm_masks.NMMask(**{k: v for k, v in mask.items() if k != "name"})
  merged = jax.vmap(own.merged)
  for above, name_of in (("attention", "q"), ("mlp", "down")):
    kernel = np.asarray(base[above][name_of]["kernel"])
    now = dict(found[above][name_of])
    kept = np.asarray(merged({k: now[k] for k in ("mask_logits", "mask_progress")},
                             now["kernel"])) != 0
    assert (kept.reshape(2, -1, 4, kernel.shape[2]).sum(axis=2) == 2).all()
    largest = np.stack([pruning.magnitude(x, 2, 4) for x in kernel])
    assert 0 < (kept != largest).mean() < 0.5
    assert (np.abs(now["kernel"] - kernel).max() > 1e-3) == (prior == "sparsegpt")
  before = np.asarray(found["attention"]["q"]["mask_logits"])
  config.steps = 2
  with pytest.raises(ValueError, match="another config|another run"):
    modes.run("train", config, str(tmp_path / "run"))
  config.init.checkpoint = str(tmp_path / "run")
  modes.run("train", config, str(tmp_path / "more"))
  after = tiny.stored(tmp_path / "more")[1]["params"]["model"]["layers"]
  np.testing.assert_allclose(after["attention"]["q"]["mask_logits"], before, atol=1e-5)


def test_a_prior_of_activations_needs_a_trained_model(tmp_path):
  config = tiny.config("mlm")
  config.adaptations = (_MASK,)
  with pytest.raises(ValueError, match="starts from what a trained model reads; give config.init"):
    setup_lib.setup(config, str(tmp_path / "run"))
  put = adaptation.build((_MASK, dict(name="int8")))
  with pytest.raises(ValueError, match="NMMask starts from the kernels, and Int8 has others in the"):
    calibration.check({"init": {"checkpoint": "x"}}, None, put)
  assert not (tmp_path / "run").exists()

