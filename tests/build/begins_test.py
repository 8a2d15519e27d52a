"""Where the parts of a run begin: from models of other objectives, and what is refused."""

import jax
import numpy as np
import pytest
import tiny

from mdx import checkpoint as checkpoint_lib
from mdx import modes
from mdx.build import begins
from mdx.build import setup as setup_lib
from mdx.data.toys import bilingual
from mdx.utils import rng
from mdx.utils import tree

_NETWORK = dict(network__position="learned", network__max_length=64, network__num_layers=1)


def _config(**changes):
  return tiny.config("seq2seq", **{"data__source__num_train": 16, "data__source__num_validation": 8,
                                   **_NETWORK, **changes})


@pytest.mark.slow
def test_parts_begin_from_a_masked_language_model_but_for_what_they_add(tmp_path):
  given = _config()
  base = tiny.config("mlm", steps=1, sampler__num_samples=0, **_NETWORK)
  base.tokenizer, base.data = given.tokenizer, given.data.copy_and_resolve_references()
  base.data.source = dict(name="bilingual", kind="texts", num_train=16, num_validation=8)
  modes.run("train", base, str(tmp_path / "mlm"))
  path = str(tmp_path / "mlm")
  run = setup_lib.setup(_config(init__checkpoint=path, init__parts=dict(
      encoder=path, model="init", length="seed")), str(tmp_path / "run"))
  jax.set_mesh(run.mesh)
  fresh = jax.jit(run.objective.init)(rng.root(0))
  found = begins.load(run.config, run.objective, run.shapes.params, fresh, ())
  stored = tree.flatten(checkpoint_lib.load_params(
      path, {"model": run.shapes.params["encoder"]}, is_part=True)["model"])
  for name in ("encoder", "model"):
    for key, leaf in tree.flatten(found[name]).items():
      wanted = stored[key] if key in stored else tree.flatten(fresh[name])[key]
      np.testing.assert_array_equal(leaf, wanted)
  added = tree.flatten(found["model"]).keys() - stored.keys()
  assert added and all("/cross" in key for key in added)
  assert tree.flatten(found["encoder"]).keys() == stored.keys()
  assert found["length"] is fresh["length"]
  with pytest.raises(ValueError, match="parts.encoder .* was trained with another tokenizer"):
    setup_lib.setup(_config(init__checkpoint=path, init__parts=dict(encoder=path),
                            tokenizer__path=f"{bilingual.TOKENIZER} more"), str(tmp_path / "other"))


@pytest.mark.parametrize("parts, message", [
    (dict(decoder="seed"), "parts.decoder is no part of objective seq2seq; its parts are model, "),
    (dict(encoder="init"), "parts.encoder is 'init', and init.checkpoint, .* is empty"),
    (dict(encoder=3), "parts.encoder is 3; expected init, seed or a checkpoint")])
def test_parts_that_cannot_begin_there_are_one_line(parts, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(_config(init__parts=parts), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
