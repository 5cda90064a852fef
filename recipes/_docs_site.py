"""What MkDocs calls while it makes the site (mkdocs.yml): pages from outside of docs/, and links between all pages.

Each page is read where it stands, so that there is no copy of it; its links are those that hold in the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

# [text](target), with what makes it a picture; the text of a link may itself be a picture.
LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\(([^()\s]+)\)")
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"[\w./-]+\.md")


def on_files(files: Any, config: Any) -> Any:
    """The files of docs/ and those that `extra: outside:` names."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for name, path in config.extra["outside"].items():
        files.append(File.generated(config, name, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page's text, its links as the site needs them."""
    root = Path(config.config_file_path).parent
    return site_links(markdown, page.file.src_uri, root, config.extra["outside"], nav_titles(config.nav))


def nav_titles(nav: list[Any]) -> dict[str, str]:
    """{page: what the navigation calls it} of mkdocs.yml's nav."""
    titles = {}
    for entry in nav:
        for title, below in entry.items():
            if isinstance(below, str):
                titles[below] = title
            else:
                titles |= nav_titles(below)
    return titles


def site_links(markdown: str, name: str, root: Path, outside: dict[str, str], titles: dict[str, str]) -> str:
    """The text of the page that the site calls `name`, in which links to other pages have the names of the site.

    outside: {name on the site: path in the repository} of pages beside those of docs/. titles: {name on the site: what
    stands for a link whose words are the page's path}. What is in the repository and no page, such as a script, has no
    place on the site: of a link to it the words stay.
    """
    folder = posixpath.dirname(outside.get(name, f"docs/{name}"))
    names = {path: name for name, path in outside.items()}

    def on_site(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        # The text of a link may be a picture, whose own link changes as well.
        text = LINK.sub(on_site, text)
        path, hash_sign, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(folder, path))
        if not path or ":" in path or not (root / place).exists():
            return f"{mark}[{text}]({target})"
        if place in names:
            place = names[place]
        elif place.startswith("docs/"):
            place = place.removeprefix("docs/")
        else:
            return text
        if PATH.fullmatch(text):
            text = titles.get(place, text)
        return f"{mark}[{text}]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{hash_sign}{anchor})"

    # Every second piece is a block of code, in which brackets are brackets.
    pieces = FENCED.split(markdown)
    pieces[::2] = [LINK.sub(on_site, piece) for piece in pieces[::2]]
    return "".join(pieces)
