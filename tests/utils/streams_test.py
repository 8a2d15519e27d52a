"""Bytes of files: regular ones only, packed ones only up to the limit."""

import gzip
import lzma
import os
import zlib

import pytest

from mdx.utils import readers
from mdx.utils import streams

_DATA = os.urandom(2**20 + 7) + b"abc" * 2**19
_PACK = {".xz": lzma.compress, ".gz": gzip.compress}


@pytest.mark.parametrize("ending", _PACK)
@pytest.mark.parametrize("pieces", [[_DATA], [_DATA[:9], _DATA[9:]], [b""], [_DATA, b"", b"x"]])
def test_streams_of_a_packed_file_are_joined(tmp_path, ending, pieces):
  path = tmp_path / f"a{ending}"
  path.write_bytes(b"".join(map(_PACK[ending], pieces)))
  assert streams.read_bytes(path) == b"".join(pieces)


@pytest.mark.parametrize("ending", _PACK)
@pytest.mark.parametrize("cut", [1, 20, 1000, -1])
def test_a_packed_file_that_is_cut_short_is_an_error(tmp_path, ending, cut):
  path = tmp_path / f"a{ending}"
  path.write_bytes(_PACK[ending](_DATA)[:cut])
  with pytest.raises(ValueError, match=rf"a{ending}: cannot be read .*is the file complete"):
    readers.read_text(path)


@pytest.mark.parametrize("ending", _PACK)
@pytest.mark.slow
def test_a_packed_file_is_unpacked_up_to_the_limit_only(tmp_path, monkeypatch, ending):
  monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 3 * 2**20)
  path = tmp_path / f"a{ending}"
  path.write_bytes(_PACK[ending](b"\0" * 3 * 2**20))
  assert len(streams.read_bytes(path)) == 3 * 2**20
  path.write_bytes(_PACK[ending](b"\0" * 40 * 2**20))
  read = []
  monkeypatch.setattr(streams, "_unpacked", lambda *args, find=streams._unpacked: (
      part for part in find(*args) if read.append(len(part)) or True))
  with pytest.raises(ValueError, match="more than 3,145,728 bytes, the limit.*unpack it"):
    readers.read_text(path)
  assert sum(read) <= 5 * 2**20


def test_a_dictionary_that_needs_much_memory_is_refused(tmp_path):
  path = tmp_path / "a.xz"
  monster = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
  # The dictionary's size is one byte of the block header: 36 is 1 GiB; its checksum follows.
  header = bytearray(monster[12:12 + (monster[12] + 1) * 4])
  header[header.index(b"\x21\x01") + 2] = 36
  header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
  path.write_bytes(monster[:12] + bytes(header) + monster[12 + len(header):])
  with pytest.raises(ValueError, match="a.xz: cannot be read .*[Mm]emory"):
    readers.read_text(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "fifo")
  os.mkfifo(tmp_path / "fifo.xz")
  for path, kind in ((tmp_path / "fifo", "FIFO"), (tmp_path / "fifo.xz", "FIFO"),
                     (tmp_path, "directory"), ("/dev/zero", "device")):
    with pytest.raises(ValueError, match=f"{path}: expected a regular file, got a {kind}"):
      readers.read_text(path)
  (tmp_path / "link").symlink_to(tmp_path / "fifo")
  with pytest.raises(ValueError, match="link: expected a regular file, got a FIFO"):
    streams.check_regular(tmp_path / "link")
