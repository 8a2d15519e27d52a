"""The pipeline: sources -> token ids -> packed rows -> batches of numpy arrays.

Contents: build, form, lengths, shapes, check, texts, labelled_records, read_config, Config (the
keys of a data config).

Convention: a batch has the fields of its layout (`mdx.data.layouts`): loss_mask bool, segment_ids
and positions int32 [rows, length] with tokens, or what stands in their stead. A global batch is cut
from `num_shards` streams, which share the documents, and a process reads the streams that its rows
come from: batches depend on the seed, num_shards and num_workers, and not on the number of
processes. State is saved and restored with the iterator's get_state and set_state; it is that of
each stream, {"shards": {number: state}}, so processes of any number find theirs among those of
others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.data import layouts as layouts_lib
from mdx.data import buckets as buckets_lib
from mdx.data import pack
from mdx.data import source as source_lib
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import text as text_lib
from mdx.data.sources import documents as documents_lib

SPLITS, LABELLED_SPLITS = source_lib.SPLITS, source_lib.LABELLED_SPLITS
_FEW_DOCUMENTS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The keys of a data config.

  Attributes:
    length: tokens a row.
    source: {"name": ..., **fields} of one data source; or
    mixture: several {"source": {...}, "weight": ...}; documents are drawn in
      proportion to the weights. Without repetition (evaluation) the weights have no
      meaning and the sources are read one after another, so that nothing is left out.
    layout: form of the rows, of `mdx.data.layouts`; "" = the source's. "views" makes two views of
      texts, "patches" patches of arrays.
    channels: values of a frame or a patch, of sources of arrays and images.
    transcript_length: most tokens of a recording's transcript; 0 = rows have none.
    num_patches: patches of an image that stands beside a text, of layout "captioned".
    packing: concat, first_fit, pad or crop; see `mdx.data.pack`. Records with answers
      (conversations, prompts) need whole documents: first_fit or pad.
    fill: what follows an answer at the end of a record, see `mdx.data.layouts.text`: "pad",
      "eos", "eos_together" or "eos_multiple".
    fill_multiple: of "eos_multiple", in tokens (the block length).
    too_long: what becomes of a record with answers that has more than `length` tokens:
      "error", or "skip". Of labelled records, whose number stays: "error" or "cut".
    on_error: what becomes of a record that cannot be read or does not fit: "stop" ends the run
      (after saving it), "skip" passes over the record, with a warning that counts them. Labelled
      records, whose number stays, are never skipped.
    labels: None, or the labels of labelled records (see `sources.labelled`), of which a row
      has the numbers; () = they are scores, numbers themselves.
    separators: end tokens between two texts of a labelled record (2 in RoBERTa).
    buckets: rising lengths that a batch of rows of one record is cut to, the shortest that holds
      its longest row, so that short rows cost what they have; () = all rows have `length`.
    bucket_window: batches whose rows are sorted by length and dealt out again, in training; 0
      leaves the order. Part of the run's identity.
    append_eos: whether every document ends with eos_id.
    isolate_documents: whether documents of a row are separate segments with positions
      of their own; otherwise the row is one segment.
    num_shards: streams of documents that a batch is cut from; part of the run's identity. With
      1, every process reads (and tokenizes) all documents; with a multiple of the number of
      processes, each reads its share.
    num_workers: processes that prepare batches; 0 prepares them in this one. Part of
      the run's identity: it changes the order of batches and the iterator's state.
    num_threads: threads that read and tokenize; 0 reads when a batch is asked for.
    read_buffer: documents read ahead by the threads.
  """

  length: int
  source: Mapping[str, Any] | None = None
  mixture: Sequence[Mapping[str, Any]] | None = None
  layout: str = ""
  channels: int = 0
  transcript_length: int = 0
  num_patches: int = 0
  packing: str = "concat"
  fill: str = "pad"
  fill_multiple: int = 32
  too_long: str = "error"
  on_error: str = "stop"
  labels: Sequence[str] | None = None
  separators: int = 1
  buckets: tuple[int, ...] = ()
  bucket_window: int = 0
  append_eos: bool = True
  isolate_documents: bool = True
  num_shards: int = 1
  num_workers: int = 0
  num_threads: int = 4
  read_buffer: int = 64

  def __post_init__(self):
    if (self.source is None) == (self.mixture is None):
      raise ValueError("data config: give exactly one of source and mixture.")
    config_lib.check(
        self, "data", choices=dict(packing=pack.PACKINGS, fill=text_lib.FILLS,
                                   too_long=text_lib.TOO_LONG, on_error=documents_lib.ON_ERROR)
        | ({"layout": layouts_lib.LAYOUTS} if self.layout else {}),
        at_least=dict(length=1, fill_multiple=1, num_shards=1, separators=1, num_workers=0,
                      num_threads=0, read_buffer=0, channels=0, bucket_window=0,
                      transcript_length=0, num_patches=0))
    buckets_lib.check(self.buckets, self.bucket_window, self.packing, self.num_shards)
    if self.fill in text_lib.FILLS_ROW and self.packing != "pad":
      raise ValueError(f"data config: fill {self.fill!r} goes up to the row's end, so a row has "
                       f"one record; set packing='pad', not {self.packing!r}, or another fill.")
    if self.mixture is not None and not self.mixture:
      raise ValueError("data config: the mixture is empty; give at least one part.")
    for part in self.mixture or ():
      if set(part) != {"source", "weight"} or not part["weight"] > 0:
        raise ValueError("data config: a part of a mixture is {\"source\": {...}, \"weight\": "
                         f"positive number}}, got {dict(part)!r:.120}.")

  def source_configs(self) -> list[Mapping[str, Any]]:
    """The configs of its sources."""
    return [self.source] if self.source is not None else [p["source"] for p in self.mixture]

  def parts(self) -> list[tuple[source_lib.Source, types.Layout, float]]:
    """Builds (source, layout of its rows, weight); ValueError for a layout that does not fit."""
    weights = [1.0] if self.source is not None else [float(p["weight"]) for p in self.mixture]
    built = [sources.build(fields) for fields in self.source_configs()]
    if self.on_error == "skip":
      built = [source.unchecked() for source in built]
    return [(source, self.layout_of(source.layout, source.title), weight)
            for source, weight in zip(built, weights)]

  def layout_of(self, name: str, title: str) -> types.Layout:
    """The layout of the rows of a source whose own layout has this name."""
    layout, where = layouts_lib.LAYOUTS[self.layout or name], f"data source {title}"
    if self.layout and name not in (self.layout, *layout.takes):
      raise ValueError(f"data.layout is {self.layout!r}, but {where} has records of layout "
                       f"{name!r}; use one of {', '.join((self.layout, *layout.takes))}.")
    for field in dataclasses.fields(self):
      if (field.name in _OWN_KEYS and field.name not in layout.reads
          and getattr(self, field.name) != field.default):
        fitting = [k for k, v in layouts_lib.LAYOUTS.items() if field.name in v.reads]
        raise ValueError(f"{where} has rows of layout {self.layout or name!r}, which have no "
                         f"{field.name}; use one of {', '.join(fitting)}.")
    try:
      layout = layout.under(self)
    except ValueError as e:
      raise ValueError(f"{where}: {e}") from None
    if self.packing not in layout.packings:
      raise ValueError(f"{where}: rows of layout {self.layout or name!r} need packing="
                       f"{' or '.join(map(repr, layout.packings))}, not {self.packing!r}.")
    return layout


