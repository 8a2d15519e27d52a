"""The pipeline: order, sharing among processes, state, mixtures, evaluation, errors."""

import collections
import json

import numpy as np
from orbax.checkpoint import v1 as ocp
import pytest

from mdx import tasks
from mdx.data import pack
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib

import tiny

# 4000 characters, so that every token of a test can be told from every other.
TOKENIZER = tokenizer_lib.build("char", ["".join(chr(0x4E00 + i) for i in range(4000))])
LENGTHS = [5, 16, 1, 9, 3, 12, 7, 7, 2, 15, 4, 4, 11, 1, 8, 6, 13, 10, 14, 3, 7] * 2 + [2]
few_or_many = pytest.mark.parametrize("few", [0, 256], ids=["grain_shuffle", "permutation"])
PACKINGS = ("concat", "first_fit", "pad", "crop")


def _documents(lengths=tuple(LENGTHS), first=0) -> list[list[int]]:
  ends = np.cumsum(lengths) + first
  return [list(range(end - n, end)) for n, end in zip(lengths, ends.tolist())]


def _cfg(documents=None, **fields):
  source = {"name": "memory", "documents": documents or _documents(), "holdout_every": 0}
  if "mixture" not in fields:
    fields["source"] = source
  return {"length": 16, "append_eos": False, **fields}


def _part(documents, weight):
  return {"source": {"name": "memory", "documents": documents, "holdout_every": 0},
          "weight": weight}


def _mixture(**fields):
  return _cfg(mixture=[_part(_documents([3, 8, 5] * 8), 2.0),
                       _part(_documents([7, 2] * 5, first=1000), 1.0)], **fields)


def _mixture_of(parts):
  return _cfg(mixture=[_part(documents, 1.0) for documents in parts], packing="pad")


def _build(cfg, *, split="train", batch_size=4, seed=0, **options):
  return pipeline.build(cfg, TOKENIZER, split=split, batch_size=batch_size, seed=seed, **options)


def _evaluation(cfg, **options):
  return list(_build(cfg, shuffle=False, repeat=False, drop_remainder=False, **options))


def _take(dataset_or_iterator, num):
  iterator = iter(dataset_or_iterator)
  return [next(iterator) for _ in range(num)]


def _tokens(batches) -> list[int]:
  return [t for batch in batches for t in batch["tokens"][batch["loss_mask"]].tolist()]


def _first_tokens(cfg, num, **options) -> list[int]:
  """The documents of one-document rows, told by their first token, in order."""
  rows = _take(_build(cfg, batch_size=1, **options), num)
  return [int(row["tokens"][0, 0]) for row in rows]


def _assert_equal(a, b):
  assert set(a) == set(b) == {"tokens", "segment_ids", "positions", "loss_mask"}
  for k in a:
    np.testing.assert_array_equal(a[k], b[k])


def _same(a, b) -> bool:
  return all((x["tokens"] == y["tokens"]).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_seed_fixes_the_order(packing):
  cfg = _cfg(packing=packing)
  first = _take(_build(cfg, seed=1), 8)
  for other in (_take(_build(cfg, seed=1), 8), _take(_build(dict(cfg, num_threads=0), seed=1), 8)):
    for a, b in zip(first, other, strict=True):
      _assert_equal(a, b)
  for seed in (0, 2):
    assert not _same(first, _take(_build(cfg, seed=seed), 8))


@few_or_many
def test_every_epoch_has_all_documents_in_an_order_of_its_own(few, monkeypatch):
  monkeypatch.setattr(pipeline, "_FEW_DOCUMENTS", few)
  starts, num = [d[0] for d in _documents()], len(LENGTHS)
  orders = {}
  for seed in (0, 1):
    order = _first_tokens(_cfg(packing="pad"), 3 * num, seed=seed)
    for epoch in range(3):
      orders[seed, epoch] = tuple(order[epoch * num:(epoch + 1) * num])
      assert sorted(orders[seed, epoch]) == starts
  assert len(set(orders.values())) == 6 and tuple(starts) not in orders.values()


def test_without_shuffling_documents_come_in_file_order_again_and_again():
  starts = [d[0] for d in _documents()]
  assert _first_tokens(_cfg(packing="pad"), 2 * len(starts), shuffle=False) == starts * 2


def test_training_batches_are_full_and_of_one_shape():
  for batch in _take(_build(_cfg(packing="concat"), batch_size=3), 40):
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "tokens": ((3, 16), np.int32), "segment_ids": ((3, 16), np.int32),
        "positions": ((3, 16), np.int32), "loss_mask": ((3, 16), np.bool_)}
    assert batch["loss_mask"].all()


