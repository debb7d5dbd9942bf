"""The docs site: `make docs` builds it without a network, complete, with no link that leads nowhere."""

import html
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

import minigam

for package in ("mkdocs", "material", "latex2mathml"):
    if find_spec(package) is None:
        pytest.skip(f"needs {package} (the group `docs`)", allow_module_level=True)

ROOT = Path(__file__).parents[1]
NO_NETWORK = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"{event}: this build has no network")
sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site in processes that cannot open a connection; return its folder."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, ROOT / "docs" / "site" / "build.py", folder]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[str, str]:
    """Return the HTML of every page by its path in the site."""
    return {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in site.rglob("*.html")}


def article(page: str) -> str:
    """Return the part of a page that is its text."""
    return re.search(r'<article class="md-content__inner[^>]*>(.*?)</article>', page, re.S)[1]


def test_a_connection_would_be_refused(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "this build has no network" in done.stderr


def test_there_is_a_page_for_each_notebook_module_and_document(pages):
    wanted = {f"notebooks/{p.stem}.html" for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert len(wanted) >= 17
    modules = {name for name in minigam.__all__ if isinstance(getattr(minigam, name), type(minigam))}
    wanted |= {f"api/{name}.html" for name in modules | {"index", "minigam"}}
    wanted |= {f"docs/{p.stem}.html" for p in (ROOT / "docs").glob("*.md")}
    wanted |= {"index.html", "explain.html", "explain-gam.html", "paper/paper.html"}
    assert wanted - set(pages) == set()


def test_every_public_name_is_in_the_reference(pages):
    missing = []
    for name in minigam.__all__:
        value = getattr(minigam, name)
        if (
            not isinstance(value, type(minigam))
            and f'<h2 id="{name.lower()}">' not in pages["api/minigam.html"]
        ):
            missing.append(name)
    assert missing == []
    assert '<h2 id="softmax">' in pages["api/ops.html"]
    assert "a = softmax(s) over the S slots" in html.unescape(pages["api/sequence.html"])


def test_no_page_asks_another_site(pages):
    asked = re.compile(
        r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//|<link[^>]*\shref="(?:https?:)?//'
    )
    assert [name for name, page in pages.items() if asked.search(page)] == []
    assert asked.search('<script src="https://unpkg.com/x"></script>')


def test_formulas_are_drawn(pages):
    assert sum(page.count("<math ") for page in pages.values()) > 1000
    assert [name for name, page in pages.items() if 'class="arithmatex"' in page] == []
    assert [name for name, page in pages.items() if re.search(r"<m[ion][^>]*>\\", page)] == []


def test_links_lead_somewhere(site, pages):
    """MkDocs checks those in Markdown; here are also those in HTML, and the places within a page."""
    places = {name: set(re.findall(r'\sid="?([^"\s>]+)', page)) for name, page in pages.items()}
    lost = []
    for name, page in pages.items():
        if name in ("404.html", "explain-gam.html"):
            continue
        for link in set(re.findall(r'\s(?:href|src)="([^"]*)"', page)):
            path, _, anchor = html.unescape(link).partition("#")
            if re.match(r"\w+:", path):
                continue
            target = os.path.normpath((Path(name).parent / unquote(path.partition("?")[0])) if path else name)
            if not (site / target).exists() or (anchor and unquote(anchor) not in places.get(target, {""})):
                lost.append((name, link))
    assert lost == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/trust.md", "docs/results.md"])
def test_a_document_has_the_lists_and_tables_that_github_shows(pages, name):
    markdown_it = pytest.importorskip("markdown_it", reason="needs markdown-it-py (the group `test`)")
    markdown = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    ours = article(pages[name.replace("README", "index").replace(".md", ".html")])
    theirs = markdown.render((ROOT / name).read_text(encoding="utf-8"))
    for tag in ("li", "ol", "table", "tr", "h2", "blockquote", "pre", "img"):
        assert len(re.findall(rf"<{tag}\b", ours)) == len(re.findall(rf"<{tag}\b", theirs)), tag


def test_pictures_have_descriptions(pages):
    described = re.compile(r'<img[^>]*\salt="[^"]+"')
    for name, page in pages.items():
        for picture in re.findall(r"<img\b[^>]*>", article(page) if "md-content__inner" in page else ""):
            assert described.match(picture), (name, picture)


LOOKED_AT = ("index.html", "notebooks/05_associative_memory.html", "notebooks/11_selective_scan_by_hand.html",
             "api/sequence.html", "docs/results.html", "docs/commands.html", "explain.html")  # fmt: skip


def test_nothing_is_wider_than_a_phone_and_nothing_is_asked_for(site, browser):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    for name in LOOKED_AT:
        browser.get((site / name).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, name
    assert browser.get_log("browser") == []


def test_the_search_works_in_a_folder(site, browser):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get((site / "docs" / "results.html").as_uri() + "?q=dropout")
    found = "return document.querySelectorAll('.md-search-result__link').length"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(found) > 3)
