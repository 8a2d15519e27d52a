"""Writing a Hugging Face directory."""

import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx.interop import safetensors as files
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree
import hf_dirs


@pytest.mark.parametrize("stored", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("shards", [False, True])
def test_round_trip_is_exact_in_the_stored_type(tmp_path, stored, shards):
  source = hf_dirs.random_model(tmp_path / "in", stored, dtype=np.dtype(stored).name)
  (source / "tokenizer.json").write_text("{}")
  (source / "modeling_llada.py").write_text("# code\n")
  params = hf_dirs.loaded(source)
  interop.save(tmp_path / "out", params, hf_dirs.spec_of(source), like=source,
               max_shard_bytes=4000 if shards else 2 ** 30)
  want, have = hf_dirs.tensors_of(source), hf_dirs.tensors_of(tmp_path / "out")
  assert want.keys() == have.keys()
  for name in want:
    np.testing.assert_array_equal(want[name], have[name], err_msg=name, strict=True)
  assert interop.load_config(tmp_path / "out") == interop.load_config(source)
  assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
  assert (tmp_path / "out" / "modeling_llada.py").exists()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
  if shards:
    index = json.loads((tmp_path / "out" / files.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in want.values())
    assert len(set(index["weight_map"].values())) > 2
    assert all(os.path.getsize(tmp_path / "out" / f) < 4000 + 2000
               for f in index["weight_map"].values())
    first, second = ([f for name, f in index["weight_map"].items() if f"blocks.{i}." in name]
                     for i in range(2))
    assert max(first) <= min(second)
    again = hf_dirs.loaded(tmp_path / "out")
    assert tree.fingerprint(again) == tree.fingerprint(params)
    with safetensors.safe_open(next((tmp_path / "out").glob("*-00001-*")), "np") as f:
      assert f.metadata() == {"format": "pt"}


@pytest.mark.slow
def test_a_model_of_our_own_is_exported_with_a_whole_config(tmp_path):
  spec = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=13, tied=False,
                                 max_length=64, rope_theta=500.0)
  params = spec.network().init(rng.root(0))
  (tmp_path / "out").mkdir()
  interop.save(tmp_path / "out", params, spec, model_type="llada", dtype="bfloat16",
               ids=dict(mask_id=12, eos_id=0, pad_id=0), files={"tokenizer.json": "{}"})
  config = interop.load_config(tmp_path / "out")
  assert config["torch_dtype"] == "bfloat16" and config["architectures"] == ["LLaDAModelLM"]
  assert interop.special_ids(tmp_path / "out") == dict(mask_id=12, eos_id=0, pad_id=0)
  assert hf_dirs.spec_of(tmp_path / "out", mlp_width=spec.mlp_width, num_kv_heads=0) == spec
  assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
  want, have = params["lm_head"]["kernel"].T[:13], hf_dirs.tensors_of(tmp_path / "out")
  np.testing.assert_array_equal(have["model.transformer.ff_out.weight"],
                                np.asarray(want.astype(jnp.bfloat16)), strict=True)
  interop.check(tmp_path / "out", hf_dirs.shapes(spec))


def test_shards_may_become_one_file(tmp_path):
  params, spec = hf_dirs.loaded(), hf_dirs.spec_of()
  interop.save(tmp_path / "in", params, spec, like=hf_dirs.GOLDEN, max_shard_bytes=200_000)
  interop.save(tmp_path / "out", params, spec, like=tmp_path / "in")
  assert not list((tmp_path / "out").glob("*index*")) + list((tmp_path / "out").glob("*-of-*"))
  assert tree.fingerprint(hf_dirs.loaded(tmp_path / "out")) == tree.fingerprint(params)


def test_every_tensor_keeps_the_type_it_was_stored_in(tmp_path):
  tensors = hf_dirs.tensors_of(hf_dirs.GOLDEN)
  tensors = {k: v if "norm" in k else v.astype(jnp.bfloat16) for k, v in tensors.items()}
  source = hf_dirs.write(tmp_path / "in", tensors)
  assert interop.compute_dtype(source) == "bfloat16"
  interop.save(tmp_path / "out", hf_dirs.loaded(source), hf_dirs.spec_of(), like=source)
  have = hf_dirs.tensors_of(tmp_path / "out")
  for name, value in tensors.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name, strict=True)


