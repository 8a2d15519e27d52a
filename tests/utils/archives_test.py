"""Archives of others are read up to a limit, and what is wrong with one is one line."""

import zipfile

import pytest

from mdx.utils import archives
from mdx.utils import streams


def _zip(path, **files):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
    for name, text in files.items():
      file.writestr(name, text)
  return str(path)


def test_names_are_sorted_and_contents_are_those_of_the_files(tmp_path):
  path = _zip(tmp_path / "a.zip", b="2", a="1")
  assert archives.names(path) == ["a", "b"] and archives.read(path, ["b"]) == {"b": b"2"}


def test_archives_that_cannot_be_read_are_one_line(tmp_path, monkeypatch):
  (tmp_path / "no.zip").write_bytes(b"text")
  with pytest.raises(ValueError, match=r"no.zip: not a .zip file that can be read .* the folder"):
    archives.names(str(tmp_path / "no.zip"))
  path = _zip(tmp_path / "a.zip", a="1" * 1000)
  with pytest.raises(ValueError, match="a.zip: not a .zip file that can be read"):
    archives.read(path, ["b"])
  data = bytearray((tmp_path / "a.zip").read_bytes())
  data[32] ^= 255  # within the packed bytes
  (tmp_path / "broken.zip").write_bytes(data)
  with pytest.raises(ValueError, match="broken.zip: not a .zip file that can be read"):
    archives.read(str(tmp_path / "broken.zip"), ["a"])
  data = bytearray((tmp_path / "a.zip").read_bytes())
  data[6] |= 1  # has a password
  data[data.index(b"PK\x01\x02") + 8] |= 1
  (tmp_path / "locked.zip").write_bytes(data)
  with pytest.raises(ValueError, match="locked.zip: .*password"):
    archives.read(str(tmp_path / "locked.zip"), ["a"])
  monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 999)
  with pytest.raises(ValueError, match="a.zip: its files hold 1,000 bytes, more than the limit"):
    archives.read(path, ["a"])