def _of_processes(cfg, num_batches, process_count, **options):
  """Global batches, put together from the rows of some processes."""
  size = 8 // process_count
  parts = [_take(_build(cfg, batch_size=8, rows=slice(p * size, (p + 1) * size), **options),
                 num_batches) for p in range(process_count)]
  return [{k: np.concatenate([part[i][k] for part in parts]) for k in parts[0][i]}
          for i in range(num_batches)]


@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("packing", tiny.first(PACKINGS, 2))
def test_batches_do_not_depend_on_the_number_of_processes(packing, num_shards):
  cfg = _cfg(packing=packing, num_shards=num_shards)
  whole = _take(_build(cfg, batch_size=8), 12)
  for process_count in (1, 2, 4, 8):
    for got, batch in zip(_of_processes(cfg, 12, process_count), whole, strict=True):
      _assert_equal(got, batch)


@few_or_many
@pytest.mark.parametrize("num_shards", tiny.first([1, 2, 4], 2))
def test_every_epoch_of_every_stream_has_its_share_of_the_documents(num_shards, few, monkeypatch):
  monkeypatch.setattr(pipeline, "_FEW_DOCUMENTS", few)
  num = len(LENGTHS)
  seen = [collections.Counter() for _ in range(3)]
  size = 8 // num_shards
  batches = _of_processes(_cfg(packing="pad", num_shards=num_shards), 3 * num, 4)
  for shard in range(num_shards):
    order = [t for b in batches for t in b["tokens"][shard * size:(shard + 1) * size, 0].tolist()]
    share = len(range(shard, num, num_shards))
    for epoch in range(3):
      seen[epoch].update(order[epoch * share:(epoch + 1) * share])
  assert len(seen) and all(counts == collections.Counter(d[0] for d in _documents()) for counts in seen)


def test_a_process_reads_only_the_streams_of_its_rows(monkeypatch):
  read = set()
  documents = [[i] for i in range(16)]
  original = pipeline.documents_lib.Documents.__getitem__
  monkeypatch.setattr(pipeline.documents_lib.Documents, "__getitem__",
                      lambda self, i: len(self) == 16 and read.add(i) or original(self, i))
  cfg = _cfg(documents, packing="pad", num_shards=4, num_threads=0)
  _take(_build(cfg, batch_size=8, rows=slice(2, 4), shuffle=False), 6)
  assert read == {1, 5, 9, 13}


@pytest.mark.parametrize("num_shards", [1, 4])
def test_the_states_of_some_processes_continue_on_another_number(num_shards):
  cfg = _cfg(num_shards=num_shards)
  whole = _take(_build(cfg, batch_size=8), 8)
  shards = {}
  for p in range(4):
    iterator = iter(_build(cfg, batch_size=8, rows=slice(2 * p, 2 * p + 2)))
    _take(iterator, 5)
    shards |= json.loads(json.dumps(iterator.get_state()))["shards"]
  for rows in (slice(0, 8), slice(4, 8)):
    iterator = iter(_build(cfg, batch_size=8, rows=rows))
    iterator.set_state({"shards": shards})
    for batch in whole[5:]:
      _assert_equal(next(iterator), {k: v[rows] for k, v in batch.items()})


@pytest.mark.parametrize("cfg", [*(_cfg(packing=p) for p in PACKINGS), _mixture(packing="concat")],
                         ids=[*PACKINGS, "mixture"])
def test_evaluation_yields_every_token_once(cfg):
  expected = [t for part in cfg.get("mixture", [cfg]) for d in part["source"]["documents"]
              for t in d]
  batches = _evaluation(cfg)
  for batch in batches:
    assert batch["tokens"].shape == (4, 16)
    is_padding = ~batch["loss_mask"]
    assert (batch["tokens"][is_padding] == TOKENIZER.pad_id).all()
    assert (batch["segment_ids"][is_padding] == 0).all()
  assert len(batches[:-1]) and all(batch["loss_mask"].any(1).all() for batch in batches[:-1])
  assert sorted(_tokens(batches)) == sorted(expected)


