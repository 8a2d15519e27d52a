"""Runs of ELECTRA as Hugging Face directories: the discriminator, and the generator inside it."""

import jax
import numpy as np
import pytest

from mdx import interop
from mdx import model as model_lib
from mdx import modes
from mdx.build import setup as setup_lib
from mdx.configs import electra
from mdx.modes import export as exporting
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

import tiny


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("electra") / "run"
  cfg = tiny.changed(electra.get_config("small"), {
      "steps": 1, "batch_size": 8, "dtype": "float32", "network.num_layers": 1,
      "network.width": 32, "network.num_heads": 4, "network.mlp_width": 64,
      "network.embed_width": 16, "network.max_length": 32, "tokenizer.path": "char",
      "data.length": 16, "eval.final_samples": 1, "objective.generator_width": 0.5,
      "mesh.data": -1})
  cfg.data.source = dict(name="memory", documents=("It was the best of times. " * 8,) * 40)
  run = setup_lib.setup(cfg, str(workdir))
  model = model_lib.Model(
      objective=run.objective, params=run.objective.init(rng.root(0)), tokenizer=run.tokenizer,
      mesh=run.mesh, max_length=run.spec.max_length, source="", config=run.config)
  model.save(str(workdir))  # what a run of no steps would leave
  return cfg, workdir


@pytest.mark.slow
def test_both_parts_are_written_and_read_back_the_same(run, tmp_path):
  cfg, workdir = run
  tiny.changed(cfg, {"export.format": "huggingface", "export.path": str(tmp_path / "out"),
                     "init.checkpoint": str(workdir)})
  exporting.run(cfg, str(workdir))
  model = model_lib.load(str(workdir))
  # On the host: eager operations would be taken for those of a mesh that another test has set.
  wanted = {part: jax.device_get(params) for part, params in (
      ("", model.params["model"]),
      ("generator", model.objective.generator_params(model.params)))}
  for part, params in wanted.items():
    path = tmp_path / "out" / part
    spec = transformer.Transformer(**interop.network_fields(path))
    assert spec.head == ("lm" if part else "rtd") and spec.width == (16 if part else 32)
    shapes = jax.eval_shape(spec.network().init, jax.random.key(0))
    found = tree.flatten(interop.load(path, jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])), shapes)))
    for name, x in tree.flatten(params).items():
      x = x[:spec.vocab_size] if name in ("embed/embedding", "lm_head/bias") else x  # no padding
      np.testing.assert_array_equal(found[name][:len(x)], x, err_msg=name)
    assert len(found) == len(tree.flatten(params))
  one, other = (interop.load_config(tmp_path / "out" / part) for part in wanted)
  assert one["architectures"] == ["ElectraForPreTraining"]
  assert other["architectures"] == ["ElectraForMaskedLM"]
  assert one["embedding_size"] == other["embedding_size"] == 16


@pytest.mark.slow
def test_a_run_is_evaluated(run, tmp_path):
  cfg, workdir = run
  tiny.changed(cfg, {"init.checkpoint": str(workdir)})
  assert modes.run("eval", cfg, str(tmp_path / "eval"))["nats_per_token"] > 0
