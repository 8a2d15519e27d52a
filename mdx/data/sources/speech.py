"""Recordings: wav and flac files in folders or zip archives, read as log-mel frames.

Contents: Speech, read_audio.

Convention: wav files are read by scipy, or by soundfile where it is installed (the extra `audio`),
which flac files need. Frames are normalised over each recording.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.io import wavfile

from mdx import config as config_lib
from mdx.data import log_mel
from mdx.data.sources import files
from mdx.utils import archives
from mdx.utils import readers
from mdx.utils import streams

_KINDS = (".wav", ".flac")
_FULL_SCALE = 0.999


def _files_of(folder: str) -> list[str]:
  """The recordings and archives in a folder and those in it."""
  return sorted(str(path) for path in pathlib.Path(folder).rglob("*")
                if path.suffix.lower() in (*_KINDS, ".zip"))


def read_audio(data: bytes, name: str) -> tuple[np.ndarray, int]:
  """Samples of a recording, float32 [n] in [-1, 1], channels averaged, and their rate.

  Args:
    data: a wav or flac file.
    name: of the file; its ending says its kind.

  Raises:
    ValueError: no such file, or flac without soundfile.
  """
  if importlib.util.find_spec("soundfile"):
    import soundfile
    try:
      wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError) as e:
      raise ValueError(f"not a sound file ({readers.reason(e)}); convert it to wav.") from None
    return wave.mean(axis=1), rate
  if not name.lower().endswith(".wav"):
    raise ValueError("flac is read by soundfile, which is not installed; install the extra audio, "
                     "or convert the files to wav.")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", wavfile.WavFileWarning)
      rate, wave = wavfile.read(io.BytesIO(data))
  except Exception as e:  # scipy raises errors of many kinds for malformed files
    raise ValueError(f"not a wav file ({readers.reason(e)}); convert it.") from None
  if wave.dtype == np.uint8:
    wave = (wave.astype(np.float32) - 128) / 128
  elif wave.dtype.kind == "i":
    wave = wave.astype(np.float32) / -float(np.iinfo(wave.dtype).min)
  wave = wave if wave.ndim == 1 else wave.mean(axis=1)
  return wave.astype(np.float32), int(rate)


class _Recordings(readers.Records):
  """Records of members (archive or "", path), read when asked for."""

  def __init__(self, source, members, labels, rate):
    self._source, self._members, self._labels, self._rate = source, members, labels, rate
    self._length = len(members)

  def _get(self, index):
    archive, path = self._members[index]
    where = f"{archive}:{path}" if archive else path
    found = {"where": where, **self._labels[index]}
    try:
      wave, rate = read_audio(_bytes(archive, path), path)
      if rate != self._rate:
        raise ValueError(f"{rate} samples a second, but data.source.rate or the first recording "
                         f"says {self._rate}; resample it, or leave it out.")
      return found | {"x": self._source.frames(wave, rate)}
    except ValueError as e:
      raise ValueError(f"{where}: {e}") from None


def _bytes(archive: str, path: str) -> bytes:
  return archives.read(archive, [path])[path] if archive else streams.read_bytes(path)


def _members(paths: Sequence[str]) -> list[tuple[str, str]]:
  found = []
  for path in paths:
    names = [(path, name) for name in archives.names(path) if name.lower().endswith(_KINDS)] if (
        path.lower().endswith(".zip")) else [("", path)]
    found += names
  if not found:
    raise ValueError(f"{', '.join(paths)}: no {' or '.join(_KINDS)} file; correct the path.")
  return found


@functools.lru_cache(maxsize=8)
def _table(path: str) -> dict[str, str]:
  """File name -> transcript, of lines with a tab."""
  found = {}
  for number, line in enumerate(readers.lines(readers.read_text(path)), 1):
    name, tab, text = line.partition("\t")
    if line.strip() and not tab:
      raise ValueError(f"{path}, line {number}: expected a file name, a tab and a transcript, got "
                       f"{line!r:.60}.")
    name, text = os.path.basename(name), text.strip()
    if tab and found.setdefault(name, text) != text:
      raise ValueError(f"{path}, line {number}: {name} has another transcript above; recordings "
                       "are told apart by the names of their files, without folders: rename them.")
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speech(files.Files):
  """wav and flac files, folders of them, or zip archives; one recording a record.

  Attributes:
    labels: where labels are: "name" (the file's name up to the first "_"), "folder" (that of the
      file), a .tsv file of file names and transcripts, or "none".
    words: transcripts of the labels in their sorted order; () = the labels themselves.
    rate: samples a second of every recording; 0 = of the first one.
    num_mels: channels.
    window_ms, hop_ms: window and step, milliseconds.
    max_clipped: largest share of a recording's samples at full scale.
  """

  files_of = staticmethod(_files_of)

  layout = "speech"
  in_memory = True
  labels: str = "none"
  words: tuple[str, ...] = ()
  rate: int = 0
  num_mels: int = 80
  window_ms: float = 25.0
  hop_ms: float = 10.0
  max_clipped: float = 0.01

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "data.source", at_least=dict(rate=0, num_mels=1),
                     between=dict(window_ms="(0, 1000]", hop_ms="(0, 1000]", max_clipped="[0, 1]"))
    if self.labels not in ("name", "folder", "none") and not self.labels.endswith(".tsv"):
      raise ValueError(f"data.source.labels is {self.labels!r}; choose name, folder or none, or "
                       "name a .tsv file.")

  def frames(self, wave: np.ndarray, rate: int) -> np.ndarray:
    """Normalised log-mel frames of a recording, float32 [n, num_mels].

    Raises:
      ValueError: an empty, silent or clipped recording.
    """
    if not len(wave) or not np.any(wave):
      raise ValueError("an empty recording; leave it out.")
    if not np.isfinite(wave).all():
      raise ValueError("a sample is nan or infinite; correct it, or leave the recording out.")
    clipped = float(np.mean(np.abs(wave) >= _FULL_SCALE))
    if clipped > self.max_clipped:
      raise ValueError(f"{clipped:.1%} of the samples are clipped, more than "
                       f"data.source.max_clipped {self.max_clipped:.1%}; leave the recording out, "
                       "or raise it.")
    return log_mel.normalized(log_mel.log_mel(
        wave, rate, num_mels=self.num_mels, window_ms=self.window_ms, hop_ms=self.hop_ms))

  def _read(self, paths):
    members = _members(paths)
    rate = self.rate or read_audio(_bytes(*members[0]), members[0][1])[1]
    return _Recordings(self, members, self._labels(members), rate)

  def _labels(self, members) -> list[dict[str, Any]]:
    names = [pathlib.PurePosixPath(path) for _, path in members]
    if self.labels == "none":
      return [{} for _ in names]
    if self.labels.endswith(".tsv"):
      table = _table(self.labels)
      if twice := [name for name, number in collections.Counter(
          x.name for x in names).items() if number > 1]:
        raise ValueError(f"{self.labels}: {twice[0]} names recordings in two folders, which share "
                         "a transcript; give files names of their own.")
      if missing := [x.name for x in names if x.name not in table]:
        raise ValueError(f"{self.labels} has no transcript of {missing[0]} (and of "
                         f"{len(missing) - 1} others); add it, or leave the recording out.")
      return [{"text": table[x.name]} for x in names]
    found = [x.parent.name if self.labels == "folder" else x.stem.partition("_")[0] for x in names]
    kinds = sorted(set(found))
    if self.words and len(self.words) != len(kinds):
      raise ValueError(f"data.source.words has {len(self.words)} transcripts for the "
                       f"{len(kinds)} labels {', '.join(kinds)}; give one each.")
    texts = dict(zip(kinds, self.words or kinds))
    return [{"label": kinds.index(label), "text": texts[label]} for label in found]
