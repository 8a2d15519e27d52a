"""Layouts: each says all of its rows, sources name theirs, and only equal rows mix."""

import numpy as np
import pytest

from mdx import types
from mdx.data import facts
from mdx.data import layouts
from mdx.data import pack
from mdx.data import pipeline
from mdx.data import source
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.toys import bilingual
from mdx.data.toys import habits as habits_lib
from mdx.data.toys import scene_words

BYTE = tokenizer_lib.build("byte")
MEMORY = dict(name="memory", documents=tuple(f"text {i}" for i in range(30)), holdout_every=5)


def _npz(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.arange(120, dtype=np.float32).reshape(10, 4, 3))
  return dict(name="arrays", path=str(tmp_path / "a.npz"), holdout_every=5)


def _triplets(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"it": ["one", "two", "three"]}\n' * 5)
  return str(tmp_path / "a.jsonl")


def _cases(tmp_path):
  """layout -> (tokenizer, data config whose rows have it)."""
  chat = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  news, grammar = tokenizer_lib.build("news"), tokenizer_lib.build("grammar")
  habits = tokenizer_lib.build(habits_lib.TOKENIZER)
  scenes = tokenizer_lib.build(scene_words.TOKENIZER)
  sudoku = dict(name="sudoku", num_train=20, num_validation=5, num_test=5)
  documents = dict(name="grammar", num_documents=9, num_validation=9, num_paragraphs=2)
  return {
      "text": (BYTE, dict(length=16, source=MEMORY)),
      "answered": (BYTE, dict(length=48, packing="pad", fill="eos_together",
                              source=dict(name="task", task=sudoku))),
      "chat": (chat, dict(length=512, packing="first_fit", too_long="skip",
                          source=dict(name="chat", path="asset:chat.jsonl"))),
      "preferences": (chat, dict(length=96, packing="pad", source=dict(
          name="preferences", path="asset:preferences.jsonl"))),
      "unlearning": (habits, dict(length=4, packing="pad", append_eos=False, source=dict(
          name="habits", num_retain=9, num_validation=9))),
      "parts": (grammar, dict(length=32, packing="pad",
                              source=dict(name="structure", documents=documents))),
      "labelled": (BYTE, dict(length=64, packing="pad", too_long="cut", labels=(),
                              source=dict(name="packaged", task="overlap"))),
      "dated": (news, dict(length=32, packing="crop", source=dict(name="news", num_documents=9))),
      "views": (BYTE, dict(length=16, packing="pad", layout="views", source=MEMORY)),
      "triplets": (BYTE, dict(length=16, packing="pad", source=dict(
          name="jsonl", path=_triplets(tmp_path), field="it", holdout_every=0))),
      "frames": (BYTE, dict(length=4, packing="pad", channels=3, source=_npz(tmp_path))),
      "captioned": (BYTE, dict(length=9, packing="pad", channels=64, num_patches=16, source=dict(
          name="rendered", num_train=9, num_validation=4))),
      "pictured": (scenes, dict(length=9, packing="pad", channels=48, num_patches=16, fill="eos",
                                source=dict(name="scenes", num_train=9, num_validation=4))),
      "sequences": (tokenizer_lib.build(bilingual.TOKENIZER), dict(
          length=12, packing="pad", append_eos=False, source=dict(
              name="bilingual", num_train=9, num_validation=4))),
      "patches": (BYTE, dict(length=6, packing="crop", channels=3, layout="patches",
                             source=_npz(tmp_path))),
      "speech": (BYTE, dict(length=6, packing="crop", channels=3, layout="speech",
                            transcript_length=2, source=_npz(tmp_path))),
  }


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_batches_have_the_fields_that_their_layout_says_and_compile_sees_the_same(name, tmp_path):
  tokenizer, cfg = _cases(tmp_path)[name]
  pipeline.check(cfg, tokenizer)
  batch = next(iter(pipeline.build(cfg, tokenizer, split="train", batch_size=4, seed=0)))
  shapes = pipeline.shapes(cfg, 4)
  assert shapes.pop("example_index") == ((4,), np.int32)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == shapes
  data = facts.Facts(cfg)
  assert data.layout == name and set(data.fields()) == {*batch, "example_index"}
  assert batch["loss_mask"].any() and not batch["loss_mask"][batch["segment_ids"] == 0].any()
  assert name in ("frames", "patches", "speech") or list(pipeline.texts(cfg, "train", 1, tokenizer=tokenizer))


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_rows_that_fill_up_the_last_batch_are_padding_in_every_field(name, tmp_path):
  tokenizer, cfg = _cases(tmp_path)[name]
  layout = layouts.LAYOUTS[name].under(pipeline.read_config(cfg))
  form = pipeline.form(pipeline.read_config(cfg), [layout], tokenizer)
  batch = next(iter(pipeline.build(cfg, tokenizer, split="train", batch_size=1, seed=0)))
  padded = pack.stack_rows([{k: v[0] for k, v in batch.items()}], batch_size=3, form=form)
  for field, value in padded.items():
    np.testing.assert_array_equal(value[:1], batch[field])
    assert (value[1:] == form.fields[field].pad).all() and value.dtype == batch[field].dtype


