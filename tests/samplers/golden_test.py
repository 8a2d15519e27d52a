"""Decodes equal those of the official LLaDA and MDPO code, token by token.

The numbers in tests/golden/llada-tiny come from running that code in float32 on a CPU.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import mdx
from mdx import interop
from mdx import samplers
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import loop
from mdx.utils import rng

import tiny

PATH = pathlib.Path(__file__).parents[1] / "golden" / "llada-tiny"
SETTINGS = json.loads((PATH / "decodes.json").read_text())
DECODES = np.load(PATH / "decodes.npz")
MASK_ID = interop.special_ids(PATH)["mask_id"]
_CONFIDENCES = {"llada": "probability", "entropy": "entropy", "topk_margin": "margin"}


@pytest.fixture(scope="module")
def model():
  spec = transformer.Transformer(**interop.network_fields(PATH), scan_layers=False)
  network = spec.network()
  shapes = jax.eval_shape(network.init, rng.root(0))
  objective = diffusion.MaskedDiffusion(network=network, mask_id=MASK_ID, mask_column=True)
  return objective, {"model": interop.load(PATH, shapes)}


def _fields(setting):
  is_mdpo = setting["fn"] == "mdpo"
  return dict(name="rcr" if setting.get("rcr") else "confidence", temperature=0.0,
              steps=setting["steps"], gen_length=setting["gen_length"],
              block_length=setting["block_length"], guidance_scale=setting.get("cfg", 0.0),
              schedule=setting.get("mode", "linear") if is_mdpo else "even",
              confidence=_CONFIDENCES[setting.get("conf", "llada")])


def _decode(model, fields, prompt, record="none"):
  objective, params = model
  sampler = samplers.build(fields, objective, mask_id=MASK_ID)
  canvas = np.concatenate([prompt, np.full((len(prompt), sampler.gen_length), MASK_ID)], axis=1)
  run = jax.jit(lambda params, canvas: loop.decode(
      lambda request: objective.answer(params, request), sampler, canvas, key=rng.root(0),
      row_index=jnp.arange(len(canvas)), start=prompt.shape[1], record=record))
  return jax.device_get(run(params, jnp.asarray(canvas, jnp.int32)))


@pytest.mark.parametrize("number", tiny.first(range(len(SETTINGS)), 2))
def test_decodes_equal_the_official_ones_canvas_by_canvas(model, number):
  prompt = DECODES["prompt"]
  decoded = _decode(model, _fields(SETTINGS[number]), prompt, record="full")
  length = prompt.shape[1]
  np.testing.assert_array_equal(decoded.tokens[:, length:], DECODES[f"{number}_output"])
  np.testing.assert_array_equal(decoded.tokens[:, :length], prompt)
  assert decoded.nfe[0] == SETTINGS[number]["steps"] * (2 if "cfg" in SETTINGS[number] else 1)
  if f"{number}_canvases" in DECODES:
    record = decoded.trajectory
    np.testing.assert_array_equal(record.canvas[0], DECODES[f"{number}_canvases"][:, 0])
    np.testing.assert_array_equal(record.prediction[0], DECODES[f"{number}_predictions"][:, 0])


def test_six_of_the_decodes_have_canvases():
  assert sum(f"{i}_canvases" in DECODES for i in range(len(SETTINGS))) == 6 and len(SETTINGS) == 9


def _directory(path, **changes):
  """The model with a tokenizer of 160 words, and with other entries in config.json."""
  shutil.copytree(PATH, path)
  words = {f"w{i}": i for i in range(160)}
  words |= {"<eos>": words.pop("w158")}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(path / "tokenizer.json"))
  config = json.loads((path / "config.json").read_text()) | changes
  (path / "config.json").write_text(json.dumps(config))
  return str(path)


@pytest.mark.slow
def test_a_hugging_face_directory_is_sampled_like_any_checkpoint(tmp_path):
  model = mdx.load(_directory(tmp_path / "hf"))
  fields = _fields(SETTINGS[1])
  row = model.sample([DECODES["prompt"][0]], **fields)[0]
  np.testing.assert_array_equal(row.tokens, DECODES["1_output"][0])
  np.testing.assert_array_equal(row.prompt_tokens, DECODES["prompt"][0])


def test_a_directory_without_a_mask_token_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no mask token among its 160 ids"):
    mdx.load(_directory(tmp_path / "hf", mask_token_id=None))
