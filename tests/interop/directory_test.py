"""Reading a Hugging Face directory: in parts, checked first, and what is refused."""

import json
import os
import shutil
import tracemalloc

import jax
import numpy as np
import pytest

from mdx import interop
from mdx import sharding
from mdx.interop import safetensors as files
from mdx.utils import tree
import hf_dirs
import tiny

BLOCK = "model.transformer.blocks."


def test_nothing_is_read_before_all_is_checked(tmp_path, monkeypatch):
  tensors = hf_dirs.tensors_of(hf_dirs.GOLDEN)
  tensors["model.transformer.ff_out.weight"] = tensors["model.transformer.ff_out.weight"][:-1]
  source = hf_dirs.write(tmp_path / "in", tensors)
  monkeypatch.setattr(files.Reader, "read", lambda *_: pytest.fail("a tensor was read"))
  with pytest.raises(ValueError, match=r"'model.transformer.ff_out.weight' in .*model.safetensors "
                                       r"has shape \(159, 64\); this model expects \(160, 64\)"):
    interop.load(source, hf_dirs.shapes(hf_dirs.spec_of()))


def test_a_part_is_read_once_and_never_more_than_one_tensor_at_a_time(tmp_path, monkeypatch):
  source = hf_dirs.random_model(tmp_path / "in", layers=8, width=64, hidden=256)
  sizes = {k: v.nbytes for k, v in hf_dirs.tensors_of(source).items()}
  reads = {name: [] for name in sizes}
  read = files.Reader.read

  def counted(self, name, index):
    value = read(self, name, index)
    reads[name].append(value.nbytes)
    return value

  monkeypatch.setattr(files.Reader, "read", counted)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  interop.load(source, hf_dirs.shapes(hf_dirs.spec_of(source), mesh))
  assert {name: sum(parts) for name, parts in reads.items()} == sizes
  assert reads[BLOCK + "7.ff_proj.weight"] == [256 * 64 * 4 // 4] * 4


def test_any_axis_may_be_cut_even_that_of_the_layers():
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.NamedSharding(
          mesh, jax.sharding.PartitionSpec(*("data", "fsdp", "tensor")[:x.ndim]))),
      hf_dirs.shapes(hf_dirs.spec_of()))
  params = interop.load(hf_dirs.GOLDEN, shapes)
  assert params["layers"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (1, 32, 80)
  assert tree.fingerprint(params) == tree.fingerprint(hf_dirs.loaded())


def test_a_model_is_never_twice_in_memory(tmp_path):
  source = hf_dirs.random_model(tmp_path / "in", layers=16, width=64, hidden=256)
  shapes = hf_dirs.shapes(hf_dirs.spec_of(source))
  total = tree.num_bytes(shapes)
  interop.load(source, shapes)  # imports and caches
  tracemalloc.start()
  params = interop.load(source, shapes)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert tree.num_bytes(params) == total > 2 ** 21
  assert peak < 1.4 * total  # buffers of the CPU are host memory, plus one block of 0.24


def _drop(tensors):
  del tensors[BLOCK + "1.k_proj.weight"], tensors[BLOCK + "1.v_proj.weight"]


def _add(tensors):
  tensors[BLOCK + "2.k_proj.weight"] = tensors[BLOCK + "1.k_proj.weight"]


def _quantise(tensors):
  tensors[BLOCK + "1.k_proj.weight"] = tensors[BLOCK + "1.k_proj.weight"].astype(np.int8)


def _transpose(tensors):
  tensors[BLOCK + "0.ff_out.weight"] = tensors[BLOCK + "0.ff_out.weight"].T


@pytest.mark.parametrize("damage, message", [
    (_drop, r"lacks tensor '.*blocks.1.k_proj.weight' \(and 1 more\)"),
    (_add, "'.*blocks.2.k_proj.weight' in .*model.safetensors has no place"),
    (_quantise, "'.*blocks.1.k_proj.weight' in .*model.safetensors is stored as I8"),
    (_transpose, r"'.*blocks.0.ff_out.weight' in .* has shape \(160, 64\); .* \(64, 160\)")])
def test_tensors_that_disagree_with_the_config_are_named(tmp_path, damage, message):
  tensors = hf_dirs.tensors_of(hf_dirs.GOLDEN)
  damage(tensors)
  source = hf_dirs.write(tmp_path / "in", tensors)
  with pytest.raises(ValueError, match=message):
    interop.check(source, hf_dirs.shapes(hf_dirs.spec_of()))


def _sharded(tmp_path):
  params = hf_dirs.loaded()
  interop.save(tmp_path / "in", params, hf_dirs.spec_of(), like=hf_dirs.GOLDEN,
               max_shard_bytes=200_000)
  return tmp_path / "in"


def test_a_missing_or_foreign_file_is_named(tmp_path):
  source = _sharded(tmp_path)
  shapes = hf_dirs.shapes(hf_dirs.spec_of())
  first = min(source.glob("model-*.safetensors"))
  whole = first.read_bytes()
  name, start = r"model-00001-of-0000\d.safetensors", len(whole)
  for content, message in [
      (whole[:-10], rf"{name} is truncated: tensor '.*' ends at byte {start}, the file at "),
      (whole[:20], f"{name} is truncated: 20 bytes"),
      (b"", f"{name} is truncated: 0 bytes"),
      (whole + b"x", f"{name} is damaged"),
      (b"\x80\x04\x95 pickled", f"{name} is a pickle"),
      (b"PK\x03\x04 zipped pickle", f"{name} is a pickle"),
      (b"version https://git-lfs.github.com/spec/v1", f"{name} is a Git LFS pointer"),
      (bytes([4, 0, 0, 0, 0, 0, 0, 0]) + b"text", f"{name} is not a safetensors file"),
  ]:
    first.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
      interop.load(source, shapes)
    assert "\n" not in str(error.value)
  first.unlink()
  with pytest.raises(ValueError, match=f"{name} is missing"):
    interop.load(source, shapes)


@pytest.mark.parametrize("index, message", tiny.first([
    ("{", "is not an index"), ("{}", "is not an index"), ('{"weight_map": {}}', "is not an index"),
    ('{"weight_map": {"a": "../x.safetensors"}}', "is not an index"),
    ('{"weight_map": {"a": ""}}', "is not an index"), ('{"weight_map": {"a": ".."}}', "not an index"),
    ('{"weight_map": {"a": "."}}', "is not an index"), ('{"weight_map": {"a": 5}}', "not an index"),
    ('{"weight_map": {"a": "x\\u0000"}}', "is not an index"), ("[" * 10**5, "is not an index"),
    ('{"weight_map": ["a"]}', "is not an index"), ('{"weight_map": {"a": "a/b"}}', "not an index"),
    ('{"weight_map": {"a": "folder"}}', "folder: expected a regular file, got a directory"),
    ('{"weight_map": {"a": "fifo"}}', "fifo: expected a regular file, got a FIFO")], 3))
def test_an_unusable_index_is_refused(tmp_path, index, message):
  source = _sharded(tmp_path)
  (source / files.INDEX).write_text(index)
  (source / "folder").mkdir()
  os.mkfifo(source / "fifo")
  with pytest.raises(ValueError, match=message):
    interop.check(source, hf_dirs.shapes(hf_dirs.spec_of()))


def test_an_index_that_names_a_tensor_in_the_wrong_file_is_refused(tmp_path):
  source = _sharded(tmp_path)
  index = json.loads((source / files.INDEX).read_text())
  last = max(index["weight_map"].values())
  index["weight_map"]["model.transformer.wte.weight"] = last
  (source / files.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=f"{last} lacks tensor 'model.transformer.wte.weight'"):
    interop.check(source, hf_dirs.shapes(hf_dirs.spec_of()))


def test_pickles_and_empty_directories_are_refused(tmp_path):
  shutil.copy(hf_dirs.GOLDEN / "config.json", tmp_path)
  with pytest.raises(ValueError, match="has no weights; expected model.safetensors"):
    interop.check(tmp_path, hf_dirs.shapes(hf_dirs.spec_of()))
  (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
  with pytest.raises(ValueError, match="pytorch_model.bin is a pickle"):
    interop.check(tmp_path, hf_dirs.shapes(hf_dirs.spec_of()))


@pytest.mark.parametrize("text, message", [
    (None, "cannot be read"), ("{", "is not JSON"), ("[]", "holds no object"),
    ("{}", "model_type None")])
def test_a_bad_config_is_refused(tmp_path, text, message):
  shutil.copy(hf_dirs.GOLDEN / "model.safetensors", tmp_path)
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    interop.check(tmp_path, hf_dirs.shapes(hf_dirs.spec_of()))


def test_a_model_of_other_sizes_than_the_directory_is_refused():
  with pytest.raises(ValueError, match="lacks tensor .*blocks.2"):
    interop.check(hf_dirs.GOLDEN, hf_dirs.shapes(hf_dirs.spec_of(num_layers=3)))
  with pytest.raises(ValueError, match=r"blocks.1.attn_norm.weight' .* has no place|and 8 more"):
    interop.check(hf_dirs.GOLDEN, hf_dirs.shapes(hf_dirs.spec_of(num_layers=1)))
  with pytest.raises(ValueError, match="ff_out.weight' has no parameter lm_head/kernel"):
    interop.check(hf_dirs.GOLDEN, hf_dirs.shapes(hf_dirs.spec_of(tied=True)))
  with pytest.raises(ValueError, match="parameter .*bias has no tensor"):
    interop.check(hf_dirs.GOLDEN, hf_dirs.shapes(hf_dirs.spec_of(use_bias=True)))
  with pytest.raises(ValueError, match="wte.weight' .* has shape"):
    interop.check(hf_dirs.GOLDEN, hf_dirs.shapes(hf_dirs.spec_of(width=32)))


def test_directories_are_told_apart(tmp_path):
  assert interop.is_hf_dir(hf_dirs.GOLDEN)
  assert not interop.is_hf_dir(tmp_path) and not interop.is_hf_dir(tmp_path / "absent")
  (tmp_path / "config.json").write_text('{"hash": "0", "config": {"seed": 0}}')  # a workdir's
  assert not interop.is_hf_dir(tmp_path)
  (tmp_path / "config.json").write_text('{"architectures": ["LLaDAModelLM"]}')
  assert interop.is_hf_dir(tmp_path)
  (tmp_path / "config.json").unlink()
  (tmp_path / files.INDEX).write_text("{}")
  assert interop.is_hf_dir(tmp_path)
