"""What the repository is taken by: the site of the docs, the image, the workflows, the pages for people and for agents.

What these name exists, what they link to is there, and the commands of CONTRIBUTING.md and of the skill run.
"""

import fnmatch
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import reader
from config.commands import COMMANDS, DOCTOR
from config.parse import parse
from config.signatures import flags_of
from data.embedded import embedded_data
from losses import LOSSES
from recipes._docs_site import nav_titles, site_links

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
OUTSIDE = SITE["extra"]["outside"]
SKILL = ROOT / "skills" / "train-on-your-images" / "SKILL.md"
PAGES = [ROOT / "docs" / name for name in DOCS] + [ROOT / path for path in OUTSIDE.values()]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAMLS = [ROOT / "mkdocs.yml", ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff", *WORKFLOWS]
MAKE_TARGETS = set(re.findall(r"^([a-z_]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
LINK = re.compile(r"\]\(([^()\s]+)\)")
# What a copy of the repository, to change or to build from, has no use for.
NOT_COPIED = (
    ".*cache",
    ".git",
    ".hypothesis",
    ".unpacking-*",
    ".venv*",
    "__pycache__",
    "emoji",
    "output",
    "Stanford_*",
)


def prose(path):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def blocks(text, language):
    """The fenced blocks of a language, as (title or "", content)."""
    found = re.findall(rf'^```{language}(?: title="(.*?)")?\n(.*?)^```', text, flags=re.DOTALL | re.MULTILINE)
    return [(title, content) for title, content in found]


def commands(text):
    """Every command of a page's shell blocks as words, continued lines joined, comments gone."""
    lines = "\n".join(content for _, content in blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def is_outer(link):
    return link.startswith(("http://", "https://", "mailto:"))


# Pages and links


def test_every_page_is_in_the_nav_once():
    named = [name for section in SITE["nav"] for pages in section.values() for page in pages for name in page.values()]
    assert sorted(named) == sorted({*DOCS, *OUTSIDE}), "name each page of docs/ in mkdocs.yml, below nav:"
    assert not set(OUTSIDE) & set(DOCS), "a page from elsewhere would stand in the place of one of docs/"


def test_every_page_is_in_llms_txt():
    """In the form of llmstxt.org: a title, a quoted summary, then sections of links with a line on each."""
    text = (ROOT / "llms.txt").read_text()
    lines = text.splitlines()
    assert lines[0].startswith("# ") and lines[2].startswith("> ")
    listed = [line for line in lines if line.startswith("- ")]
    assert all(re.match(r"- \[[^\]]+\]\([^)]+\): \S", line) for line in listed)
    linked = {LINK.search(line)[1] for line in listed}
    wanted = {path.relative_to(ROOT).as_posix() for path in PAGES}
    assert wanted <= linked, "add a line to llms.txt for each"


def anchors(path):
    """What the headings of a page are called in its address."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    cleaned = [re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in cleaned}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "llms.txt"], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_hold(path):
    for link in LINK.findall(prose(path)):
        if is_outer(link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.resolve().parents, f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("name", [*DOCS, *OUTSIDE])
def test_links_hold_on_the_site(name):
    """The site's names of pages, from the page's own place on it; a link to what is no page is none there."""
    path = ROOT / OUTSIDE.get(name, f"docs/{name}")
    text = site_links(path.read_text(), name, ROOT, OUTSIDE, nav_titles(SITE["nav"]))
    for link in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        file = link.partition("#")[0]
        if not is_outer(link) and file:
            assert file in OUTSIDE or (ROOT / "docs" / file).is_file(), link


def test_links_become_those_of_the_site():
    def on_site(text, name):
        outside = {"index.md": "README.md", "data.md": "data/README.md"}
        return site_links(text, name, ROOT, outside, {"metrics.md": "Figures", "index.md": "Overview"})

    text = (
        "[a](docs/metrics.md#x), ![b](docs/logo.svg), [`c`](configs), [d](https://e.org), [f](data/README.md), [g](#h)"
    )
    text += (
        "\n```py\n[a](docs/metrics.md)\n```\n[![b](docs/logo.svg)](docs/metrics.md), [docs/metrics.md](docs/metrics.md)"
    )
    assert on_site(text, "index.md") == (
        "[a](metrics.md#x), ![b](logo.svg), `c`, [d](https://e.org), [f](data.md), [g](#h)"
        "\n```py\n[a](docs/metrics.md)\n```\n[![b](logo.svg)](metrics.md), [Figures](metrics.md)"
    )
    assert on_site("[README](../README.md) [metrics.md](metrics.md)", "search.md") == (
        "[README](index.md) [Figures](metrics.md)"
    )
    assert on_site("[../README.md](../README.md)", "data.md") == "[Overview](index.md)"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (requirements/docs.txt)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in (*DOCS, *OUTSIDE):
        assert (tmp_path / "site" / name).with_suffix(".html").is_file()
    home = (tmp_path / "site" / "index.html").read_text()
    assert "<h1" in home and 'src="before_after.png"' in home and 'href="metrics.html"' in home
    # Nothing that a reader's browser would fetch from elsewhere.
    fetched = re.findall(r'<(?:script|img|iframe)[^>]*src="(https?:[^"]*)"|<link[^>]*href="(https?:[^"]*)"', home)
    assert not fetched


# Yaml, workflows, versions


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_yaml_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow(path):
    """Make targets that exist, actions of a named major version, and no right beyond reading but where it is needed."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 180
        assert set(job.get("permissions", {})) <= ({"pages", "id-token"} if name == "publish" else set())
    for step in steps(workflow):
        assert set(re.findall(r"\bmake ([a-z_]+)", step.get("run", ""))) <= MAKE_TARGETS
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        for files in re.findall(r"requirements\S*", str(step.get("with", {}).get("cache-dependency-path", ""))):
            assert list(ROOT.glob(files))


def test_the_hooks_of_a_commit_find_nothing_to_mend():
    """Who changes one file and runs all hooks is not to find others changed."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    if shutil.which("git") is None:
        pytest.skip("no git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("no repository of git's")
    for name in listed.stdout.decode().split("\0"):
        file = ROOT / name
        if not file.is_file() or re.search(config["exclude"], name):
            continue
        content = file.read_bytes()
        if b"\0" in content or not content:
            continue
        assert content.endswith(b"\n") and not content.endswith(b"\n\n"), f"{name} ends without a newline, or in two"
        if not re.search(hooks["trailing-whitespace"]["exclude"], name):
            assert not re.search(rb"[ \t]+$", content, flags=re.MULTILINE), f"{name}: blanks at the end of a line"


def test_the_lint_of_a_commit_is_that_of_make():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    [ruff] = [repo for repo in hooks if repo["repo"].endswith("/ruff-pre-commit")]
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "requirements" / "lint.txt").read_text(), flags=re.MULTILINE)[1]
    assert ruff["rev"] == f"v{pinned}"
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    assert "ruff check ." in recipe and "ruff format --check ." in recipe
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]


def test_the_citation_has_what_its_form_wants():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["title"] == SITE["site_name"] == (ROOT / "README.md").read_text().splitlines()[0].removeprefix("# ")
    assert all({"name"} <= author.keys() for author in citation["authors"]) and citation["message"]
    assert (
        "Apache License" in (ROOT / "LICENSE").read_text()
        and "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    )


def test_changes_are_kept_in_their_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE)[0] == "Unreleased"
    kinds = re.findall(r"^### (.*)$", text, flags=re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("name", ["test_packages", "docs", "lint"])
def test_files_of_packages_that_make_names_are_there(name):
    recipe = re.search(rf"^{name}:.*?\n\n", (ROOT / "Makefile").read_text(), flags=re.DOTALL | re.MULTILINE)[0]
    files = re.findall(r"-r (\S+)", recipe)
    assert files and all((ROOT / file).is_file() for file in files)


# The image


def instructions():
    """The Dockerfile as [(stage, word, rest)], comments gone, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in text.splitlines():
        if line.strip():
            word, rest = line.split(None, 1)
            if word == "FROM":
                stage = rest.split(" AS ")[1]
            found.append((stage, word, rest))
    return found


def stage_of(name):
    """The instructions of a stage, those that it stands on before them."""
    [(_, _, origin)] = [line for line in instructions() if line[:2] == (name, "FROM")]
    below = origin.split(" AS ")[0]
    stages = {stage for stage, word, _ in instructions() if word == "FROM"}
    before = stage_of(below) if below in stages else []
    return before + [(word, rest) for stage, word, rest in instructions() if stage == name and word != "FROM"]


def is_left_out(path):
    """Whether .dockerignore keeps a path of the repository out of the image."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = Path(path).parts
    for pattern in patterns:
        anywhere = pattern.removeprefix("**/")
        for depth in range(1, len(parts) + 1):
            if fnmatch.fnmatch("/".join(parts[:depth]), pattern):
                return True
            if anywhere != pattern and fnmatch.fnmatch(parts[depth - 1], anywhere):
                return True
    return False


def test_the_image_has_all_of_the_repository_but_what_git_ignores():
    for path in ("data/emoji/a.webp", "output/run/last.pt", ".venv/bin/python", "core/__pycache__/a.pyc", ".git/HEAD"):
        assert is_left_out(path), path
    for path in (
        "data/emoji.zip",
        "data/emoji_names.csv",
        "tests/conftest.py",
        ".github/workflows/tests.yml",
        "Dockerfile",
    ):
        assert not is_left_out(path), path
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in ignored if not is_left_out(line)] == []


def test_the_image_is_built_of_files_that_are_there():
    words = instructions()
    assert [rest.split(" AS ")[1] for _, word, rest in words if word == "FROM"] == ["base", "test", "app"]
    for _, word, rest in words:
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() and not is_left_out(source) for source in sources)
        if word == "RUN":
            assert all((ROOT / file).is_file() for file in re.findall(r"-r (requirements[\w./]*\.txt)", rest))
            assert set(re.findall(r"(?:^|&& )make ([a-z_]+)", rest)) <= MAKE_TARGETS
        if word == "CMD":
            command = json.loads(rest)
            assert command[0] == "make" or (ROOT / command[1]).is_file()
    [extras] = [rest for _, word, rest in words if word == "ARG" and rest.startswith("EXTRAS=")]
    assert all((ROOT / "requirements" / f"{name}.txt").is_file() for name in extras.split("=")[1].strip('"').split())


@pytest.mark.parametrize("name", ["test", "app"])
def test_the_image_does_not_run_as_root(name):
    users = [rest for word, rest in stage_of(name) if word == "USER"]
    assert users[-1] == "${UID}"
    assert sum(word == "RUN" for word, _ in stage_of(name)) <= 4  # each is a layer


def test_arguments_of_the_image_are_those_of_its_page():
    declared = {rest.split("=")[0] for _, word, rest in instructions() if word == "ARG"}
    page = (ROOT / "docs" / "docker.md").read_text()
    assert declared == set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    header = (ROOT / "Dockerfile").read_text().split("\nARG")[0]
    assert all(re.search(rf"^#.*\b{name}\b", header, flags=re.MULTILINE) for name in declared)


CONTAINER_COMMANDS = [
    words[words.index("python") + 1 :]
    for words in commands((ROOT / "docs" / "docker.md").read_text())
    if words[:2] == ["docker", "run"] and "python" in words
]


@pytest.mark.parametrize("words", CONTAINER_COMMANDS, ids=" ".join)
def test_commands_for_the_image_parse(words):
    parse_words([word.replace("/photos", "photos") for word in words])


def copied_sources(rest):
    """The sources of a COPY, and where they go."""
    *sources, target = [part for part in rest.split() if not part.startswith("--")]
    return sources, target


@pytest.fixture
def stand_ins(tmp_path):
    """A folder of programs that RUN calls: each says what it was called with, in calls.txt; pip looks without fetching.

    An environment is not made anew, what is installed here is looked at: --no-deps, since torch's own needs differ from
    build to build.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls.txt"
    pip = f"{sys.executable} -m pip install --dry-run --quiet --no-index --no-deps"
    for name in ("useradd", "install", "apt-get", "rm"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n')
    (folder / "python").write_text(
        f'#!/bin/sh\necho python "$@" >> {calls}\n'
        f'case "$1 $2 $3" in\n"-m venv "*) ;;\n'
        f'"-m pip install") shift 3; exec {pip} "$@" ;;\n'
        f'*) exec {sys.executable} "$@" ;;\nesac\n'
    )
    for file in folder.iterdir():
        file.chmod(0o755)
    return folder, calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test", "app"])
def test_steps_of_the_image_in_a_folder(name, tmp_path, stand_ins):
    """Every step of a stage in its order, in a folder with what COPY has brought until then, less what is left out."""
    app = tmp_path / "app"
    app.mkdir()
    programs, calls = stand_ins
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        **{rest.split("=")[0]: rest.partition("=")[2].strip('"') for word, rest in stage_of(name) if word == "ARG"},
    }
    for word, rest in stage_of(name):
        if word == "COPY":
            sources, target = copied_sources(rest)
            for source in sources:
                for path in [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*")):
                    place = path.relative_to(ROOT)
                    if not path.is_file() or is_left_out(place) or set(place.parts) & {"__pycache__", ".venv"}:
                        continue
                    inside = (
                        app / target / (place.name if (ROOT / source).is_file() else path.relative_to(ROOT / source))
                    )
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, inside)
        if word == "RUN":
            done = subprocess.run(["sh", "-c", rest], cwd=app, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"
        if word == "CMD":
            command = json.loads(rest)
            made = ["make", "--dry-run", *command[1:]] if command[0] == "make" else command
            done = subprocess.run(made, cwd=app, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "python -m pytest" in done.stdout or "--loss_name" in done.stdout
    called = calls.read_text()
    assert "python -m venv /opt/venv" in called and "-r requirements.txt" in called
    assert not (app / ".git").exists() and not (app / "data" / "emoji").exists()
    if name == "app":
        # The line of docker.yml, with few labels to test on.
        [line] = [
            step["run"]
            for step in steps(yaml.safe_load((ROOT / ".github" / "workflows" / "docker.yml").read_text()))
            if "train_elem.py" in step.get("run", "")
        ]
        words = shlex.split(line.split("python ")[1])
        small = ["--val_classes=5", "--image_shape=3,32,32", "--model=ResNet18", "--use_gpu=False"]
        trained = subprocess.run([sys.executable, *words, *small], cwd=app, capture_output=True, text=True)
        assert trained.returncode == 0, trained.stderr
        assert (app / "output" / "result.json").is_file()


def test_nothing_of_the_image_needs_a_library_that_it_lacks():
    """A slim image has no libGL, which OpenCV with windows needs; the one without is asked for, and it alone."""
    files = [ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")]
    asked = {
        line.strip() for file in files for line in file.read_text().splitlines() if "opencv" in line and line[0] != "#"
    }
    assert asked and all(line.startswith("opencv-python-headless") for line in asked)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_of_workflows_are_ones_that_are_there(path):
    """Make targets run dry in a folder of the checkout; docker and python take what is given to them."""
    for step in steps(yaml.safe_load(path.read_text())):
        if "run" not in step:
            continue
        words = shlex.split(re.sub(r"^(?:[A-Z_]+=\S* )+", "", step["run"]))
        if words[0] == "make":
            done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, done.stderr
        elif words[:2] == ["docker", "build"]:
            declared = {rest.split("=")[0] for _, word, rest in instructions() if word == "ARG"}
            given = {words[at + 1].split("=")[0] for at, word in enumerate(words) if word == "--build-arg"}
            targets = {word.split("=")[1] for word in words if word.startswith("--target=")}
            assert given <= declared and targets <= {stage for stage, _, _ in instructions()} and words[-1] == "."
        else:
            assert words[:2] == ["docker", "run"], step["run"]
            if "python" in words:
                parse_words(words[words.index("python") + 1 :])


# Commands of the pages


def parse_words(words):
    """A command line, `train_elem.py --lr=...`, has to be one that its script takes."""
    name, *flags = words
    if name == "reader.py" and flags[0] != "doctor":
        reader._new_parser()[0].parse_args(flags)
        return
    if name == "reader.py":
        parse(flags[2:], DOCTOR, "")
    elif name == "search.py":
        parse(flags[2:], COMMANDS[f"search {flags[0]}"], "")
    elif "--help" not in flags and "--list" not in flags and "--list_models" not in flags:
        parse(flags, COMMANDS[name.removesuffix(".py")], "")


SKILL_COMMANDS = [words[1:] for words in commands(SKILL.read_text()) if words[0] == "python"]


def test_the_skill_has_the_form_of_one():
    """A folder of the skill's name, and a front matter that says when to use it, short enough to be always in view."""
    _, head, body = SKILL.read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["name"] == SKILL.parent.name and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", facts["name"])
    assert 100 < len(facts["description"]) <= 1024 and facts["license"] == "Apache-2.0"
    assert len(body.splitlines()) < 500


@pytest.mark.parametrize("words", [words for words in SKILL_COMMANDS if words[0] != "-m"], ids=" ".join)
def test_commands_of_the_skill_parse(words, monkeypatch):
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    parse_words(words)


def test_symptoms_are_sentences_of_the_code():
    """What the table has in quotes stands in a source file, as it is printed."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name != "tests"]
    sources = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    text = "\n".join(path.read_text() for path in sources)
    # A sentence may be written in two pieces.
    text = re.sub(r'"\s*\n\s*f?"', "", text)
    rows = SKILL.read_text().split("## Symptoms and cures")[1].split("\n## ")[0]
    quoted = re.findall(r'^\| "(.*?)"', rows, flags=re.MULTILINE)
    assert len(quoted) > 10
    assert [sentence for sentence in quoted if sentence not in text] == []


@pytest.mark.parametrize(
    "path", [SKILL, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "docker.md"], ids=lambda path: path.name
)
def test_flags_that_are_named_exist(path):
    known = {"--help", "--list", "--list_models", "--config", "--logdir", "--against", "--fixes"}
    for command in (*COMMANDS.values(), DOCTOR):
        for section in command.sections:
            known |= {f"--{flag.name}" for home in section.homes for flag in flags_of(home)}
    known |= {f"--{option.name}" for name in LOSSES.names() for option in LOSSES.options(name)}
    of_docker = {"--gpus", "--shm-size", "--volume"}
    assert set(re.findall(r"`(--[a-z][\w-]+)", path.read_text())) - known - of_docker == set()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with photos/LABEL/picture.png, 12 labels of four, in which the process stands."""
    rng = np.random.default_rng(0)
    for label in range(12):
        folder = tmp_path / "photos" / f"thing_{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for number in range(4):
            picture = np.full((64, 64, 3), 240, np.uint8)
            x, y = rng.integers(8, 24, 2).tolist()
            cv2.rectangle(picture, (x, y), (x + 20 + 2 * label, y + 32), colour.tolist(), -1)
            noise = rng.integers(0, 12, picture.shape).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture - noise)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shrunken(words):
    """The flags that make a command of the skill one of seconds, put behind its own."""
    name, *flags = words
    extra = []
    if name.startswith("train"):
        extra += ["--image_shape=3,64,64"] if "whitening" not in " ".join(flags) else []
        extra += (
            ["--total_iter_num=2", "--train_batch_size=8", "--test_batch_size=8"] if name == "train_elem.py" else []
        )
        extra += ["--val_classes=3"] if any(flag.startswith("--val_classes") for flag in flags) else []
    if name not in ("reader.py", "search.py") or flags[0] in ("build", "find", "doctor"):
        extra.append("--num_workers=0")
    return [*flags, *extra]


@pytest.mark.slow
def test_commands_of_the_skill_run(photos, capsys):
    """In their order, with few steps, on drawings; what each leaves is what the next one takes."""
    pytest.importorskip("timm", reason="EfficientNetLite0 needs requirements/demo.txt")
    for words in SKILL_COMMANDS:
        if words[0] == "-m" or "--list" in words or "--list_models" in words:
            continue
        if "--export=onnx" in words and importlib.util.find_spec("onnxruntime") is None:
            continue
        name = words[0].removesuffix(".py")
        flags = shrunken(words)
        if words[:2] == ["reader.py", "doctor"]:
            name, flags = "doctor", flags[1:]
        try:
            importlib.import_module(name).main(flags)
        except SystemExit as ended:
            assert not ended.code, words
    for file in (
        "photos/list.csv",
        "photos/clean.csv",
        "output/doctor/fixes.csv",
        "output/first/last.pt",
        "output/second/model.safetensors",
        "output/report.html",
        "output/neighbours.png",
        "output/photos.npz",
        "output/hits.json",
    ):
        assert (photos / file).is_file(), file
    printed = capsys.readouterr().out
    assert len(re.findall(r"Recall@1", printed)) >= 3


# The story of a change


def apply_diff(root, text):
    """Change a file of `root` as a diff of CONTRIBUTING.md says; its places are found by lines, not by numbers."""
    header, *hunks = re.split(r"^@@\n", text, flags=re.MULTILINE)
    path = root / re.search(r"^\+\+\+ b/(.*)$", header, flags=re.MULTILINE)[1]
    content = path.read_text()
    for hunk in hunks:
        lines = [line or " " for line in hunk.splitlines()]
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert f"\n{content}".count(f"\n{before}") == 1, f"{path.name} has not just one place that reads\n{before}"
        content = f"\n{content}".replace(f"\n{before}", f"\n{after}").removeprefix("\n")
    path.write_text(content)


def change_of_the_story(root):
    """Make the change that CONTRIBUTING.md tells of in a copy of the repository."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for language in ("python", "yaml"):
        for title, content in blocks(text, language):
            assert title and not (root / title).exists()
            (root / title).write_text(content)
    for _, content in blocks(text, "diff"):
        apply_diff(root, content)


@pytest.fixture
def copied(tmp_path):
    """A copy of the repository, its embedded set a link."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return root


def test_the_story_changes_what_is_there(copied):
    change_of_the_story(copied)
    loss = (copied / "losses" / "uniformity.py").read_text()
    assert all(len(line) <= 120 for line in loss.splitlines())
    assert "uniformity" in json.loads((copied / "tests" / "data" / "flags.json").read_text())["train_pair"]["loss_name"]
    for file in ("losses/uniformity.py", "losses/__init__.py", "tests/oracles_dense.py"):
        compile((copied / file).read_text(), file, "exec")
    for words in commands((ROOT / "CONTRIBUTING.md").read_text()):
        if words[0] == "make":
            assert words[1] in MAKE_TARGETS


@pytest.mark.slow
def test_the_story_of_a_change_runs(copied):
    pytest.importorskip("timm", reason="EfficientNetLite0 needs requirements/demo.txt")
    (copied / "data" / "emoji").symlink_to(embedded_data())
    change_of_the_story(copied)
    for words in commands((ROOT / "CONTRIBUTING.md").read_text()):
        if words[0] != "python":
            continue
        small = []
        if any(word.startswith("--config") for word in words):
            small = ["--val_classes=5", "--total_iter_num=2", "--train_batch_size=8", "--image_shape=3,32,32"]
        done = subprocess.run([sys.executable, *words[1:], *small], cwd=copied, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        if words[1:3] == ["-m", "pytest"]:
            passed = int(re.search(r"(\d+) passed", done.stdout)[1])
            assert passed > 1, done.stdout
        if "--help" in words:
            assert "--uniform_weight" in done.stdout
    assert (copied / "output" / "uniformity" / "seed0" / "result.json").is_file()
