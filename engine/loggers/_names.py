"""What servers call things: settings as one table, figures by names that they take."""

import re


def flat(sections: dict[str, object], prefix: str = "") -> dict[str, object]:
    """{"flags/lr": 0.1, ...} of dictionaries within dictionaries; of a list its text."""
    found = {}
    for name, value in sections.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (list, tuple)):
            found[prefix + name] = ",".join(map(str, value))
        else:
            found[prefix + name] = value
    return found


def revision(sections: dict[str, object]) -> str | None:
    """The git revision of the code, of what config.json holds."""
    versions = sections.get("versions")
    return versions.get("git") if isinstance(versions, dict) else None


def plain_name(name: str) -> str:
    """A figure's name in letters, digits, and what else every server takes: recall@1 is recall_at_1."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
