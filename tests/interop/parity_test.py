"""Every family against `transformers`: its numbers, stored, and the library where it is installed.

The numbers are in tests/golden/NAME-tiny; `make_golden.py` says where they come from.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import interop
from mdx import sharding
from mdx import types
from mdx.networks import attention
import hf_dirs
import tiny

ROOT = pathlib.Path(__file__).parents[1] / "golden"
MASKED = {"dream": attention.Full(), "sdar": attention.BlockCausal(4)}
# Not in `transformers`: numbers of the published layers.
PUBLISHED = {"llada_moe": attention.Full(), "llada2": attention.BlockCausal(32)}
DECODERS = ("llama", "mistral", "qwen2", "qwen2-window", "qwen3", "qwen3_moe", "phi3", *MASKED)
NAMES = (*DECODERS, *PUBLISHED, "bert", "roberta", "electra-generator", "electra-discriminator",
         "modernbert", "distilbert", "deberta", "deberta-apart", "nomic")


def _path(name):
  return ROOT / f"{name}-tiny"


@functools.cache
def _numbers(name):
  return dict(np.load(_path(name) / "logits.npz"))


def _attention(name):
  known = MASKED | PUBLISHED
  return known.get(name, attention.Causal() if name in DECODERS else attention.Full())


@functools.cache
def _score(name, spec):
  """Jitted (params, tokens, attention mask) -> logits, as the family's models are read."""
  network = spec.network()

  @jax.jit
  def score(params, tokens, mask):
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    hidden = network.encode(params, types.Inputs(tokens, positions, mask),
                            attention=_attention(name)).last
    return network.head(params, hidden, spec.head)

  return score


def _logits(name, spec, params, prefix):
  data = _numbers(name)
  mask = data["attention_mask"] if prefix else np.ones_like(data["attention_mask"])
  logits = np.asarray(_score(name, spec)(params, data[f"{prefix}input_ids"], mask))
  rows = logits[..., :spec.vocab_size] if spec.head == "lm" else logits
  return rows[mask == 1], data[f"{prefix}logits"][mask == 1]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers_with_and_without_padding(name):
  spec = hf_dirs.spec_of(_path(name))
  params = hf_dirs.loaded(_path(name))
  for prefix in ("", "padded_"):
    have, want = _logits(name, spec, params, prefix)
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-4)
  assert np.ptp(want) > 1  # a model that says something


@pytest.mark.parametrize("name", tiny.first(NAMES, 3))
def test_round_trip_is_exact_with_and_without_the_directory_it_came_from(name, tmp_path):
  source, spec, params = _path(name), hf_dirs.spec_of(_path(name)), hf_dirs.loaded(_path(name))
  config = interop.load_config(source)
  interop.save(tmp_path / "like", params, spec, like=source)
  interop.save(tmp_path / "alone", params, spec, model_type=interop.family_key(source))
  want = hf_dirs.tensors_of(source)
  for out in ("like", "alone"):
    have = hf_dirs.tensors_of(tmp_path / out)
    assert have.keys() == want.keys()
    for key in want:
      np.testing.assert_array_equal(have[key], want[key], err_msg=key, strict=True)
    assert interop.network_fields(tmp_path / out) == interop.network_fields(source)
  assert interop.load_config(tmp_path / "like") == config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modernbert", "electra-generator", "deberta-apart"])
def test_a_mesh_that_cuts_the_parameters_changes_neither_logits_nor_export(name, tmp_path):
  mesh = sharding.make_mesh(dict(fsdp=2, tensor=2), jax.devices()[:4])
  spec = hf_dirs.spec_of(_path(name), vocab_multiple=32)
  with jax.set_mesh(mesh):
    params = interop.load(_path(name), hf_dirs.shapes(spec, mesh))
    assert params["embed"]["embedding"].addressable_shards[0].data.shape[0] == 32
    np.testing.assert_allclose(*_logits(name, spec, params, "padded_"), rtol=0, atol=1e-4)
    interop.save(tmp_path / "out", params, spec, like=_path(name))
  want, have = hf_dirs.tensors_of(_path(name)), hf_dirs.tensors_of(tmp_path / "out")
  for key in want:
    np.testing.assert_array_equal(have[key], want[key], err_msg=key, strict=True)


@pytest.mark.slow
def test_unstacked_layers_compute_the_same():
  spec = hf_dirs.spec_of(_path("modernbert"), scan_layers=False)
  flat = spec.network().unstack(hf_dirs.loaded(_path("modernbert")))
  assert "layers" not in flat
  np.testing.assert_allclose(*_logits("modernbert", spec, flat, ""), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PUBLISHED])
def test_transformers_loads_what_we_write_and_computes_the_same(name, tmp_path):
  """Without the directory the model came from: the config too is ours."""
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  import make_golden  # pylint: disable=g-import-not-at-top
  spec, params = hf_dirs.spec_of(_path(name)), hf_dirs.loaded(_path(name))
  ids = interop.special_ids(_path(name))
  interop.save(tmp_path / "out", params, spec,
               model_type=interop.load_config(_path(name))["model_type"], ids=ids)
  if name in MASKED:  # whose classes come with the weights: the body they share
    body = {"dream": "qwen2", "sdar": "qwen3"}[name]
    config = interop.load_config(tmp_path / "out") | dict(
        model_type=body, architectures=[f"{body.capitalize()}ForCausalLM"])
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
  model, report = type(make_golden.build(name)).from_pretrained(
      tmp_path / "out", output_loading_info=True, attn_implementation="eager")
  assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  data, torch = _numbers(name), make_golden.torch
  logits = make_golden.score(model.eval(), name, torch.tensor(data["padded_input_ids"]),
                             torch.tensor(data["attention_mask"]))
  np.testing.assert_allclose(logits, data["padded_logits"], rtol=0, atol=1e-5)


def test_how_a_model_is_read_comes_from_its_family():
  read = {name: interop.objective_fields(_path(name)) for name in NAMES}
  assert read["dream"] == dict(name="diffusion", mask_column=True, shift=True)
  assert read["sdar"]["attention"] == dict(name="block_causal", block_length=4)
  assert read["qwen2"] == dict(name="ar", start_id=1)
  assert read["bert"] == dict(name="mlm") and read["electra-discriminator"] == {}
  for name in ("dream", "sdar", "qwen2", "qwen3", "bert", "roberta", "modernbert"):
    spec = hf_dirs.spec_of(_path(name))
    assert interop.suited(spec, read[name]) == interop.load_config(_path(name))["model_type"]
  with pytest.raises(ValueError, match="no family of Hugging Face has such a model"):
    interop.suited(hf_dirs.spec_of(_path("qwen2")), dict(name="mlm"))
