"""Flags in a recipe: .yaml."""

from pathlib import Path

from core.errors import InputError


def read_yaml_flags(file: str | Path) -> dict[str, object]:
    """The flags of a .yaml, {name: value}: `flag: value` lines, at the top or below the name of a section.

    What sections are called is for the reader alone. Raises InputError for what is not that, by file:line.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(f"{str(file)!r} needs PyYAML: pip install pyyaml") from None
    try:
        root = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{file}{line}: no yaml: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{file}: flags are `name: value` lines, at the top or below the name of a section")

    flags: dict[str, object] = {}
    lines = {}
    for key, node in root.value:
        entries = node.value if isinstance(values[key.value], dict) else [(key, node)]
        source = values[key.value] if isinstance(values[key.value], dict) else values
        for name, value in entries:
            line = name.start_mark.line + 1
            if name.value in flags:
                raise InputError(f"{file}:{line}: {name.value} is given twice, first in line {lines[name.value]}")
            if isinstance(value, yaml.MappingNode):
                raise InputError(f"{file}:{line}: {name.value} is a section within a section")
            lines[name.value] = line
            flags[name.value] = source[name.value]
    return flags