@pytest.mark.parametrize("fields", [
    dict(norm="layer"), dict(mlp="geglu"), dict(position="learned"), dict(use_bias=True),
    dict(time_conditioning=True), dict(head_bias=True), dict(head_dim=8)])
def test_a_model_that_the_family_cannot_hold_is_refused(tmp_path, fields):
  spec = transformer.Transformer(num_layers=1, width=16, num_heads=4, vocab_size=13, **fields)
  with pytest.raises(ValueError) as error:
    interop.save(tmp_path / "out", hf_dirs.shapes(spec), spec, model_type="llada")
  assert next(iter(fields)) in str(error.value)
  assert not any(tmp_path.iterdir())


def test_export_changes_what_the_model_changed_and_nothing_else(tmp_path):
  source = hf_dirs.random_model(tmp_path / "in", jnp.bfloat16, house_style="kept",
                                attention_dropout=0.5)
  spec = hf_dirs.spec_of(source, max_length=512)
  params = hf_dirs.loaded(source)
  interop.save(tmp_path / "out", params, spec, like=source, dtype="float32", ids=dict(mask_id=3))
  old, new = interop.load_config(source), interop.load_config(tmp_path / "out")
  assert (new["max_sequence_length"], new["mask_token_id"], new["dtype"]) == (512, 3, "float32")
  assert (new["house_style"], new["eos_token_id"]) == ("kept", old["eos_token_id"])
  want = {k: v.astype(np.float32) for k, v in hf_dirs.tensors_of(source).items()}
  for name, value in hf_dirs.tensors_of(tmp_path / "out").items():
    np.testing.assert_array_equal(value, want[name], err_msg=name, strict=True)


def test_export_overwrites_nothing_and_leaves_nothing_half_written(tmp_path, monkeypatch):
  spec, params = hf_dirs.spec_of(), hf_dirs.loaded()
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="is not empty"):
    interop.save(tmp_path, params, spec, model_type="llada")
  with pytest.raises(ValueError, match="dtype is 'int8'"):
    interop.save(tmp_path / "out", params, spec, model_type="llada", dtype="int8")
  with pytest.raises(ValueError, match="model_type 'bloom'"):
    interop.save(tmp_path / "out", params, spec, model_type="bloom")
  with pytest.raises(OSError, match="notes.txt/out could not be written"):
    interop.save(tmp_path / "notes.txt" / "out", params, spec, model_type="llada")

  def full_disk(*_, **__):
    raise safetensors.SafetensorError("No space left on device")

  monkeypatch.setattr(safetensors_numpy, "save_file", full_disk)
  with pytest.raises(OSError, match="out could not be written .*No space left"):
    interop.save(tmp_path / "out", params, spec, model_type="llada")
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_links_out_of_a_directory_are_not_followed_but_those_of_the_hub_are(tmp_path):
  source = tmp_path / "cache" / "snapshots" / "revision"
  shutil.copytree(pathlib.Path(__file__).parents[1] / "golden" / "bert-tiny", source)
  blobs = tmp_path / "cache" / "blobs"
  blobs.mkdir()
  (source / "special_tokens_map.json").unlink(missing_ok=True)
  (blobs / "1234").write_text("{}")
  (source / "special_tokens_map.json").symlink_to("../../blobs/1234")
  params, spec = hf_dirs.loaded(source), hf_dirs.spec_of(source)
  interop.save(tmp_path / "out", params, spec, like=source)
  copied = tmp_path / "out" / "special_tokens_map.json"
  assert copied.read_text() == "{}" and not copied.is_symlink()
  (tmp_path / "secret.txt").write_text("secret")
  (source / "vocab.txt").unlink(missing_ok=True)
  (source / "vocab.txt").symlink_to(tmp_path / "secret.txt")
  with pytest.raises(ValueError, match="vocab.txt is a link to .*secret.txt, out of its directory"):
    interop.save(tmp_path / "again", params, spec, like=source)
  assert not (tmp_path / "again").exists()
