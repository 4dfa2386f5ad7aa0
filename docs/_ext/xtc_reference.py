"""The generated pages of the reference: commands from their parsers, config keys from the schema, names from the packages.

Pure functions that return Markdown; the build writes their pages to ``docs/reference/generated/`` before it reads anything.
"""

import argparse
import ast
import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_ORDER = ("quantize", "compress", "bert", "kernels", "formats", "inference", "deploy", "data", "train", "parallel", "recipe")
_NOT_IMPORTED = ("cli", "configs")
"""The command has a page of its own, and recipes are found by name."""


def packages() -> list[str]:
    """The packages with a page of the API, in the order of the menu."""
    import xtc_jax

    found = [each.name for each in pkgutil.iter_modules(xtc_jax.__path__) if each.ispkg and each.name not in _NOT_IMPORTED]
    rank = {name: i for i, name in enumerate(_ORDER)}
    return ["xtc_jax", *(f"xtc_jax.{name}" for name in sorted(found, key=lambda name: (rank.get(name, len(rank)), name)))]


def public_names(package: str) -> list[str]:
    """``__all__`` of a package; of one without, nothing."""
    return list(getattr(importlib.import_module(package), "__all__", ()))


def api_page(package: str) -> str:
    """Every public name of a package, with its signature and docstring."""
    module = importlib.import_module(package)
    root = "The front door: what most programs need, imported when it is first used."
    parts = [f"# `{package}`", "", root if package == "xtc_jax" else inspect.getdoc(module) or "", ""]
    for name in public_names(package):
        parts += ["```{eval-rst}", _entry(module, name), "```", ""]
    if not public_names(package):
        parts += ["Its modules:", "", *_modules(module), ""]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    value, path = getattr(module, name), f"{module.__name__}.{name}"
    again = "\n   :no-index:" if module.__name__ == "xtc_jax" else ""  # its names have an entry on the page of their package
    if inspect.isclass(value):
        return f".. autoclass:: {path}\n   :members:{again}"
    if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
        return f".. autofunction:: {path}{again}"
    if inspect.ismodule(value):
        return f"The package :mod:`{value.__name__}`, see its own page."
    shown = repr(value) if isinstance(value, str | int | float | tuple) and len(repr(value)) < 100 else ""
    values = [f"   :value: {shown}"] if shown else []
    return "\n".join([f".. py:data:: {path}", *values, "", f"   {_constant_docstring(module, name)}"])


def _modules(module: ModuleType) -> Iterator[str]:
    """A line for each module of a package that lists no names: its first sentence."""
    for path in sorted(Path(str(module.__file__)).parent.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        yield f"- `{module.__name__}.{path.stem}`: {' '.join(docstring.split(chr(10) + chr(10))[0].split())}"


def _constant_docstring(module: ModuleType, name: str) -> str:
    """The string that follows the constant's assignment, in whichever module of the package that is; "" without one."""
    for path in sorted(Path(str(module.__file__)).parent.rglob("*.py")):
        body = ast.parse(path.read_text()).body
        for statement, after in itertools.pairwise(body):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return " ".join(str(after.value.value).split())
    return ""


def command_page(parser: argparse.ArgumentParser) -> str:
    """Every command: what it does, its usage, its arguments."""
    parts = [
        "# The command `xtc`",
        "",
        "This page is made from the program's own argument parsers. Exit statuses: 0 done; 1 a bug, or a step that does not "
        "fit (`xtc aot`); 2 bad input, one line that names it; 75 after SIGTERM, saved; 76 another process was lost; "
        "130 interrupted.",
        "",
    ]
    for name, command in subcommands(parser).items():
        parts += [f"## `xtc {name}`", "", f"{_sentence(command.description or '')}", "", *_usage(command), *_arguments(command)]
    return "\n".join(parts)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands by name."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _usage(command: argparse.ArgumentParser) -> list[str]:
    usage = re.sub(r"\s+", " ", command.format_usage().removeprefix("usage: "))
    epilog = [command.epilog, ""] if command.epilog else []
    return ["```text", usage.strip(), "```", "", *epilog]


def _arguments(command: argparse.ArgumentParser) -> list[str]:
    lines = ["| argument | |", "| --- | --- |"]
    for action in command._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        takes = "" if action.nargs == 0 else f" {value}"
        name = ", ".join(f"`{option}{takes}`" for option in action.option_strings) or f"`{value}`"
        lines.append(f"| {name.replace('|', '&#124;')} | {(action.help or '').replace('|', '&#124;')} |")
    return [*lines, ""]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def config_keys(function: object) -> list[tuple[str, str, str]]:
    """``(key, default, comment)`` of every ``config.KEY = VALUE  # comment`` line of a function of the schema."""
    pattern = re.compile(r"^    config\.([\w.]+) = (.+?)(?:  # (.*))?$")
    found = [pattern.match(line) for line in inspect.getsource(function).splitlines()]  # type: ignore[arg-type]
    return [(match[1], match[2], match[3] or "") for match in found if match and "ConfigDict()" not in match[2]]


def config_page() -> str:
    """Every key of a config and of its stages, from the comments of ``xtc_jax/recipe/schema.py``."""
    from xtc_jax.recipe import schema

    parts = [
        "# Config keys",
        "",
        "This page is made from the schema's own comments. `--config.KEY=VALUE` sets a key of a command that takes "
        "`--config`; a key of a stage has the stage's name before it, such as `--config.quantize.steps=500`. Unknown keys "
        "and values of another type or out of range are refused before anything is loaded.",
        "",
    ]
    for title, function in (("Of the whole recipe", schema.base_config), ("Of each stage", schema.stage_config)):
        parts += [f"## {title}", "", "| key | default | |", "| --- | --- | --- |"]
        for key, default, comment in config_keys(function):
            shown = repr(schema.LOCAL_MODEL) if default == "LOCAL_MODEL" else default
            cell = comment.replace("|", "&#124;").replace("<", "&lt;")
            parts.append(f"| `{key}` | `{shown}` | {cell} |")
        parts.append("")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """All generated pages by file name."""
    from xtc_jax.cli.main import make_parser

    names = packages()
    api = {f"{package}.md": api_page(package) for package in names}
    listed = "\n".join(f"- [`{package}`]({package}.md)" for package in names)
    index = f"# Python API\n\nOne page per package, with every public name.\n\n{listed}\n\n```{{toctree}}\n:hidden:\n\n"
    return {
        **api,
        "api.md": index + "\n".join(names) + "\n```\n",
        "commands.md": command_page(make_parser()),
        "config.md": config_page(),
    }


def write_pages(folder: Path) -> None:
    """Write :func:`pages`; files whose text is the same stay untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for file in folder.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