_OWN_KEYS = {key for layout in layouts_lib.LAYOUTS.values() for key in layout.reads}


def form(cfg: Config, layouts: Sequence[types.Layout],
         tokenizer: tokenizer_lib.Tokenizer | None = None) -> pack.Form:
  """The form of the rows of layouts, which must have equal fields.

  Args:
    cfg: of the data.
    layouts: of its sources.
    tokenizer: has the ids of padding; None leaves them open.

  Raises:
    ValueError: sources that do not mix.
  """
  fields = layouts[0].fields
  if other := next((x for x in layouts if x.fields != fields), None):
    raise ValueError("data config: sources mix with others whose rows have the same fields only; "
                     f"got {', '.join(fields)} and {', '.join(other.fields)}.")
  size = lambda n: getattr(cfg, n) if isinstance(n, str) and n != "length" else n
  pad = lambda value: getattr(tokenizer, value) if tokenizer and isinstance(value, str) else value
  return pack.Form(
      fields={name: field._replace(shape=tuple(map(size, field.shape)), pad=pad(field.pad))
              for name, field in fields.items()},
      marks=tuple(dict.fromkeys(mark for layout in layouts for mark in layout.marks)),
      length=cfg.length, isolate_documents=cfg.isolate_documents)


def batches_of(cfg: Mapping[str, Any], records: Sequence[Mapping[str, Any]],
               tokenizer: tokenizer_lib.Tokenizer, *, batch_size: int) -> Iterator[pack.Row]:
  """Yields batches of records that no source has, as `build` makes them: in order, one a row.

  Args:
    cfg: mapping with the fields of `Config`, of rows that hold one record each; its source, which
      is not opened, says the layout.
    records: as that layout reads them.
    tokenizer: makes ids of text.
    batch_size: rows of a batch; the last one is filled with rows of padding.

  Raises:
    ValueError: a record that does not fit, by its number.
  """
  cfg = read_config(cfg)
  name = cfg.source_configs()[0]["name"]
  layout = cfg.layout_of(sources.SOURCES[name].layout, name)
  shape = form(cfg, [layout], tokenizer)
  for first in range(0, len(records), batch_size):
    rows = []
    for i, record in enumerate(records[first:first + batch_size], first):
      try:
        document = shape.complete(layout.row(record, cfg, tokenizer))
      except ValueError as error:
        raise ValueError(f"{record.get('where') or f'text {i}'}: {error}") from None
      rows.append(pack.finish_row(pack.row_of(document, shape), shape))
    batch = pack.stack_rows(rows, batch_size=batch_size, form=shape)
    yield buckets_lib.cut(batch, shape, cfg.buckets) if cfg.buckets else batch


