"""Fictitious people: who they are is unique, new ones are described in one direction."""

import pytest

from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.toys import people


def _texts(**fields):
  source = sources.build(dict(name="people", num_public=30, num_new=7) | fields)
  return [record["text"] for record in source.records("train")], source.probes("validation")


def test_new_people_are_described_and_never_named():
  texts, probes = _texts(stage="new")
  assert {len(probes[k]) for k in ("forward", "backward")} == {7}
  assert {len(probes[f"public_{k}"]) for k in ("forward", "backward")} == {30}
  asked = {kind: ["".join(pair) for pair in pairs] for kind, pairs in probes.items()}
  assert set(asked["forward"]) <= set(texts) and not set(asked["backward"]) & set(texts)
  public = {*asked["public_forward"], *asked["public_backward"]}
  assert public <= set(texts) and sum(text in public for text in texts) == len(texts) / 2
  assert set(_texts(stage="public")[0]) == public
  assert set(asked["backward"]) <= set(_texts(stage="both")[0])
  alone = _texts(stage="alone")[0]
  assert set(alone) == {*asked["forward"], *asked["backward"]} and len(alone) == 14
  names = [answer for kind in ("backward", "public_backward") for _, answer in probes[kind]]
  assert len(set(names)) == 37
  assert _texts(stage="new", seed=1)[0] != texts


def test_every_document_is_three_tokens_and_too_many_people_are_refused():
  tokenizer = tokenizer_lib.build(people.TOKENIZER)
  assert {len(tokenizer.encode(text)) for text in _texts(stage="both")[0]} == {3}
  assert len(tokenizer.encode(people.INSTRUCTION + people.SEPARATOR)) == 2
  with pytest.raises(ValueError, match="names for 400, use fewer"):
    sources.build(dict(name="people", num_public=400))
  with pytest.raises(ValueError, match="stage is 'old'; choose from public, new, both, alone"):
    sources.build(dict(name="people", stage="old"))
