"""Values of config keys: those that ship pass, any of a wrong kind or size is one line."""

import copy
import importlib

import pytest
import tiny

from mdx import config as config_lib
from mdx.build import setup as setup_lib
from mdx.build import values

HOSTILE = (-2, 0.5, 1e12, 10 ** 12, 10 ** 23, float("nan"), float("inf"), "abc", "", (), (1,), None,
           True, {}, [[]])


def _leaves(table, above=()):
  for key, value in table.items():
    if isinstance(value, dict) and value:
      yield from _leaves(value, (*above, key))
    else:
      yield (*above, key)


def _set(table, path, value):
  for part in path[:-1]:
    table = table.setdefault(part, {})
  table[path[-1]] = value


@pytest.mark.parametrize("name", [*tiny.CONFIGS, *tiny.OTHERS])
def test_every_config_that_ships_passes(name):
  config = config_lib.to_dict(importlib.import_module(f"mdx.configs.{name}").get_config())
  values.check(config)
  flat = config_lib.flatten(config)
  known = [key for key in values.KEYS if key in flat]
  assert len(known) >= 10 or config["mode"] in ("claim", "report", "table")  # with keys of their own


@pytest.mark.parametrize("key", values.KEYS)
def test_every_key_refuses_what_is_of_another_kind(key):
  refused = []
  for value in HOSTILE:
    config = {"init": {}}
    _set(config, tuple(key.split(".")), value)
    try:
      values.check(config)
    except ValueError as error:
      assert str(error).startswith(f"config.{key}") and "\n" not in str(error)
      refused.append(value)
  assert len(refused) >= 10, (key, refused)


def test_a_base_is_checked_too():
  with pytest.raises(ValueError, match="config.init.base.steps must be a whole number"):
    values.check({"init": {"base": {"steps": 0}}})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", tiny.releases("electra"), tiny.releases("finetune"),
                                  tiny.releases("block_diffusion")])
def test_any_value_of_any_key_passes_or_is_one_line(name, tmp_path):
  base = config_lib.to_dict(tiny.config(name))
  paths = [path for path in _leaves(base) if path[0] not in ("mode", "export", "compile")]
  assert len(paths) > 50
  for path in paths:
    for value in HOSTILE:
      config = copy.deepcopy(base)
      _set(config, path, value)
      try:
        setup_lib.setup(config, str(tmp_path / "run"))
      except ValueError as error:
        assert "\n" not in str(error) and str(error), (path, value)
      except Exception as error:  # pylint: disable=broad-except
        pytest.fail(f"{'.'.join(path)}={value!r}: {type(error).__name__}: {error}")