def labelled_records(cfg: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
  """The records of a labelled data config, in the order of `build` without shuffling."""
  return [record for source, *_ in read_config(cfg).parts() for record in source.records(split)]


def read_config(cfg: Mapping[str, Any]) -> Config:
  """Builds `Config` from a mapping with its fields; ValueError."""
  return config_lib.build({"data": Config}, {"name": "data", **config_lib.to_dict(cfg)},
                          what="config")


def build(cfg: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer, *, split: str,
          batch_size: int, seed: int, rows: slice | None = None, shuffle: bool = True,
          repeat: bool = True, drop_remainder: bool = True) -> grain.IterDataset:
  """Builds batches, or a process's rows of them.

  Args:
    cfg: mapping with the fields of `Config`.
    tokenizer: makes ids of text; bounds the ids of records that are tokens already.
    split: "train" or "validation", or "test" of labelled records.
    batch_size: rows of a global batch.
    seed: of the order; each epoch has its own order.
    rows: those of every global batch that are wanted; None = all.
    shuffle, repeat, drop_remainder: True, True, True for training. With all three False
      every token comes once, and the last batch is filled with rows of padding; that needs
      num_shards=1, for streams differ in length.

  Raises:
    ValueError: a wrong config, a missing file or an empty split or stream, here; a bad
      record when it is read.
  """
  cfg = read_config(cfg)
  if batch_size < 1:
    raise ValueError(f"batch_size must be positive, got {batch_size}.")
  if not repeat:
    cfg = dataclasses.replace(cfg, num_shards=1)
  if batch_size % cfg.num_shards:
    raise ValueError(f"data.num_shards {cfg.num_shards} does not divide batch_size {batch_size}; "
                     "use a divisor.")
  begin, end, _ = (rows or slice(None)).indices(batch_size)
  if begin >= end:
    raise ValueError(f"rows {begin} to {end} are none of a batch of {batch_size}.")
  size = batch_size // cfg.num_shards
  shards = {i: _shard(cfg, tokenizer, split, size, seed, i, shuffle, repeat, drop_remainder)
            for i in range(begin // size, -(-end // size))}
  first = min(shards) * size
  cut = lambda batch: batch
  if cfg.buckets:
    shape = form(cfg, [layout for _, layout, _ in cfg.parts()], tokenizer)
    cut = functools.partial(buckets_lib.cut, form=shape, buckets=cfg.buckets)
  return _Shards(shards, slice(begin - first, end - first), cut)


class _Shards(grain.IterDataset):
  """Some rows of the batches of neighbouring streams, put together."""

  def __init__(self, shards: Mapping[int, grain.IterDataset], rows: slice,
               cut: Callable[[pack.Row], pack.Row]):
    super().__init__(list(shards.values()))
    self._shards, self._rows, self._cut = shards, rows, cut

  def __iter__(self):
    return _ShardsIterator({i: iter(shard) for i, shard in self._shards.items()}, self._rows,
                           self._cut)


class _ShardsIterator(grain.DatasetIterator):

  def __init__(self, shards, rows, cut):
    super().__init__(list(shards.values()))
    self._shards, self._rows, self._cut, self._stopped_at = shards, rows, cut, None

  def __next__(self):
    before, self._stopped_at = self.get_state(), None
    try:
      batches = [next(shard) for shard in self._shards.values()]
    except ValueError:
      self._stopped_at = before  # what the streams have read ahead has no batch
      raise
    join = (lambda x: x[0]) if len(batches) == 1 else np.concatenate
    batch = self._cut({k: join([b[k] for b in batches]) for k in batches[0]})
    return {k: x[self._rows] for k, x in batch.items()}

  def get_state(self):
    """Where the next batch begins; after a bad record, where the batch begins that has it."""
    if self._stopped_at is not None:
      return self._stopped_at
    return {"shards": {str(i): shard.get_state() for i, shard in self._shards.items()}}

  def set_state(self, state: dict[str, Any]):
    self._stopped_at = None
    for i, shard in self._shards.items():
      shard.set_state(state["shards"][str(i)])


def _shard(cfg: Config, tokenizer: tokenizer_lib.Tokenizer, split: str, batch_size: int, seed: int,
           number: int, shuffle: bool, repeat: bool, drop_remainder: bool) -> grain.IterDataset:
  """The batches of one stream."""
  parts = cfg.parts()
  order_seed, bins_seed, *part_seeds = _seeds(seed, 2 + len(parts))
  share = slice(number, None, cfg.num_shards)
  shape = form(cfg, [layout for _, layout, _ in parts], tokenizer)
  documents = [grain.MapDataset.source(
      documents_lib.Documents(cfg, source, split, tokenizer, layout, shape))
               for source, layout, _ in parts]
  if repeat:
    for i, document_set in enumerate(documents):
      if shuffle:
        document_set = _shuffle(document_set, part_seeds[i])
      documents[i] = _not_empty(document_set[share], len(document_set), cfg.num_shards).repeat()
      if parts[i][0].augments:  # an index of an endless set has its epoch in it
        documents[i] = documents[i].random_map(
            functools.partial(_augmented, source=parts[i][0]), seed=part_seeds[i] + number)
    documents = grain.MapDataset.mix(documents, [weight for *_, weight in parts])
  else:
    documents = grain.MapDataset.concatenate(documents)
    if shuffle:
      documents = _shuffle(documents, order_seed)
    documents = _not_empty(documents[share], len(documents), cfg.num_shards)
  read_options = grain.ReadOptions(
      num_threads=cfg.num_threads, prefetch_buffer_size=cfg.read_buffer)
  rows = pack.PACKINGS[cfg.packing](documents, shape, read_options, bins_seed if shuffle else None)
  rows = rows.map(functools.partial(pack.finish_row, form=shape))
  if repeat and cfg.bucket_window:
    batches = buckets_lib.SortedWindows(
        rows, form=shape, batch_size=batch_size, window=cfg.bucket_window,
        drop_remainder=drop_remainder, seed=order_seed if shuffle else None)
  else:
    batches = rows.batch(batch_size, drop_remainder=drop_remainder, batch_fn=functools.partial(
        pack.stack_rows, batch_size=batch_size, form=shape))
  if cfg.num_workers:
    batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=cfg.num_workers))
  return batches


def _seeds(seed: int, count: int) -> list[int]:
  """Independent seeds; grain's shuffle adds the epoch, so seed 0 and seed 1 must be far apart."""
  return [int(s) for s in np.random.SeedSequence(seed).generate_state(count)]


class _ShuffledFew(grain.MapDataset):
  """Each epoch in an order of its own, from a permutation of all documents.

  grain's shuffle walks through 2^16 indices to find one of n, which takes milliseconds a
  document where n is small (grain 0.2.18).
  """

  def __init__(self, parent: grain.MapDataset, seed: int):
    super().__init__(parent)
    self._seed = seed

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    epoch, i = divmod(index, len(self))
    return self._parent[epoch * len(self) + _permutation(self._seed, epoch, len(self))[i]]


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, num: int) -> list[int]:
  return np.random.default_rng([seed, epoch]).permutation(num).tolist()