def test_every_source_names_a_layout_and_every_layout_allows_packings():
  assert {cls.layout for cls in sources.SOURCES.values()} <= set(layouts.LAYOUTS)
  for layout in layouts.LAYOUTS.values():
    assert layout.packings and set(layout.packings) <= set(pack.PACKINGS)
    assert {"loss_mask", "segment_ids"} <= set(layout.fields)
    assert set(layout.takes) <= set(layouts.LAYOUTS)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_other_packings_are_refused_before_anything_is_read(name, tmp_path):
  tokenizer, cfg = _cases(tmp_path)[name]
  wrong = set(pack.PACKINGS) - set(layouts.LAYOUTS[name].packings)
  assert wrong or name == "text"
  for packing in wrong:
    changed = dict(cfg, packing=packing, fill="pad")
    with pytest.raises(ValueError, match=f"need packing=.*, not '{packing}'"):
      pipeline.build(changed, tokenizer, split="train", batch_size=2, seed=0)


def test_only_sources_of_equal_rows_mix(tmp_path):
  cases = _cases(tmp_path)
  part = lambda name: dict(source=cases[name][1]["source"], weight=1.0)
  options = dict(dated={}, parts={}, labelled=dict(labels=()), frames=dict(channels=3))
  for name, fields in options.items():
    cfg = dict(length=32, packing="pad", mixture=[part("text"), part(name)], **fields)
    with pytest.raises(ValueError, match="mix with others whose rows|have no (labels|channels)") as e:
      pipeline.build(cfg, BYTE, split="train", batch_size=2, seed=0)
    assert "\n" not in str(e.value)
  for name in ("answered", "chat"):
    cfg = dict(length=512, packing="pad", too_long="skip", mixture=[part("text"), part(name)])
    batch = next(iter(pipeline.build(cfg, cases["chat"][0], split="train", batch_size=8, seed=0)))
    given = (~batch["loss_mask"] & (batch["segment_ids"] > 0)).any(axis=1)
    assert given.any() and not given.all()  # all of a text is a target


@pytest.mark.parametrize("fields, message", [
    (dict(layout="view"), "data.layout is 'view'; choose from .* Did you mean 'views'"),
    (dict(layout="dated"), "data source memory has records of layout 'text'; use one of dated"),
    (dict(labels=()), "have no labels; use one of labelled"),
    (dict(channels=3), "have no channels; use one of frames, patches")])
def test_keys_that_do_not_fit_the_records_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    pipeline.check(dict(length=16, source=MEMORY, **fields), BYTE)
  assert "\n" not in str(error.value)


def test_a_layout_from_outside_is_one_entry(monkeypatch):
  class Counted(types.Layout):
    """Rows of a text and how long it is."""

    fields = layouts.LAYOUTS["text"].fields | {"size": types.Field("int32", (), -1),
                                               "code": types.Field("float32", ("length", 2), 0.5)}
    packings = ("pad",)

    def row(self, record, cfg, tokenizer):
      tokens = tokenizer.encode(record["text"])
      return {"tokens": tokens, "size": np.int32(len(tokens))}

  class Short(source.Source):
    """Some texts."""

    layout = "counted"

    def records(self, split):
      return ({"text": "abc"}, {"text": "de"})

  monkeypatch.setitem(layouts.LAYOUTS, "counted", Counted())
  monkeypatch.setattr(sources, "build", lambda cfg: Short())
  cfg = dict(length=4, packing="pad", source=dict(name="short"))
  batch, = pipeline.build(cfg, BYTE, split="train", batch_size=3, seed=0, shuffle=False,
                          repeat=False, drop_remainder=False)
  assert batch["size"].tolist() == [3, 2, -1] and (batch["code"] == 0.5).all()
  assert batch["tokens"].tolist()[1:] == [[*b"de", *[BYTE.pad_id] * 2], [BYTE.pad_id] * 4]
