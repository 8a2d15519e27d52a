"""Quantised weights, packed here code by code in Python's integers, against float64."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx.interop import quantised
from mdx.interop import safetensors
import hf_dirs

LLAMA = pathlib.Path(__file__).parents[1] / "golden" / "llama-tiny"
OUT, IN, GROUP = 24, 32, 8
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of the columns of a word, from its lowest bits
FP8 = dict(quant_method="fp8", weight_block_size=[16, 12])
GPTQ = dict(quant_method="gptq", bits=4, group_size=GROUP, desc_act=False, sym=True)
AWQ = dict(quant_method="awq", bits=4, group_size=GROUP, zero_point=True, version="gemm")
CHANNELS = dict(quant_method="compressed-tensors", format="float-quantized", config_groups=dict(
    group_0=dict(weights=dict(num_bits=8, type="float", strategy="channel"))))


def _word(codes, bits, places=None):
  """One word, signed, whose bits at each place hold a code."""
  number = sum(int(code) << bits * (place if places is None else places[place])
               for place, code in enumerate(codes))
  return np.int32(number - 2**32 if number >= 2**31 else number)


def _packed(codes, bits, axis, places=None):
  pack = 32 // bits
  codes = codes if axis else codes.T
  words = [[_word(row[i:i + pack], bits, places) for i in range(0, len(row), pack)] for row in codes]
  return np.array(words, np.int32) if axis else np.array(words, np.int32).T


def _integers(config, shape=(OUT, IN), shuffled=False):
  """Parts of a matrix of random codes and the matrix, float64."""
  draw, bits, (outs, ins) = np.random.default_rng(0), config["bits"], shape
  group = config["group_size"] if config["group_size"] > 0 else ins
  number = -(-ins // group)
  codes = draw.integers(0, 2**bits, (ins, outs))
  is_awq = config["quant_method"] == "awq"
  offset = int(not is_awq and config.get("checkpoint_format", "gptq") == "gptq")
  zeros = draw.integers(0, 2**bits, (number, outs))
  scales = (draw.random((number, outs)) + 0.01).astype(np.float16)
  groups = np.arange(ins) // group
  groups = draw.permutation(groups) if shuffled else groups
  places = AWQ_PLACES if is_awq else None
  parts = dict(qweight=_packed(codes, bits, int(is_awq), places),
               qzeros=_packed(zeros, bits, 1, places), scales=scales)
  if shuffled:
    parts["g_idx"] = groups.astype(np.int32)
  return parts, ((codes - zeros[groups] - offset) * scales[groups].astype(np.float64)).T


def _floats(config, shape=(OUT, IN)):
  draw = np.random.default_rng(1)
  weight = draw.normal(size=shape).astype(jnp.float8_e4m3fn)
  if config["quant_method"] == "compressed-tensors":
    scales, block = draw.random((shape[0], 1)).astype(jnp.bfloat16), (1, shape[1])
    part = "weight_scale"
  else:
    part, block = "weight_scale_inv", config.get("weight_block_size")
    size = tuple(-(-n // b) for n, b in zip(shape, block)) if block else (1,)
    scales, block = draw.random(size).astype(np.float32), block or shape
  whole = np.broadcast_to(scales, (1, 1)) if scales.ndim < 2 else scales
  wide = np.array([[float(whole[i // block[0], j // block[1]]) for j in range(shape[1])]
                   for i in range(shape[0])])
  return {"weight": weight, part: scales}, weight.astype(np.float64) * wide


def _saved(path, config, tensors):
  path.mkdir(parents=True, exist_ok=True)
  (path / "config.json").write_text(json.dumps({"quantization_config": config}))
  # The library's numpy writer does not know floats of 8 bits: they are said to be one.
  dtypes = {"float8_e4m3fn": "F8_E4M3", "bfloat16": "BF16", "float16": "F16", "float32": "F32",
            "int32": "I32"}
  header, blobs, begin = {}, [], 0
  for name, value in tensors.items():
    blobs.append(np.ascontiguousarray(value).tobytes())
    header[name] = dict(dtype=dtypes[value.dtype.name], shape=list(value.shape),
                        data_offsets=[begin, begin := begin + len(blobs[-1])])
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  (path / "model.safetensors").write_bytes(
      len(text).to_bytes(8, "little") + text + b"".join(blobs))
  return path


@pytest.mark.parametrize("config, options", [
    (GPTQ, {}), (GPTQ, dict(shuffled=True)), (GPTQ | dict(bits=8), {}),
    (GPTQ | dict(checkpoint_format="gptq_v2", sym=False), {}), (GPTQ | dict(group_size=-1), {}),
    (AWQ, {}), (AWQ | dict(group_size=-1), {}), (FP8, {}), (FP8 | dict(weight_block_size=None), {}),
    (CHANNELS, {})])
def test_every_packing_is_read_as_the_product_in_float64_rounded_once(config, options, tmp_path):
  parts, wanted = (_integers if "bits" in config else _floats)(config, **options)
  _saved(tmp_path, config, {f"a.q.{k}": v for k, v in parts.items()} | {
      "a.q.bias": np.ones(OUT, np.float32)})
  wanted = wanted.astype(np.float32)
  with quantised.open_reader(tmp_path) as reader:
    assert set(reader.names) == {"a.q.weight", "a.q.bias"}
    assert (reader.shape("a.q.weight"), reader.dtype("a.q.weight")) == ((OUT, IN), np.float32)
    whole = (slice(None), slice(None))
    np.testing.assert_array_equal(reader.read("a.q.weight", whole), wanted, strict=True)
    for index in ((slice(3, 13), slice(5, 30)), (slice(0, 24), slice(9, 10)),
                  (slice(4, 4), slice(0, 32))):
      np.testing.assert_array_equal(reader.read("a.q.weight", index), wanted[index], strict=True)
    np.testing.assert_array_equal(reader.read("a.q.bias", (slice(1, 3),)), [1, 1])


def test_matrices_of_more_words_than_are_unpacked_at_a_time_are_read(tmp_path):
  config = GPTQ | dict(group_size=128)
  parts, wanted = _integers(config, (8, 1024))
  _saved(tmp_path, config, {f"q.{k}": v for k, v in parts.items()})
  with quantised.open_reader(tmp_path) as reader:
    np.testing.assert_array_equal(
        reader.read("q.weight", (slice(2, 8), slice(3, 1000))), wanted[2:8, 3:1000])


@pytest.mark.parametrize("config", [FP8, GPTQ], ids=["fp8", "gptq"])
def test_a_quantised_model_is_loaded_and_exported_as_a_plain_one(config, tmp_path):
  plain, stored = hf_dirs.tensors_of(LLAMA), {}
  for name, value in list(plain.items()):
    if not name.endswith("_proj.weight"):
      stored[name] = value
      continue
    parts, wanted = (_integers if "bits" in config else _floats)(config, value.shape)
    stored |= {f"{name.removesuffix('weight')}{k}": v for k, v in parts.items()}
    plain[name] = wanted.astype(np.float32)
  source = _saved(tmp_path / "in", config, stored)
  settings = interop.load_config(LLAMA)
  (source / "config.json").write_text(json.dumps(settings | {"quantization_config": config}))
  (source / "quantize_config.json").write_text("{}")
  shutil.copytree(LLAMA, tmp_path / "plain")
  safetensors_numpy.save_file(plain, tmp_path / "plain" / "model.safetensors")
  assert interop.compute_dtype(source) == "float32"
  interop.save(tmp_path / "out", hf_dirs.loaded(source), hf_dirs.spec_of(source), like=source)
  written = hf_dirs.tensors_of(tmp_path / "out")
  assert written.keys() == plain.keys() and len(plain) > 10
  for name, value in plain.items():
    np.testing.assert_array_equal(written[name], value, err_msg=name)
  assert interop.load_config(tmp_path / "out") == settings
  assert not (tmp_path / "out" / "quantize_config.json").exists()


@pytest.mark.parametrize("config, message", [
    (dict(quant_method="bitsandbytes"), "quant_method is 'bitsandbytes', which is not read; expec"),
    ({}, "quant_method is None, which is not read; expected 'fp8' or 'gptq' or 'awq'"),
    ("fp8", "quantization_config is 'fp8'; expected an object"),
    (FP8 | dict(fmt="e5m2"), "fmt is 'e5m2', which is not read; expected 'e4m3'"),
    (FP8 | dict(weight_block_size=[128]), "weight_block_size is .128., which .* two positive"),
    (FP8 | dict(weight_block_size=[128, 0]), "weight_block_size is 0, which .* positive integer"),
    (GPTQ | dict(bits=3), "bits is 3, which is not read; expected 4 or 8"),
    (GPTQ | dict(checkpoint_format="marlin"), "checkpoint_format is 'marlin', which is not read"),
    (GPTQ | dict(group_size=0), "group_size is 0, which is not read; expected a positive integer"),
    (AWQ | dict(version="gemv"), "version is 'gemv', which is not read; expected 'gemm'"),
    (AWQ | dict(zero_point=False), "zero_point is False, which is not read; expected True"),
    (CHANNELS | dict(format="pack-quantized"), "format is 'pack-quantized', which is not read"),
    (CHANNELS | dict(config_groups=dict(a=dict(weights=dict(num_bits=4)))), "num_bits is 4, which")])
def test_another_quantisation_is_refused_in_one_line(config, message, tmp_path):
  shutil.copytree(LLAMA, tmp_path / "in")
  (tmp_path / "in" / "config.json").write_text(json.dumps(
      interop.load_config(LLAMA) | {"quantization_config": config}))
  with pytest.raises(ValueError, match=message) as error:
    interop.network_fields(tmp_path / "in")
  assert "\n" not in str(error.value) and "config.json" in str(error.value)


def test_parts_that_are_missing_or_do_not_fit_are_named(tmp_path):
  parts, _ = _integers(GPTQ, shuffled=True)
  named = {f"q.{k}": v for k, v in parts.items()}
  for change, message in (
      ({"q.scales": None}, "lacks tensor 'q.scales', which belongs to 'q.qweight'"),
      ({"q.scales": parts["scales"][:, :8]}, "'q.qweight' in .* do not fit quantization_config"),
      ({"q.g_idx": parts["g_idx"][:8]}, "'q.qweight' in .* do not fit quantization_config")):
    tensors = {k: v for k, v in (named | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
      quantised.open_reader(_saved(tmp_path, GPTQ, tensors))
  _saved(tmp_path, GPTQ, named | {"q.g_idx": parts["g_idx"] + 1})
  with quantised.open_reader(tmp_path) as reader, pytest.raises(
      ValueError, match="'q.qweight' in .*: g_idx names group 4 of 4; fetch it again"):
    reader.read("q.weight", (slice(None), slice(None)))
  _saved(tmp_path, FP8, _floats(FP8)[0])
  with safetensors.Reader(tmp_path) as reader, pytest.raises(ValueError, match="stored as F8_E4M3"):
    reader.dtype("weight")