def _shuffle(documents: grain.MapDataset, seed: int) -> grain.MapDataset:
  if len(documents) <= _FEW_DOCUMENTS:
    return _ShuffledFew(documents, seed)
  return documents.shuffle(seed=seed)


def _augmented(document: pack.Row | None, draw: np.random.Generator, source: source_lib.Source
               ) -> Any:
  return document if document is None else source.augmented(document, draw)


def _not_empty(share: grain.MapDataset, num_documents: int, num_shards: int):
  if not len(share):
    raise ValueError(f"{num_documents} documents cannot be shared among data.num_shards "
                     f"{num_shards} streams; give more documents (a smaller document_chars for "
                     "text).")
  return share


def lengths(cfg: Mapping[str, Any]) -> tuple[int, ...]:
  """Lengths that the rows of a batch may have."""
  cfg = read_config(cfg)
  return *(n for n in cfg.buckets if n < cfg.length), cfg.length


def shapes(cfg: Mapping[str, Any], batch_size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Shape and dtype of the fields of a global batch as a step gets it; reads no records."""
  cfg = read_config(cfg)
  shape = form(cfg, [cfg.layout_of(sources.layout_of(x), x["name"]) for x in cfg.source_configs()])
  return {name: ((batch_size, *shape.shape(name)), np.dtype(field.dtype))
          for name, field in shape.fields.items()} | {
              "example_index": ((batch_size,), np.dtype(np.int32))}


def check(cfg: Mapping[str, Any], tokenizer: tokenizer_lib.Tokenizer, *,
          split: str = "train") -> None:
  """Reads up to 1000 records of each source, to find a bad one before training.

  Raises:
    ValueError: as `build` and its iterator, or if no record has any token.
  """
  cfg = read_config(cfg)
  parts = cfg.parts()
  shape = form(cfg, [layout for _, layout, _ in parts], tokenizer)
  for source, layout, _ in parts:
    documents_lib.Documents(cfg, source, split, tokenizer, layout, shape).check()


def fingerprint(cfg: Mapping[str, Any], splits: Sequence[str] = SPLITS) -> list[Any]:
  """Number of records of each source and split, and the first, a middle and the last of them."""
  found = []
  for source, _, _ in read_config(cfg).parts():
    for split in splits:
      records = source.records(split)
      found.append([len(records), *(repr(records[i]) for i in {0, len(records) // 2,
                                                               len(records) - 1})])
  return found


def texts(cfg: Mapping[str, Any], split: str, limit: int | None = None, *,
          tokenizer: tokenizer_lib.Tokenizer | None = None) -> Iterator[str]:
  """Yields the raw documents of each source in turn, for baselines and tokenizers.

  Args:
    cfg: mapping with the fields of `Config`.
    split: "train" or "validation".
    limit: number of documents of each source; None for all.
    tokenizer: decodes the records that are token ids.

  Raises:
    ValueError: records are token ids and there is no tokenizer.
  """
  cfg = read_config(cfg)
  for source, layout, _ in cfg.parts():
    records = source.records(split)
    for i in range(len(records) if limit is None else min(limit, len(records))):
      try:
        found = layout.texts(records[i], tokenizer)
      except ValueError:
        if cfg.on_error == "stop" or tokenizer is None:
          raise
        continue
      yield from found
