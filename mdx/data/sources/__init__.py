"""Sources: where documents come from, as random-access sequences of records.

Contents: SOURCES (name -> frozen dataclass), build, layout_of. A source is a `data.source.Source`,
in a file of its own or of its kind, and one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdx.data import source as source_lib
from mdx.data.sources import arrays
from mdx.data.sources import dated
from mdx.data.sources import hf
from mdx.data.sources import images
from mdx.data.sources import labelled
from mdx.data.sources import parallel
from mdx.data.sources import records
from mdx.data.sources import speech
from mdx.data.sources import structure
from mdx.data.sources import task
from mdx.data.sources import text
from mdx.data.sources import tfds
from mdx.data.sources import unlearning
from mdx.data.toys import bilingual
from mdx.data.toys import grammar_pairs
from mdx.data.toys import grammar_tags
from mdx.data.toys import grammar_text
from mdx.data.toys import habits
from mdx.data.toys import news
from mdx.data.toys import packaged
from mdx.data.toys import people
from mdx.data.toys import phones
from mdx.data.toys import recall
from mdx.data.toys import rendered
from mdx.data.toys import scenes
from mdx.data.toys import shapes
from mdx.data.toys import tilted

SOURCES = {
    "text": text.Text,
    "jsonl": records.Jsonl,
    "chat": records.Chat,
    "preferences": records.Preferences,
    "parallel": parallel.Parallel,
    "parquet": records.Parquet,
    "arrow": records.Arrow,
    "array_record": records.ArrayRecord,
    "tfds": tfds.Tfds,
    "hf": hf.Hf,
    "memory": records.Memory,
    "arrays": arrays.Arrays,
    "speech": speech.Speech,
    "images": images.Images,
    "dated": dated.Dated,
    "structure": structure.Structure,
    "task": task.Task,
    "trajectories": task.Trajectories,
    "unlearning": unlearning.Unlearning,
    "table": labelled.Table,
    "conll": labelled.Conll,
    "conllu": labelled.Conllu,
    "tfds_labelled": labelled.TfdsLabelled,
    "hf_labelled": hf.HfLabelled,
    "packaged": packaged.Packaged,
    "bilingual": bilingual.Bilingual,
    "grammar": grammar_text.GrammarText,
    "grammar_pairs": grammar_pairs.GrammarPairs,
    "grammar_triplets": grammar_pairs.GrammarTriplets,
    "grammar_tags": grammar_tags.GrammarTags,
    "habits": habits.Habits,
    "news": news.News,
    "people": people.People,
    "phones": phones.Phones,
    "recall": recall.Recall,
    "rendered": rendered.Rendered,
    "scenes": scenes.Scenes,
    "shapes": shapes.Shapes,
    "tilted": tilted.Tilted,
}


def build(cfg: Mapping[str, Any]) -> source_lib.Source:
  """Builds a source from {"name": ..., **fields}; ValueError for a missing file.

  A field that is "" or -1 is left at its default, so that one config serves every source.
  """
  return source_lib.build(SOURCES, cfg, what="data source")


def layout_of(cfg: Mapping[str, Any]) -> str:
  """Name of the layout of a source; if it cannot be built (no files), the usual one of its kind."""
  try:
    return build(cfg).layout
  except ValueError:
    if str(cfg.get("name")) not in SOURCES:
      raise
    return SOURCES[cfg["name"]].layout