def test_evaluation_of_the_packaged_text_is_the_held_out_text():
  tokenizer = tokenizer_lib.build("asset:holmes_bpe512.json")
  cfg = {"length": 64, "append_eos": False,
         "source": {"name": "text", "path": "asset:holmes.txt.xz"}}
  batches = list(pipeline.build(cfg, tokenizer, split="validation", batch_size=64, seed=0,
                                shuffle=False, repeat=False, drop_remainder=False))
  text = "".join(pipeline.texts(cfg, "validation"))
  assert tokenizer.decode(_tokens(batches)) == text
  assert tokenizer.chars_per_token[_tokens(batches)].sum() == len(text)


def test_too_few_documents_for_the_streams_is_an_error():
  with pytest.raises(ValueError, match="3 documents cannot be shared among data.num_shards 4"):
    _build(_cfg(_documents([2, 2, 2]), num_shards=4))


STATE_CASES = [(_cfg, p) for p in PACKINGS] + [(_mixture, "concat"), (_mixture, "first_fit")]
state_cases = pytest.mark.parametrize(
    "make, packing", STATE_CASES, ids=[f"{m.__name__[1:]}-{p}" for m, p in STATE_CASES])


@state_cases
@pytest.mark.parametrize("num_threads", [0, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_a_restored_state_continues_with_the_next_batch(make, packing, num_threads, repeat,
                                                        monkeypatch):
  monkeypatch.setattr(pack, "_OPEN_ROWS", 8)  # so that first_fit begins anew on the way
  dataset = _build(make(packing=packing, num_threads=num_threads, read_buffer=5), batch_size=2,
                   repeat=repeat, drop_remainder=repeat)
  expected = _take(dataset, 20) if repeat else list(dataset)
  iterator, states = iter(dataset), []
  for batch in expected:
    states.append(iterator.get_state())  # as it is, read again only after the iterator went on
    _assert_equal(next(iterator), batch)
  fresh = iter(dataset)
  for i in (0, 1, len(expected) // 2, 2, len(expected) - 1):
    fresh.set_state(json.loads(json.dumps(states[i])) if i != 2 else states[i])
    for batch in expected[i:i + 3]:
      _assert_equal(next(fresh), batch)
  if not repeat:
    fresh.set_state(json.loads(json.dumps(iterator.get_state())))
    assert not list(fresh)


@state_cases
@pytest.mark.parametrize("num_threads", [0, 4])
def test_a_state_saved_by_orbax_continues_with_the_next_batch(make, packing, num_threads,
                                                              tmp_path, monkeypatch):
  monkeypatch.setattr(pack, "_OPEN_ROWS", 8)
  dataset = _build(make(packing=packing, num_threads=num_threads), batch_size=2)
  expected = _take(dataset, 12)
  for i in (0, 5):
    iterator = iter(dataset)
    _take(iterator, i)
    ocp.save_checkpointables(tmp_path / str(i), {"data": iterator})
    fresh = iter(dataset)
    _take(fresh, 2)
    ocp.load_checkpointables(tmp_path / str(i), {"data": fresh})
    for got, batch in zip(_take(fresh, 4), expected[i:], strict=False):
      _assert_equal(got, batch)


def test_a_mixture_follows_its_weights():
  cfg = _cfg(mixture=[_part(_documents([3] * 40), 3.0),
                      _part(_documents([3] * 7, first=1000), 1.0),
                      _part(_documents([3] * 30, first=2000), 1.0)], packing="pad")
  order = np.asarray(_first_tokens(cfg, 500))
  for stop in (100, 500):  # throughout, however many documents a part has
    counts = np.bincount(order[:stop] // 1000, minlength=3)
    np.testing.assert_allclose(counts, stop * np.array([0.6, 0.2, 0.2]), atol=2)


def test_parts_of_a_mixture_are_shuffled_apart():
  documents = _documents([3] * 40)
  cfg = _mixture_of([documents, _documents([3] * 40, first=1000)])
  order = _first_tokens(cfg, 80)
  first, second = ([t % 1000 for t in order if t // 1000 == part] for part in (0, 1))
  assert sorted(first) == sorted(second) and first != second


def test_every_document_ends_with_eos_if_wanted_and_empty_ones_are_left_out():
  documents = ["\u4e00\u4e01", "", "\u4e02", ""]
  for append_eos, expected in ((True, [0, 1, TOKENIZER.eos_id, 2, TOKENIZER.eos_id]),
                               (False, [0, 1, 2])):
    batches = _evaluation(_cfg(documents, append_eos=append_eos))
    assert _tokens(batches) == expected


def test_documents_can_share_one_segment():
  cfg = _cfg(_documents([3, 4, 20]), packing="concat")
  isolated, = _evaluation(cfg, batch_size=2)
  joined, = _evaluation(dict(cfg, isolate_documents=False), batch_size=2)
  assert isolated["segment_ids"][0].tolist() == [1] * 3 + [2] * 4 + [3] * 9
  assert isolated["positions"][0].tolist() == [*range(3), *range(4), *range(9)]
  assert joined["segment_ids"].tolist() == [[1] * 16, [1] * 11 + [0] * 5]
  assert joined["positions"].tolist() == [list(range(16))] * 2
  np.testing.assert_array_equal(joined["tokens"], isolated["tokens"])


def test_tokens_of_texts_in_memory_are_made_once():
  calls = []
  class Counting(type(TOKENIZER.vocab)):
    def encode(self, text):
      calls.append(text)
      return super().encode(text)
  tokenizer = tokenizer_lib.Tokenizer(name="counting", vocab=Counting("abcd"), mask_id=6, pad_id=4,
                                      eos_id=5)
  cfg = _cfg(["ab", "cd", "dd"])
  _take(pipeline.build(cfg, tokenizer, split="train", batch_size=1, seed=0), 20)
  assert sorted(calls) == ["ab", "cd", "dd"]


def _message(call, *args, **kwargs) -> str:
  with pytest.raises(ValueError) as error:
    call(*args, **kwargs)
  message = str(error.value)
  assert "\n" not in message and len(message) < 600
  return message


@pytest.mark.parametrize("num_threads", [0, 4])
@pytest.mark.parametrize("packing", PACKINGS)
def test_ids_outside_the_vocabulary_are_an_error(packing, num_threads):
  cfg = _cfg([[1, 2], [3, TOKENIZER.vocab_size - 1], [4, TOKENIZER.vocab_size]],
             packing=packing, num_threads=num_threads)
  message = _message(lambda: _take(_build(cfg, batch_size=1), 9))
  assert "record 2 of the train split of memory source: token id 4003 is none" in message
  assert "the 4003 ids" in message and "use its tokenizer" in message
  assert _message(pipeline.check, cfg, TOKENIZER) == message


@pytest.mark.parametrize("packing", ["first_fit", "pad"])
def test_a_document_longer_than_the_row_is_an_error(packing):
  assert len(_evaluation(_cfg(_documents([2, 16]), packing=packing), batch_size=1)) == 2
  for fields, length in (({"documents": _documents([2, 17])}, 17),
                         ({"documents": _documents([2, 16]), "append_eos": True}, 17)):
    cfg = _cfg(packing=packing, **fields)
    message = _message(_evaluation, cfg)
    assert f"record 1 of the train split of memory source: {length} tokens, but" in message
    assert f"packing='{packing}'" in message and "'concat' or 'crop'" in message


def test_check_finds_a_bad_record_and_names_file_and_place(tmp_path):
  path = tmp_path / "a.jsonl"
  good, bad = '{"text": "\u4e00"}\n', '{"text": "x"}\n'
  cfg = _cfg()
  cfg["source"] = {"name": "jsonl", "path": str(path), "holdout_every": 0}
  path.write_text(good * 9, encoding="utf-8")
  pipeline.check(cfg, TOKENIZER)
  path.write_text(good * 7 + bad + good, encoding="utf-8")
  message = _message(pipeline.check, cfg, TOKENIZER)
  assert f"record 7 of the train split of jsonl source {path}: character 'x'" in message
  path.write_text('{"text": ""}\n' * 3, encoding="utf-8")
  other = dict(cfg, source=dict(cfg["source"], path=__file__, validation_path=str(path)))
  message = _message(pipeline.check, other, TOKENIZER, split="validation")
  assert f"of the validation split of jsonl source {path} are all empty" in message
  message = _message(pipeline.check, cfg, TOKENIZER)
  assert f"first 3 records of the train split of jsonl source {path} are all empty" in message


def test_check_reads_every_part_of_a_mixture():
  cfg = _cfg(mixture=[_part(_documents([3]), 1.0), _part([[9999]], 1.0)])
  assert "token id 9999" in _message(pipeline.check, cfg, TOKENIZER)


@pytest.mark.parametrize("fields, message", [
    ({"source": None}, "exactly one of source and mixture"),
    ({"mixture": [_part([[1]], 1.0)], "source": {"name": "memory", "documents": [[1]]}},
     "exactly one of source and mixture"),
    ({"mixture": []}, "mixture is empty"),
    ({"mixture": [_part([[1]], 0.0)]}, "positive number"),
    ({"mixture": [{"source": {"name": "memory"}}]}, "\"weight\": positive number"),
    ({"packing": "tight"}, "data.packing is 'tight'; choose from concat, first_fit, pad, crop"),
    ({"length": 0}, "data.length must be at least 1, got 0"),
    ({"num_threads": -1}, "data.num_threads must be at least 0"),
    ({"lenth": 3}, "has no field 'lenth'.*Did you mean 'length'"),
    ({"source": {"name": "memori"}}, "unknown data source name 'memori'"),
], ids=range(10))
def test_a_wrong_config_is_an_error_of_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _build({**_cfg(mixture=fields.get("mixture")), **({"source": None} if "mixture" in fields else
                                                      _cfg()), **fields})
  assert "\n" not in str(error.value)


def test_wrong_arguments_are_errors_of_one_line():
  assert "batch_size must be positive, got 0" in _message(_build, _cfg(), batch_size=0)
  assert "rows 4 to 4 are none of a batch of 4" in _message(_build, _cfg(), rows=slice(4, 8))
  assert "num_shards 3 does not divide batch_size 4" in _message(_build, _cfg(num_shards=3))
  assert "split must be one of train, validation; got 'test'" in _message(
      _build, _cfg(), split="test")


def test_texts_are_the_raw_documents():
  cfg = _cfg(mixture=[_part(["\u4e00\u4e01", "x", "y"], 1.0), _part(["z"], 5.0)])
  assert list(pipeline.texts(cfg, "train")) == ["\u4e00\u4e01", "x", "y", "z"]
  assert list(pipeline.texts(cfg, "train", 2)) == ["\u4e00\u4e01", "x", "z"]
  tokens = _cfg([[0, 1]])
  assert list(pipeline.texts(tokens, "train", tokenizer=TOKENIZER)) == ["\u4e00\u4e01"]
  assert "give text, or the tokenizer" in _message(lambda: list(pipeline.texts(tokens, "train")))


@pytest.mark.slow
def test_worker_processes_deliver_every_token_once_and_resume():
  dataset = _build(_cfg(num_workers=2), batch_size=2, repeat=False, drop_remainder=False)
  iterator = iter(dataset)
  first = _take(iterator, 3)
  state = json.loads(json.dumps(iterator.get_state()))
  rest = list(iterator)
  assert sorted(_tokens(first + rest)) == list(range(sum(LENGTHS)))
  fresh = iter(dataset)
  fresh.set_state(state)
  for got, batch in zip(fresh, rest, strict=True):
    _assert_equal(got, batch)


def _pairs_cfg(**fields):
  task = {"name": "sudoku", "num_train": 40, "num_validation": 5, "num_test": 5}
  return {"length": 36, "packing": "pad", "append_eos": False,
          "source": {"name": "task", "task": task}, **fields}


SYMBOLS = tokenizer_lib.build("symbols:. 1 2 3 4 =")


@pytest.mark.parametrize("fill", ["pad", "eos"])
def test_a_prompt_is_visible_and_only_its_answer_is_a_target(fill):
  cfg = _pairs_cfg(fill=fill)
  batch = next(iter(pipeline.build(cfg, SYMBOLS, split="train", batch_size=4, seed=0)))
  filled = fill == "eos"
  mask = np.zeros((4, 36), bool)
  mask[:, 17:36 if filled else 33] = True
  np.testing.assert_array_equal(batch["loss_mask"], mask)
  np.testing.assert_array_equal(batch["segment_ids"], (np.arange(36) < (36 if filled else 33))[None]
                                * np.ones((4, 1)))
  assert np.all(batch["tokens"][:, 33:] == (SYMBOLS.eos_id if filled else SYMBOLS.pad_id))
  for row in batch["tokens"]:
    text = SYMBOLS.decode(row[:33])
    prompt, answer = text[:17], text[17:]
    assert prompt[16] == "=" and set(answer) == set("1234")
    assert len(answer) and all(p in (".", a) for p, a in zip(prompt, answer))


def test_pairs_that_do_not_fit_are_named():
  for changes, message in (({"length": 32}, "have 33 tokens, more than length 32"),
                           ({"packing": "concat"}, "need packing='first_fit' or 'pad'"),
                           ({"fill": "mask"}, "choose from pad, eos")):
    with pytest.raises(ValueError, match=message):
      pipeline.check(_pairs_cfg(**changes), SYMBOLS)


def test_of_a_text_with_blanks_only_what_fills_them_is_a_target():
  cfg = _pairs_cfg(length=16)
  cfg["source"]["task"]["in_place"] = True
  batch = next(iter(pipeline.build(cfg, SYMBOLS, split="train", batch_size=4, seed=0)))
  answers = [SYMBOLS.decode(row) for row in batch["tokens"]]
  pairs = {answer: prompt for prompt, answer in
           tasks.build(cfg["source"]["task"]).training_pairs("train")}
  for answer, mask in zip(answers, batch["loss_mask"]):
    prompt = pairs[answer]
    np.testing.assert_array_equal(mask, [c == "." for c in prompt])
    assert 12 <= mask.sum() <= 14


def _jsonl(path, documents):
  path.write_text("".join(json.dumps({"text": x}) + "\n" for x in documents))
  return {"name": "jsonl", "path": str(path), "holdout_every": 0}


@pytest.mark.parametrize("packing", PACKINGS)
def test_bad_records_are_skipped_and_counted_where_the_config_says_so(tmp_path, packing):
  good = _documents([5, 9, 3, 7])
  bad = [None, 5, {"a": 1}, [99999], "not of the alphabet", [1, None]]
  mixed = _jsonl(tmp_path / "mixed.jsonl", [bad[0], *good[:2], *bad[1:4], *good[2:], *bad[4:]])
  cfg = {"length": 16, "append_eos": False, "packing": packing, "source": mixed, "num_threads": 0}
  with pytest.raises(ValueError, match="mixed.jsonl, line 1: expected text"):
    pipeline.check(cfg, TOKENIZER)
  cfg["on_error"] = "skip"
  with pytest.warns(UserWarning, match="4 bad record.s. skipped until now"):
    pipeline.check(cfg, TOKENIZER)
  with pytest.warns(UserWarning, match="1 bad record.s. .*mixed.jsonl, line 1: expected text or"):
    found = _evaluation(cfg)
  clean = {**cfg, "source": _jsonl(tmp_path / "clean.jsonl", good), "on_error": "stop"}
  expected = _evaluation(clean)
  assert len(found) == len(expected) > 0
  for a, b in zip(found, expected):
    assert all((a[k] == b[k]).all() for k in b)
  assert len(list(pipeline.texts(cfg, "train", tokenizer=TOKENIZER))) == 5  # the odd one is a text


def test_records_in_the_config_are_skipped_too_and_labelled_ones_never():
  cfg = _cfg([[1, 2], None, [3]], on_error="skip", packing="pad")
  with pytest.warns(UserWarning, match="1 bad record"):
    assert len(_evaluation(cfg, batch_size=1)) == 2
  with pytest.raises(ValueError, match="memory source, document 1: expected text"):
    _evaluation(cfg | {"on_error": "stop"})
  with pytest.raises(ValueError, match="on_error"):
    pipeline.read_config(cfg | {"on_error": "maybe"})
  labelled = {"length": 8, "packing": "pad", "on_error": "skip", "labels": ("a",),
              "source": {"name": "packaged", "task": "intent"}}
  with pytest.raises(ValueError, match="each labelled record must have a row; set data.on_error"):
    pipeline.read_config(labelled).parts()


def test_after_a_bad_record_the_state_is_that_before_its_batch(tmp_path):
  documents = _documents([4] * 40)
  cfg = {"length": 4, "append_eos": False, "packing": "pad", "num_threads": 0,
         "source": _jsonl(tmp_path / "a.jsonl", documents) | {"is_checked": False}}
  expected = _take(_build(cfg), 8)
  text = (tmp_path / "a.jsonl").read_text()
  lost = expected[5]["tokens"][0].tolist()
  (tmp_path / "a.jsonl").write_text(text.replace(json.dumps(lost), "null" + " " * (
      len(json.dumps(lost)) - 4)))
  batches = iter(_build(cfg))
  for i in range(5):
    assert (next(batches)["tokens"] == expected[i]["tokens"]).all()
  with pytest.raises(ValueError, match="a.jsonl, line .*expected text"):
    next(batches)
  state = json.loads(json.dumps(batches.get_state()))
  (tmp_path / "a.jsonl").write_text(text)
  batches = iter(_build(cfg))
  batches.set_state(state)
  for i in range(5, 8):
    assert (next(batches)["tokens"] == expected[i]["tokens"]).all()
