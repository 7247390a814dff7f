"""The built site: its files ask no other host for anything, and a real browser, cut off from the network, finds it
whole.

Needs `make book` first, and Chromium: on the path, or named by the variable CHROMIUM.
"""

from __future__ import annotations

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import launched

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)
CHAPTERS = [page for page in PAGES if "/" in page and not page.startswith("back/")]  # those with exercises
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
    with launched() as opened:
        yield opened


@pytest.fixture
def visit(base, browser):
    """Open a page with every other host blocked; return it with what it asked for and what it complained about."""
    opened = []

    def open_page(page, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 1400}, **options)
        context.set_default_timeout(120_000)
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
        tab.evaluate("document.fonts.ready.then(() => null)")
        if tab.locator(".math").count():
            tab.wait_for_selector("mjx-container")
            tab.evaluate("MathJax.startup.promise.then(() => null)")
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
        assert tab.locator("mjx-container").count() >= max(1, tab.locator("div.math").count())
    broken = tab.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
    assert broken == []
    assert tab.evaluate("[...document.images].filter(i => !i.alt).length") == 0


# What stands out of the page's text, or is cut off in it; what lies in a box that scrolls may be wider.
STANDS_OUT = """() => {
    const article = document.querySelector('.bd-article'), found = [];
    if (!article) return found;
    const style = getComputedStyle(article), around = article.getBoundingClientRect();
    const left = around.left + parseFloat(style.paddingLeft), right = around.right - parseFloat(style.paddingRight);
    const hidden = '.toggle-hidden > :not(.admonition-title), details:not([open]) > :not(summary), .headerlink, svg';
    for (const element of article.querySelectorAll('*')) {
        const box = element.getBoundingClientRect();
        if (!box.width || !box.height || element.closest(hidden + ', mjx-assistive-mml')) continue;
        let [from, to] = [left, right], scrolls = false;
        for (let outer = element.parentElement; outer !== article && !scrolls; outer = outer.parentElement) {
            const overflow = getComputedStyle(outer).overflowX, bounds = outer.getBoundingClientRect();
            scrolls = overflow === 'auto' || overflow === 'scroll';
            if (overflow === 'hidden') [from, to] = [Math.max(from, bounds.left), Math.min(to, bounds.right)];
        }
        if (!scrolls && (box.right > to + 1 || box.left < from - 1)) {
            const words = element.textContent.trim().slice(0, 40);
            found.push(`${element.tagName} ${element.className} ${words}: ${box.left} to ${box.right}`);
        }
    }
    return found;
}"""
FORMULAS = """() => [...document.querySelectorAll('div.math mjx-container')].filter(formula => {
    const inner = formula.querySelector('mjx-math').getBoundingClientRect();
    return inner.width > formula.getBoundingClientRect().width + 1;
}).map(formula => formula.closest('div.math').id + ' ' + formula.querySelector('math').textContent.slice(0, 60))"""


