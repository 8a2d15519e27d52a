r"""Commands that make a tokenizer, array_record files, clusters or n-grams of ids from texts, the
persons of every month, arrays of recordings, and questions of masked paragraphs.

Contents: train_bpe, write_records, write_arrays, main.

  python -m mdx.data.prepare tokenizer --input='texts/*.txt' --output=tokenizer.json
  python -m mdx.data.prepare records --input='texts/*.jsonl' --output=texts.array_record
  python -m mdx.data.prepare clusters --input='texts/*.txt' --tokenizer=tokenizer.json \
    --output=clusters.json
  python -m mdx.data.prepare lexicon --input='texts/*.txt' --tokenizer=tokenizer.json \
    --output=ngrams.json --num_bigrams=20000 --num_trigrams=10000
  python -m mdx.data.prepare persons --input='news/*.jsonl' --names=names.txt \
    --tokenizer=tokenizer.json --first_date=1987-01-01 --last_date=2007-06-19 --output=persons.json
  python -m mdx.data.prepare speech --input=recordings --labels=name --num_mels=40 \
    --output=recordings.npz
  python -m mdx.data.prepare frame_clusters --input=recordings.npz --num_clusters=100 \
    --output=centres.npy
  python -m mdx.data.prepare ramp --input='wiki/*.jsonl' --names=names.txt --output=ramp.jsonl

Convention: `--input` is a file, a glob or a folder of .txt files; .jsonl files have one object a
line, others are text. Documents with a date may be .jsonl, .tsv or .csv.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mdx.data import codecs
from mdx.data import layouts
from mdx.data import source as source_lib
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.prepared import clusters
from mdx.data.prepared import frame_clusters
from mdx.data.prepared import ngrams
from mdx.data.prepared import persons
from mdx.data.prepared import ramp
from mdx.data.prepared import tagger
from mdx.data.sources import arrays
from mdx.data.sources import dated
from mdx.data.sources import records as records_lib
from mdx.data.sources import speech as speech_lib
from mdx.data.sources import text as text_lib
from mdx.utils import files
from mdx.utils import readers


def train_bpe(texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()):
  """Trains a byte-level BPE; returns tokenizers.Tokenizer.

  Args:
    texts: what its merges are learned from.
    vocab_size: ids in all.
    special: names of further special tokens; they follow [PAD] 0, [EOS] 1, [MASK] 2.
  """
  import tokenizers
  specials = list(codecs.SPECIALS) + list(special)
  if len(set(specials)) < len(specials) or not all(specials):
    raise ValueError(f"special tokens must be distinct and not empty, got {', '.join(specials)}.")
  if vocab_size < (smallest := 256 + len(specials)):
    raise ValueError(f"vocab_size must be at least {smallest} (256 bytes and the specials), "
                     f"got {vocab_size}.")
  byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend = tokenizers.Tokenizer(tokenizers.models.BPE())
  backend.pre_tokenizer, backend.decoder = byte_level, tokenizers.decoders.ByteLevel()
  backend.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
      vocab_size=vocab_size, special_tokens=specials, show_progress=False,
      initial_alphabet=byte_level.alphabet()))
  return backend


def _source(args: argparse.Namespace) -> source_lib.Source:
  """The source that reads the input files."""
  paths = source_lib.find(args.input, text_lib.files_of)
  kinds = [path for path in paths if path.endswith(".jsonl")]
  if kinds and len(kinds) < len(paths):
    raise ValueError(f"{kinds[0]} is jsonl and other files are text; run once for each kind.")
  if kinds:
    return records_lib.Jsonl(path=paths, holdout_every=args.holdout_every, field=args.field)
  return text_lib.Text(path=paths, holdout_every=args.holdout_every,
                       document_chars=args.document_chars)


def _texts(args: argparse.Namespace) -> Iterator[str]:
  """The texts of the training records, in order."""
  source = _source(args)
  layout = layouts.LAYOUTS[source.layout]
  for record in source.records("train"):
    yield from layout.texts(record, targets=False)


def write_records(records: Iterable[dict[str, Any]], path: str, field: str) -> int:
  """Writes records as array_record, one JSON object {field: text or ids} each; their number."""
  from array_record.python import array_record_module
  temporary, count = f"{path}.tmp", 0
  # One record a group: random access then reads no more than it needs.
  writer = array_record_module.ArrayRecordWriter(temporary, "group_size:1")
  try:
    for record in records:
      writer.write(json.dumps({field: readers.raw(record)}, ensure_ascii=False).encode("utf-8"))
      count += 1
    writer.close()
    if not count:
      raise ValueError("there is no record in the input.")
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      if writer.is_open():
        writer.close()
      os.remove(temporary)
  return count


def _tokenizer(args: argparse.Namespace) -> str:
  backend = train_bpe(_texts(args), args.vocab_size, args.special)
  with open(args.output, "w", encoding="utf-8") as f:
    f.write(backend.to_str(pretty=True))
  if backend.get_vocab_size() < args.vocab_size:
    print(f"warning: the text allows only {backend.get_vocab_size()} ids.")
  return f"{tokenizer_lib.build(args.output).vocab_size} ids"


def _array_record(args: argparse.Namespace) -> str:
  source = _source(args)
  if source.layout != "text":
    raise ValueError(f"records of layout {source.layout!r} are not written as array_record, which "
                     "has texts; jsonl has random access too.")
  records = source.records("train")
  if args.tokenizer:
    tokenizer = tokenizer_lib.build(args.tokenizer)
    records = ({"tokens": tokenizer.encode(text)} for text in _texts(args))
  field = "tokens" if args.tokenizer else args.field
  count = write_records(records, args.output, field)
  return (f"{count} records; read them with --config.data.source.name=array_record "
          f"--config.data.source.path={args.output} --config.data.source.field={field}")


def _clusters(args: argparse.Namespace) -> str:
  tokenizer = tokenizer_lib.build(args.tokenizer)
  texts = (np.asarray(tokenizer.encode(text), np.int32) for text in _texts(args))
  of_token, occurs = clusters.cluster(texts, tokenizer.vocab_size, args.num_clusters)
  excluded = sorted({int(i) for i in (*tokenizer.special_ids, tokenizer.mask_id,
                                      *np.flatnonzero(~occurs))})
  with open(args.output, "w", encoding="utf-8") as f:
    json.dump({"of_token": of_token.tolist(), "excluded": excluded}, f)
    f.write("\n")
  return f"{len(of_token)} ids in {args.num_clusters} clusters"


def _lexicon(args: argparse.Namespace) -> str:
  tokenizer = tokenizer_lib.build(args.tokenizer)
  texts = (np.asarray(tokenizer.encode(text), np.int32) for text in _texts(args))
  found = ngrams.lexicon(texts, tokenizer.vocab_size, {2: args.num_bigrams, 3: args.num_trigrams},
                         {*tokenizer.special_ids, tokenizer.mask_id})
  with open(args.output, "w", encoding="utf-8") as f:
    json.dump({"tokenizer": tokenizer.fingerprint, "grams": found}, f, separators=(",", ":"))
    f.write("\n")
  return f"{len(found)} n-grams"


def _persons(args: argparse.Namespace) -> str:
  documents = dated.Dated(path=tuple(args.input), holdout_every=args.holdout_every,
                          field=args.field, date_field=args.date_field, persons=args.names,
                          first_date=args.first_date, last_date=args.last_date)
  found = persons.table(documents.records("train"), tokenizer_lib.build(args.tokenizer),
                        documents.calendar, args.longest)
  with open(args.output, "w", encoding="utf-8") as f:
    json.dump(found, f, ensure_ascii=False, separators=(",", ":"))
    f.write("\n")
  return f"{len(found['names'])} persons in {len(found['months'])} months"


def write_arrays(records: Sequence[dict[str, Any]], path: str) -> int:
  """Writes records of frames as an .npz of 8-bit values, eighths of a standard deviation.

  Args:
    records: {"x": float32 [n, channels], normalised} with "label" and "text", or without.
    path: of the file.

  Returns:
    Number of records.
  """
  found = [records[i] for i in range(len(records))]
  beside: dict[str, Any] = {"scale": np.float32(0.125)}
  if "label" in found[0]:
    beside["y"] = np.array([one["label"] for one in found], np.int32)
  if "text" in found[0]:
    beside["text"] = np.array([one["text"] for one in found])
  values = [np.clip(np.rint(8 * one["x"]), -127, 127).astype(np.int8) for one in found]
  with open(f"{path}.tmp", "wb") as f:
    np.savez_compressed(f, *values, **beside)
  os.replace(f"{path}.tmp", path)
  return len(found)


def _speech(args: argparse.Namespace) -> str:
  words = tuple(args.words.split()) if args.words else ()
  source = speech_lib.Speech(
      path=tuple(args.input), holdout_every=0, labels=args.labels, words=words, rate=args.rate,
      num_mels=args.num_mels, window_ms=args.window_ms, hop_ms=args.hop_ms,
      max_clipped=args.max_clipped)
  return f"{write_arrays(source.records('train'), args.output)} recordings of {args.num_mels} mels"


def _frame_clusters(args: argparse.Namespace) -> str:
  records = arrays.Arrays(path=tuple(args.input), holdout_every=args.holdout_every).records("train")
  x = np.concatenate([frame_clusters.windows(records[i]["x"], args.span)
                      for i in range(len(records))])
  centres = frame_clusters.centres(x, args.num_clusters)
  with open(args.output, "wb") as f:
    np.save(f, centres)
  return f"{len(centres)} centres of {args.span} frames each"


def _ramp(args: argparse.Namespace) -> str:
  if not 1 <= args.max_masks <= ramp.MOST_MASKS:
    raise ValueError(f"--max_masks must be 1 to {ramp.MOST_MASKS}, got {args.max_masks}.")
  paths = source_lib.find(args.input, text_lib.files_of)
  if wrong := [path for path in paths if ".jsonl" not in os.path.basename(path)]:
    raise ValueError(f"{wrong[0]}: ramp reads .jsonl files, one document with a text a line.")
  documents = (row for path in paths for row in readers.json_rows(path))
  rows = list(ramp.questions(
      documents, field=args.field, title_field=args.title_field, spans_field=args.spans_field,
      names=tagger.Gazetteer.of_files(args.names) if args.names else None, most=args.max_masks,
      is_weighted=not args.uniform, seed=args.seed))
  if not rows:
    raise ValueError("no paragraph has a number, date or name that occurs once; give --names, or "
                     "lists of spans in --spans_field.")
  stages = {"": rows}
  if args.by_masks:
    stages = {f"_{n}": [row for row in rows if row["num_masks"] == n]
              for n in sorted({row["num_masks"] for row in rows})}
  base, ending = os.path.splitext(args.output)
  for name, chosen in stages.items():
    files.write_text(f"{base}{name}{ending}", "".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))
  counts = ", ".join(f"{sum(row['num_masks'] == n for row in rows)} of {n}"
                     for n in sorted({row["num_masks"] for row in rows}))
  return f"{len(rows)} questions by masks: {counts}" + (
      f", in {len(stages)} files {base}_N{ending}" if args.by_masks else "")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m mdx.data.prepare", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest="command", required=True)
  for name, run, what in (("tokenizer", _tokenizer, "train a byte-level BPE tokenizer.json"),
                          ("records", _array_record, "write text or jsonl as array_record"),
                          ("clusters", _clusters, "group the ids of a tokenizer by context"),
                          ("lexicon", _lexicon, "find n-grams of ids by their t-statistic"),
                          ("persons", _persons, "list the persons that each month mentions"),
                          ("speech", _speech, "write wav and flac files as log-mel arrays"),
                          ("frame_clusters", _frame_clusters, "group frames of arrays by k-means"),
                          ("ramp", _ramp, "mask salient spans of paragraphs, as questions")):
    command = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    command.add_argument("--input", action="append", required=True,
                         help="file, glob or asset:NAME: text (.xz, .gz too) or jsonl, recordings "
                         "or .npz; repeatable")
    command.add_argument("--output", required=True, help="file to write")
    command.add_argument("--field", default="text", help="of jsonl: what holds the text")
    command.add_argument("--document_chars", type=int, default=4000,
                         help="of text: where it is cut, at line ends")
  tokenizer, records, grouped, lexicon, named, recorded, framed, masked = (
      commands.choices.values())
  tokenizer.add_argument("--vocab_size", type=int, default=512, help="ids in all, specials too")
  tokenizer.add_argument("--special", action="append", default=[],
                         help="a further special token, such as those of a chat; repeatable")
  for command in (tokenizer, grouped, lexicon, named, framed):
    command.add_argument("--holdout_every", type=int, default=20,
                         help="leave out one record in this many, as the sources do; 0: none")
  grouped.add_argument("--tokenizer", required=True, help="whose ids are grouped")
  grouped.add_argument("--num_clusters", type=int, default=32)
  lexicon.add_argument("--tokenizer", required=True, help="whose ids are counted")
  lexicon.add_argument("--num_bigrams", type=int, default=500)
  lexicon.add_argument("--num_trigrams", type=int, default=250)
  named.add_argument("--tokenizer", required=True, help="whose ids names are written in")
  named.add_argument("--names", action="append", required=True,
                     help="file of names, one a line; repeatable")
  named.add_argument("--date_field", default="date", help="what holds the date of a document")
  named.add_argument("--first_date", required=True, help="YYYY-MM-DD, the first day there may be")
  named.add_argument("--last_date", required=True, help="YYYY-MM-DD, the last one")
  named.add_argument("--longest", type=int, default=6, help="most ids of a name")
  records.add_argument("--tokenizer", default="",
                       help="write token ids of this tokenizer, not text")
  records.set_defaults(holdout_every=0)
  _add_of_recordings(recorded)
  framed.add_argument("--num_clusters", type=int, default=100)
  framed.add_argument("--span", type=int, default=4, help="frames that a state stands for")
  masked.add_argument("--names", action="append", default=[],
                      help="file of names that may be masked, one a line; repeatable")
  masked.add_argument("--spans_field", default="spans",
                      help="what holds a document's own list of spans, where it has one")
  masked.add_argument("--title_field", default="title", help="what holds the title, where it is")
  masked.add_argument("--max_masks", type=int, default=ramp.MOST_MASKS, help="of a paragraph")
  masked.add_argument("--uniform", action="store_true", help="draw spans uniformly, not by words")
  masked.add_argument("--by_masks", action="store_true",
                      help="a file for each number of masks, the stages of a curriculum")
  masked.add_argument("--seed", type=int, default=0, help="of the draws")
  return parser


def _add_of_recordings(command: argparse.ArgumentParser) -> None:
  command.add_argument("--labels", default="none", help="name, folder, none or a .tsv file")
  command.add_argument("--words", default="", help="transcripts of the sorted labels, with spaces")
  command.add_argument("--rate", type=int, default=0, help="samples a second; 0: the first file's")
  command.add_argument("--num_mels", type=int, default=80)
  command.add_argument("--window_ms", type=float, default=25.0)
  command.add_argument("--hop_ms", type=float, default=10.0)
  command.add_argument("--max_clipped", type=float, default=0.01,
                       help="largest share of a recording's samples at full scale")


def main(argv: Sequence[str] | None = None) -> None:
  """The command `python -m mdx.data.prepare`."""
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    print(f"wrote {args.output}: {args.run(args)}.")
  except (ValueError, OSError) as e:
    parser.error(readers.reason(e))


if __name__ == "__main__":
  main()
