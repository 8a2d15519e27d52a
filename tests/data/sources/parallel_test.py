"""Sources and targets in files: both forms, and numbers that differ; rows of them."""

import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib


def _write(path, text):
  path.write_text(text)
  return str(path)


def test_lines_of_two_files_are_the_same_pairs_as_objects_of_one(tmp_path):
  one = _write(tmp_path / "a.jsonl", '{"source": "x", "target": "y z"}\n' * 2 +
               '{"source": "u", "target": "v"}\n')
  left, right = _write(tmp_path / "a.en", "x\nx\nu\n"), _write(tmp_path / "a.de", "y z\ny z\nv\n")
  build = lambda **fields: sources.build(dict(name="parallel", holdout_every=3) | fields)
  for split, number in (("train", 2), ("validation", 1)):
    found = [list(build(**fields).records(split)) for fields in (
        dict(path=one), dict(path=left, target_path=right))]
    assert found[0] == found[1] and len(found[0]) == number
  assert found[0] == [{"source": "u", "target": "v"}]
  assert build(path=left, target_path=right).paths("train") == (left, right)


@pytest.mark.parametrize("fields, message", [
    (dict(path="a", target_path="b"), "a has 2 sources, and .*b 1 targets; give a line of each"),
    (dict(path="c"), "line 1: no field 'target' but source"),
    (dict(path="d"), "line 1: the target must be a text that is not empty, got ''"),
    (dict(path="a", target_path="b", validation_path="c"), "validation_target_path goes with")])
def test_pairs_that_are_none_are_one_line(fields, message, tmp_path):
  for name, text in (("a", "x\ny\n"), ("b", "z\n"), ("c", '{"source": "x"}\n'),
                     ("d", '{"source": "x", "target": ""}\n')):
    _write(tmp_path / name, text)
  with pytest.raises(ValueError, match=message) as error:
    sources.build(dict(name="parallel", holdout_every=0) | {
        k: str(tmp_path / v) for k, v in fields.items()}).records("train")[0]
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("cfg, message", [
    (dict(length=2), "source and target have 3 and 1 tokens, more than data.length 2; use 3"),
    (dict(append_eos=True), "set data.append_eos=False")])
def test_rows_that_do_not_fit_are_one_line(cfg, message, tmp_path):
  path = _write(tmp_path / "a.jsonl", '{"source": "abc", "target": "d"}\n')
  config = dict(length=8, packing="pad", append_eos=False,
                source=dict(name="parallel", path=path, holdout_every=0)) | cfg
  with pytest.raises(ValueError, match=message):
    pipeline.check(config, tokenizer_lib.build("byte"))
