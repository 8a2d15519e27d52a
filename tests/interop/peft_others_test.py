"""IA3 and prompts in PEFT's format: bit for bit in and out, and the numbers of the library."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import mdx
from mdx import interop
from mdx.interop import peft
from mdx.networks.adaptation import inserted
from mdx.networks.adaptation import sites
from mdx.networks.adaptation import vectors
from mdx.utils import rng
from mdx.utils import tree
import hf_dirs

BASE = pathlib.Path(__file__).parents[1] / "golden" / "llama-tiny"
PUT = {"ia3": vectors.IA3(), "prompt": inserted.Prompt(length=3),
       "p_tuning": inserted.Prompt(length=3, hidden=4)}


def _written(name, path):
  """The adaptation's parameters, drawn, and their directory."""
  spec = hf_dirs.spec_of(BASE, adaptations=(PUT[name],))
  shapes = tree.part(hf_dirs.shapes(spec), lambda path: sites.owner(path, (PUT[name],)) is not None)
  own = tree.map_with_path(lambda path, leaf: jax.random.normal(
      rng.stream(rng.root(0), path), leaf.shape), shapes)
  interop.save_adapter(path, own, spec, like=BASE)
  return own, shapes


@pytest.mark.parametrize("name", PUT)
def test_an_adapter_comes_back_bit_for_bit(name, tmp_path):
  own, shapes = _written(name, tmp_path / "a")
  fields = interop.adapter_fields(str(tmp_path / "a"), BASE)
  if name == "p_tuning":  # the prompt is stored as its perceptron makes it
    shapes = {"prompt": {"prompt": shapes["prompt"]["prompt"]}}
    own = {"prompt": {"prompt": jax.jit(PUT[name].prompt)(own["prompt"])}}
  assert fields == (dict(name="ia3", targets=("k", "v", "up")) if name == "ia3" else
                    dict(name="prompt_tuning", length=3))
  back = interop.load_adapter(str(tmp_path / "a"), BASE, shapes)
  jax.tree.map(np.testing.assert_array_equal, back, own)
  stored = safetensors_numpy.load_file(tmp_path / "a" / peft.FILE)
  if name == "ia3":
    prefix = "base_model.model.model.layers.1."
    assert stored[f"{prefix}mlp.down_proj.ia3_l"].shape[0] == 1
    np.testing.assert_array_equal(stored[f"{prefix}self_attn.k_proj.ia3_l"][:, 0],
                                  own["layers"]["attention"]["k"]["factor"][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ia3", "prompt"])
def test_numbers_are_those_of_peft(name, tmp_path):
  torch, theirs = pytest.importorskip("torch"), pytest.importorskip("peft")
  transformers = pytest.importorskip("transformers")
  _written(name, tmp_path / "a")
  base = transformers.AutoModelForCausalLM.from_pretrained(BASE)
  tokens = torch.tensor([[1, 5, 6, 7, 8]])
  with torch.no_grad():
    logits = theirs.PeftModel.from_pretrained(base, tmp_path / "a")(tokens).logits
  law = logits[:, -5:].log_softmax(-1)
  want = law[0, torch.arange(4), tokens[0, 1:]].sum().item()
  ours = mdx.load(str(BASE), init=dict(adapter=str(tmp_path / "a")))
  np.testing.assert_allclose(ours.score_pairs([([1], [5, 6, 7, 8])]), [want], rtol=1e-4)
  plain = mdx.load(str(BASE)).score_pairs([([1], [5, 6, 7, 8])])
  assert np.abs(np.asarray(plain) - want).max() > 0.01


@pytest.mark.parametrize("change, message", [
    (dict(target_modules=["c_attn"]), "match none of the projections of a 'llama' model"),
    (dict(target_modules=["k_proj"]), "has no place in the model"),
    (dict(feedforward_modules=["k_proj"]), "scales the inputs of k, which is computed of a gated"),
    (dict(target_modules=["down_proj", "up_proj", "k_proj", "v_proj"]), "two factors")])
def test_factors_that_do_not_fit_are_one_line(tmp_path, change, message):
  _, shapes = _written("ia3", tmp_path / "a")
  file = tmp_path / "a" / peft.CONFIG
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(ValueError, match=message) as error:
    interop.adapter_fields(str(tmp_path / "a"), BASE)
    interop.load_adapter(str(tmp_path / "a"), BASE, {})
  assert shapes and "\n" not in str(error.value)


def test_a_prompt_is_read_of_causal_models_alone(tmp_path):
  _written("prompt", tmp_path / "a")
  with pytest.raises(ValueError, match="PROMPT_TUNING is computed of causal models alone"):
    interop.adapter_fields(str(tmp_path / "a"), BASE.parent / "llada-tiny")
