"""LLaDA against what the official code computes.

The numbers are in tests/golden/llada-tiny; its README says where they come from.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import interop
from mdx import sharding
import hf_dirs


@functools.cache
def _golden():
  return dict(np.load(hf_dirs.GOLDEN / "logits.npz"))


def _padded_inputs():
  mask = _golden()["padded_attention_mask"].astype(np.int32)
  return dict(segment_ids=mask, positions=np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("on_mesh", [False, True])
def test_logits_are_those_of_the_official_code(on_mesh, padded):
  spec, mesh = hf_dirs.spec_of(), None
  if on_mesh:
    mesh = sharding.make_mesh(dict(fsdp=2, tensor=2), jax.devices()[:4])
    jax.set_mesh(mesh)
  params = interop.load(hf_dirs.GOLDEN, hf_dirs.shapes(spec, mesh))
  if on_mesh:
    kernel = params["layers"]["mlp"]["down"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 160 // 2, 64 // 2)
  data, name = _golden(), "padded_" if padded else ""
  inputs = _padded_inputs() if padded else {}
  logits = hf_dirs.logits_of(spec, params, data[name + "input_ids"], **inputs)
  real = data["padded_attention_mask"] == 1 if padded else np.ones((3, 32), bool)
  np.testing.assert_allclose(logits[real], data[name + "logits"][real], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_mesh_of_more_devices_pads_the_vocabulary_and_export_takes_it_off(tmp_path):
  spec = hf_dirs.spec_of(vocab_multiple=96)
  assert spec.padded_vocab == 192
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  jax.set_mesh(mesh)
  params = interop.load(hf_dirs.GOLDEN, hf_dirs.shapes(spec, mesh))
  assert not np.asarray(params["embed"]["embedding"])[160:].any()
  logits = hf_dirs.logits_of(spec, params, _golden()["input_ids"])
  np.testing.assert_allclose(logits[..., :160], _golden()["logits"], rtol=0, atol=1e-5)
  assert (logits[..., 160:] < -1e29).all()
  interop.save(tmp_path / "out", params, spec, model_type="llada")
  want, have = hf_dirs.tensors_of(hf_dirs.GOLDEN), hf_dirs.tensors_of(tmp_path / "out")
  assert want.keys() == have.keys()
  for name in want:
    np.testing.assert_array_equal(want[name], have[name], err_msg=name, strict=True)


@pytest.mark.slow
def test_bf16_weights_stay_bf16_on_the_device_and_compute(tmp_path):
  source = hf_dirs.random_model(tmp_path / "in", jnp.bfloat16)
  assert interop.compute_dtype(source) == "bfloat16"
  assert interop.compute_dtype(hf_dirs.GOLDEN) == "float32"
  spec = hf_dirs.spec_of(source, dtype="bfloat16")
  params = interop.load(source, hf_dirs.shapes(spec, dtype=jnp.bfloat16))
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(jnp.bfloat16)}
  tokens = np.arange(10).reshape(2, 5)
  exact = hf_dirs.loaded(source)
  np.testing.assert_allclose(hf_dirs.logits_of(spec, params, tokens),
                             hf_dirs.logits_of(spec, exact, tokens), rtol=0.05, atol=0.05)


def test_grouped_keys_are_shared_by_neighbouring_heads(tmp_path):
  grouped = hf_dirs.random_model(tmp_path / "grouped")
  tensors = hf_dirs.tensors_of(grouped)
  for name in tensors:
    if "k_proj" in name or "v_proj" in name:  # 2 key-value heads of width 4, for 4 queries
      tensors[name] = tensors[name].reshape(2, 1, 4, 16).repeat(2, axis=1).reshape(16, 16)
  full = hf_dirs.write(tmp_path / "full", tensors,
                       **interop.load_config(grouped) | dict(n_kv_heads=None))
  assert hf_dirs.spec_of(grouped).kv_heads == 2 and hf_dirs.spec_of(full).kv_heads == 4
  tokens = np.arange(10).reshape(2, 5)
  scores = [hf_dirs.logits_of(hf_dirs.spec_of(p), hf_dirs.loaded(p), tokens)
            for p in (grouped, full)]
  np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)


def test_a_tied_model_has_no_head_in_the_file(tmp_path):
  source = hf_dirs.random_model(tmp_path / "in")
  tensors = hf_dirs.tensors_of(source)
  del tensors["model.transformer.ff_out.weight"]
  tied = hf_dirs.write(tmp_path / "tied", tensors,
                       **interop.load_config(source) | dict(weight_tying=True))
  params = hf_dirs.loaded(tied)
  assert "lm_head" not in params
  interop.save(tmp_path / "out", params, hf_dirs.spec_of(tied), model_type="llada")
  assert hf_dirs.tensors_of(tmp_path / "out").keys() == tensors.keys()
  assert interop.load_config(tmp_path / "out")["weight_tying"] is True


def test_rows_beyond_the_tokenizer_are_ordinary_ids(tmp_path):
  source = hf_dirs.random_model(tmp_path / "in")
  config = interop.load_config(source) | dict(vocab_size=9)
  (source / "config.json").write_text(json.dumps(config))
  assert hf_dirs.spec_of(source).vocab_size == 11
  interop.check(source, hf_dirs.shapes(hf_dirs.spec_of(source)))


@pytest.mark.parametrize("option, value", [
    ("alibi", True), ("clip_qkv", 8.0), ("attention_layer_norm", True), ("rope", False),
    ("block_type", "sequential"), ("block_group_size", 2), ("activation_type", "gelu"),
    ("layer_norm_type", "default"), ("input_emb_norm", True), ("include_bias", True),
    ("include_qkv_bias", True), ("scale_logits", True), ("d_model", None), ("n_layers", "2"),
    ("model_type", "gpt2"), ("multi_query_attention", True), ("embedding_size", 100),
    ("rms_norm_eps", "1e-5"), ("weight_tying", None), ("architectures", ["LlavaLLaDAModelLM"])])
def test_an_option_that_we_do_not_compute_is_named(tmp_path, option, value):
  source = hf_dirs.write(tmp_path / "in", {"a": np.zeros(1, np.float32)}, **{option: value})
  with pytest.raises(ValueError) as error:
    interop.load(source, hf_dirs.shapes(hf_dirs.spec_of()))
  assert str(source / "config.json") in str(error.value)
  assert option in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["block_type", "activation_type", "rope", "layer_norm_type"])
def test_a_silent_config_means_the_default_of_the_published_class(tmp_path, option):
  source = hf_dirs.write(tmp_path / "in", {"a": np.zeros(1, np.float32)})
  config = interop.load_config(source)
  del config[option]
  (source / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=option):
    interop.network_fields(source)


def test_architectures_stand_in_for_a_missing_model_type(tmp_path):
  config = interop.load_config(hf_dirs.GOLDEN)
  del config["model_type"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert interop.network_fields(tmp_path) == interop.network_fields(hf_dirs.GOLDEN)


def test_special_ids_come_from_the_config(tmp_path):
  assert interop.special_ids(hf_dirs.GOLDEN) == dict(mask_id=159, eos_id=158, pad_id=158)
  source = hf_dirs.random_model(tmp_path / "in", bos_token_id=0)
  config = interop.load_config(source)
  for changes, expected in [
      ({}, dict(mask_id=2, eos_id=1, pad_id=1, bos_id=0)),
      (dict(eos_token_id=[3, 4], pad_token_id=None), dict(mask_id=2, eos_id=3, bos_id=0))]:
    (source / "config.json").write_text(json.dumps(config | changes))
    assert interop.special_ids(source) == expected
  (source / "config.json").write_text(json.dumps(config | dict(mask_token_id=11)))
  with pytest.raises(ValueError, match="mask_token_id 11 is not among the 11 ids"):
    interop.special_ids(source)
