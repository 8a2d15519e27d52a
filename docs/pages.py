"""A hook of mkdocs: pages that are made from other files of the repository.

Contents: modules, notebook, pages, on_config, on_files.

The reference has one page a module, `reference/PACKAGE/MODULE.md`; `notebooks/NAME.md` are those of
colabs/ with their stored outputs, and `changelog.md` is CHANGELOG.md. The link to the repository is
the address that git knows as origin, if it is a public one.
"""

import base64
import json
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
_BADGE = re.compile(r"^\[!\[Open in Colab\].*\]\((.*)\)$", re.M)


def modules() -> dict[str, str]:
  """Returns uri of the page -> name, of every module of mdx but the configs."""
  found = {}
  for path in sorted((ROOT / "mdx").rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[1] == "configs":
      continue
    is_package = parts[-1] == "__init__"
    name = parts[:-1] if is_package else parts
    uri = "/".join(("reference", *name[1:], "index") if is_package else ("reference", *name[1:]))
    found["reference/mdx.md" if len(name) == 1 else f"{uri}.md"] = ".".join(name)
  return found


def _fence(text: str, language: str) -> str:
  marks = "`" * max(3, 1 + max((len(x) for x in re.findall("`+", text)), default=0))
  return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def notebook(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
  """Returns a notebook as markdown, and its pictures by file name."""
  texts, pictures = [], {}
  for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
      texts.append(_BADGE.sub(r"[Open in Colab](\1)", source))
      if not index:
        texts.append(f"The file is `colabs/{path.name}`; what follows was stored by one run of it.")
      continue
    code = _fence(source, "python")
    if source.startswith("# Set-up"):
      code = '??? note "Set-up"\n\n' + re.sub("^(?=.)", "    ", code, flags=re.M)
    texts.append(code)
    for output in cell["outputs"]:
      data = output.get("data", {})
      if "image/png" in data:
        file = f"{path.stem}_{len(pictures)}.png"
        pictures[file] = base64.b64decode("".join(data["image/png"]))
        texts.append(f"![output of the cell above]({file})")
      elif "text/html" in data:
        texts.append("".join(data["text/html"]).replace("\n", "&#10;"))
      else:
        text = "".join(output.get("text", data.get("text/plain", "")))
        texts.append(_fence(text, "text"))
  return "\n\n".join(texts) + "\n", pictures


def pages() -> dict[str, str | bytes]:
  """Returns uri -> content of all pages, and of the pictures of notebooks."""
  found: dict[str, str | bytes] = {uri: f"::: {name}\n" for uri, name in modules().items()}
  found["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
  for path in sorted((ROOT / "colabs").glob("*.ipynb")):
    text, pictures = notebook(path)
    found[f"notebooks/{path.stem}.md"] = text
    found |= {f"notebooks/{name}": data for name, data in pictures.items()}
  return found


def _tree(uris: dict[str, str]) -> list:
  """The navigation of the reference: a section a package, in it its page and its modules."""
  root: dict = {}
  for uri, name in uris.items():
    parts, place = name.split(".")[1:], root
    for part in parts[:-1] if not uri.endswith("/index.md") else parts:
      place = place.setdefault(part, {})
    place["" if uri.endswith("/index.md") else (parts or ["mdx"])[-1]] = uri

  def entries(place):
    return [{name: value if isinstance(value, str) else entries(value)} if name else value
            for name, value in sorted(place.items())]
  return entries(root)


def _repository() -> str:
  """Address of the repository as a page, or ""."""
  try:
    url = subprocess.run(["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True,
                         text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return ""
  url = re.sub(r"^git@([\w.-]+):", r"https://\1/", url).removesuffix(".git")
  return url if re.fullmatch(r"https://[\w.-]+/[\w./-]+", url) else ""


def on_config(config):
  """Adds the pages to the navigation, and the link to the repository."""
  config.repo_url = config.repo_url or _repository() or None
  for section in config.nav:
    if isinstance(section, dict) and "Reference" in section:
      section["Reference"] += _tree(modules())
  return config


def on_files(files, config):
  """Adds the pages to the files."""
  from mkdocs.structure import files as files_lib  # pylint: disable=g-import-not-at-top
  for uri, content in pages().items():
    files.append(files_lib.File.generated(config, uri, content=content))
  return files
