"""The built site: its files ask no other host for anything, and a real browser, cut off from the network, finds it
whole.

Needs `make book` first, and Chromium: on the path, or named by the variable CHROMIUM.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)
CHAPTERS = [page for page in PAGES if "/" in page]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
each_page = pytest.mark.parametrize("page", PAGES)
each_chapter = pytest.mark.parametrize("page", CHAPTERS)


def test_the_site_is_built():
    assert "index.html" in PAGES, "make book first"
    assert len(CHAPTERS) >= 4


@each_page
def test_no_file_loads_anything_from_elsewhere(page):
    text = (SITE / page).read_text()
    loads = re.findall(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"'](?:https?:)?//[^\"']+", text)
    loads += re.findall(
        r"<link\b(?=[^>]*rel=[\"'](?:stylesheet|preload|icon))[^>]*href=[\"'](?:https?:)?//[^\"']+", text
    )
    loads += re.findall(r"@import\s+url\([\"']?https?:[^)]+", text)
    assert loads == []
    assert not re.search(r"unpkg|jsdelivr|cdnjs|googleapis", re.sub(r"<a\b[^>]*>", "", text))


def test_no_stylesheet_loads_anything_from_elsewhere():
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import\s+[\"']https?:", sheet.read_text(errors="ignore")), (
            sheet
        )


@each_page
def test_every_local_link_leads_somewhere(page):
    text = (SITE / page).read_text()
    for target in set(re.findall(r"<a\b[^>]*href=\"([^\"#?]+)", text)):
        if not re.match(r"[a-z]+:", target):
            assert ((SITE / page).parent / target).exists(), target


@pytest.fixture(scope="session")
def base():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium on the path; name one by the variable CHROMIUM"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def visit(base, browser):
    """Open a page with every other host blocked; return it with what it asked for and what it complained about."""
    opened = []

    def open_page(page, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 1400}, **options)
        tab = context.new_page()
        opened.append(context)
        asked, complaints = [], []

        def route(request):
            if request.request.url.startswith((base, "data:", "blob:")):
                request.continue_()
            else:
                asked.append(request.request.url)
                request.abort()

        context.route("**/*", route)
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        tab.goto(base + page)
        tab.wait_for_load_state("networkidle")
        if tab.locator(".math").count():
            tab.wait_for_selector("mjx-container")
        return tab, asked, complaints

    yield open_page
    for context in opened:
        context.close()


@each_page
def test_a_page_is_whole_without_a_network(visit, page):
    tab, asked, complaints = visit(page)
    assert asked == []
    assert complaints == []
    assert tab.locator("h1").count() >= 1
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0
    if tab.locator(".math").count():
        assert tab.locator("mjx-container").count() >= tab.locator("div.math").count() > 0 or "notation" in page
    broken = tab.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
    assert broken == []
    assert tab.evaluate("[...document.images].filter(i => !i.alt).length") == 0


@each_page
def test_nothing_scrolls_sideways(visit, page):
    tab, _, _ = visit(page)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = tab.evaluate(
        "[...document.querySelectorAll('div.cell pre')].filter(p => p.scrollWidth > p.clientWidth + 1)"
        ".map(p => p.innerText)"
    )
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_page
def test_accessible(visit, page, scheme):
    tab, _, _ = visit(page, color_scheme=scheme)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(tab, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    if page == "bibliography.html":  # the citations' roles are those of docutils
        found = [v for v in found if not v["id"].startswith("aria-")]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []


@each_chapter
def test_solutions_are_hidden_and_open_on_a_click(visit, page):
    tab, _, _ = visit(page)
    solution = tab.locator(".solution.dropdown").first
    inside = solution.locator("div.highlight").first
    assert not inside.is_visible()
    solution.locator("button, summary").first.click()
    inside.wait_for(state="visible")


def state(tab):
    return tab.evaluate(
        """() => { const r = document.querySelector('.scrub'), i = r.querySelector('img');
        return {picture: i.src, alt: i.alt, label: r.querySelector('output').textContent,
                value: +r.querySelector('input').value, max: +r.querySelector('input').max,
                button: r.querySelector('button').textContent, width: i.naturalWidth}; }"""
    )


def test_scrubber_by_keyboard_mouse_and_play(visit):
    tab, _, complaints = visit("foundations/deep-leakage.html")
    slider = tab.locator(".scrub input[type=range]")
    last = state(tab)
    assert last["value"] == last["max"] >= 20, "it opens on its last frame"
    slider.focus()
    for _ in range(5):
        tab.keyboard.press("ArrowLeft")
    moved = state(tab)
    assert moved["value"] == last["value"] - 5
    assert moved["picture"] != last["picture"]
    assert moved["label"] != last["label"]
    assert moved["alt"].endswith(moved["label"])
    tab.keyboard.press("Home")
    assert state(tab)["value"] == 0
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2)
    clicked = state(tab)["value"]
    assert 0.4 * last["max"] < clicked < 0.8 * last["max"]
    button = tab.locator(".scrub button")
    button.click()
    assert state(tab)["button"] == "Pause"
    tab.wait_for_function("v => +document.querySelector('.scrub input').value > v", arg=clicked)
    button.click()
    assert state(tab)["button"] == "Play"
    assert complaints == []


def test_downloads_of_both_twins(visit, base):
    tab, _, _ = visit("foundations/perceptron.html")
    offered = tab.evaluate("[...document.querySelectorAll('a[href*=_sources]')].map(a => a.href)")
    assert {link.rsplit(".", 1)[1] for link in offered} == {"ipynb", "md"}
    for link in offered:
        assert (SITE / link.removeprefix(base)).stat().st_size > 1000