SLEEPS = """() => [...document.querySelectorAll(
        '.bd-article :is(pre, .results, .text_html, .pst-scrollable-table-container, mjx-container)')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1 && !e.closest('.toggle-hidden'))
    .map(e => [e, getComputedStyle(e).overflowX])
    .filter(([e, overflow]) => overflow === 'hidden' || overflow === 'auto' && e.tabIndex < 0)
    .map(([e]) => e.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("width", [1280, 390])
@each_page
def test_nothing_is_wider_than_the_page(visit, page, width):
    """On a laptop all is whole; on a phone, what is long scrolls in a box of its own, by keyboard too."""
    tab, _, _ = visit(page, width)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(STANDS_OUT) == []
    assert tab.evaluate(SLEEPS) == []
    if width == 1280:
        wide = "e => e.scrollWidth > e.clientWidth + 1"
        boxes = "div.cell pre, div.results, .text_html, .pst-scrollable-table-container"
        assert tab.evaluate(f"[...document.querySelectorAll('{boxes}')].filter({wide}).map(e => e.innerText)") == []
        assert tab.evaluate(FORMULAS) == []


FIGURES = """() => [...document.querySelectorAll('.cell_output :is(img, .scrub)')].filter(e => !e.closest('.scrub img'))
    .map(e => [e, e.closest('figure')])
    .map(([e, figure]) => ({
        words: e.alt || e.getAttribute('aria-label'),
        caption: figure?.querySelector('figcaption .caption-text')?.textContent,
        made: figure?.querySelector('.made-by')?.textContent,
        links: [...(figure?.querySelectorAll('.made-by a') || [])].map(a => a.getAttribute('href'))}))"""


@each_page
def test_every_figure_has_words_and_says_where_it_comes_from(visit, page):
    tab, _, _ = visit(page)
    for figure in tab.evaluate(FIGURES):
        assert len(figure["words"] or "") > 30, figure
        assert len(figure["caption"] or "") > 20, figure
        assert figure["made"].strip().startswith("fig:")
        png, cell = figure["links"]
        assert ((SITE / page).parent / png).read_bytes().startswith(b"\x89PNG")
        assert tab.locator(cell).count() == 1
    look = "e => { const s = getComputedStyle(e); return [s.color, s.fontWeight, s.fontSize]; }"
    text = tab.evaluate(f"[...document.querySelectorAll('.bd-article section > p')].slice(0, 1).map({look})")
    for caption in tab.evaluate(f"[...document.querySelectorAll('figcaption .caption-text')].map({look})"):
        assert caption == text[0], "as dark and as heavy as the text"
    sliders = tab.evaluate("[...document.querySelectorAll('.scrub input')].map(e => +e.value)")
    assert not any(sliders), "a slider opens on its first frame"


def test_the_link_to_a_folded_cell_unfolds_it(visit):
    tab, _, _ = visit("index.html")
    code = tab.locator("div.cell.tag_hide-input div.highlight").first
    assert not code.is_visible()
    tab.locator(".made-by a", has_text="its cell").first.click()
    code.wait_for(state="visible")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
@each_page
def test_accessible(visit, page, scheme, width):
    tab, _, _ = visit(page, width, color_scheme=scheme)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(tab, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    if page == "bibliography.html":  # the citations' roles are those of docutils
        found = [v for v in found if not v["id"].startswith("aria-")]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []


@each_chapter
def test_a_solution_is_hidden_and_its_title_unfolds_it(visit, page):
    tab, _, _ = visit(page, 390)
    solution = tab.locator(".solution.dropdown").first
    inside = solution.locator("div.highlight").first
    assert not inside.is_visible()
    solution.locator("button").first.click()
    inside.wait_for(state="visible")
    solution.locator(".admonition-title a").first.click()  # it would lead to the exercise
    inside.wait_for(state="hidden")
    solution.locator(".admonition-title a").first.press("Enter")
    inside.wait_for(state="visible")
    assert tab.evaluate("location.hash") == ""


@each_chapter
def test_a_page_on_paper(visit, page):
    tab, _, _ = visit(page)
    tab.emulate_media(media="print")
    for gone in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".solution", "button"):
        assert tab.evaluate(f"[...document.querySelectorAll('{gone}')].filter(e => e.offsetHeight > 0).length") == 0, (
            gone
        )
    assert tab.locator(".exercise").first.is_visible()
    answers = tab.locator(".admonition.dropdown:not(.solution) > :not(.admonition-title)")
    assert not any(answer.is_visible() for answer in answers.all())
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not any(answer.is_visible() for answer in answers.all())
    cut = "e => getComputedStyle(e).breakInside !== 'avoid'"
    assert tab.evaluate(f"[...document.querySelectorAll('div.cell_input, pre')].filter({cut}).length") == 0
    assert tab.evaluate("[...document.querySelectorAll('.bd-article > section > p')].every(p => p.offsetWidth > 1000)")


def state(tab):
    return tab.evaluate(
        """() => { const r = document.querySelector('.scrub'), i = r.querySelector('img');
        return {picture: i.src, alt: i.alt, label: r.querySelector('output').textContent,
                value: +r.querySelector('input').value, max: +r.querySelector('input').max,
                button: r.querySelector('button').textContent, width: i.naturalWidth}; }"""
    )


def test_scrubber_by_keyboard_mouse_and_play(visit):
    tab, _, complaints = visit("index.html")
    slider = tab.locator(".scrub input[type=range]")
    first = state(tab)
    assert first["value"] == 0
    assert first["max"] >= 20
    assert tab.locator(".scrub small").count() == 0, "the script is awake"
    slider.focus()
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    moved = state(tab)
    assert moved["value"] == 5
    assert moved["picture"] != first["picture"]
    assert moved["label"] != first["label"]
    assert moved["alt"].endswith(moved["label"])
    tab.keyboard.press("End")
    assert state(tab)["value"] == first["max"]
    tab.keyboard.press("Home")
    assert state(tab)["value"] == 0
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2)
    clicked = state(tab)["value"]
    assert 0.4 * first["max"] < clicked < 0.8 * first["max"]
    button = tab.locator(".scrub button")
    button.click()
    assert state(tab)["button"] == "Pause"
    tab.wait_for_function("v => +document.querySelector('.scrub input').value > v", arg=clicked)
    button.click()
    assert state(tab)["button"] == "Play"
    assert complaints == []


@pytest.mark.parametrize(("width", "least"), [(1920, 650), (1280, 600), (390, 330)])
def test_scrubber_is_as_large_as_the_page_allows(visit, width, least):
    tab, _, _ = visit("index.html", width)
    assert tab.locator(".scrub img").bounding_box()["width"] >= least


def test_downloads_of_both_twins(visit, base):
    tab, _, _ = visit("foundations/perceptron.html")
    offered = tab.evaluate("[...document.querySelectorAll('a[href*=_sources]')].map(a => a.href)")
    assert {link.rsplit(".", 1)[1] for link in offered} == {"ipynb", "md"}
    for link in offered:
        assert (SITE / link.removeprefix(base)).stat().st_size > 1000
