// Font Awesome would replace <i> elements by drawings, which breaks buttons that hold one.
window.FontAwesomeConfig = { autoReplaceSvg: false };
// Accessibility: a summary's text is its name; the sidebar is a landmark; a wide output can be scrolled by keyboard.
document.addEventListener('DOMContentLoaded', function () {
  document.querySelectorAll('details > summary[aria-label]').forEach(function (summary) {
    summary.removeAttribute('aria-label');
  });
  var sidebar = document.getElementById('pst-primary-sidebar');
  if (sidebar) {
    sidebar.setAttribute('role', 'complementary');
    sidebar.setAttribute('aria-label', 'Book');
  }
});

// A click anywhere on the title of a box that folds, on a link or a formula in it too, unfolds the box.
document.addEventListener('click', function (event) {
  var title = event.target.closest('.admonition.dropdown > .admonition-title');
  if (!title || event.target === title || event.target.closest('.toggle-button')) return;
  event.preventDefault();
  event.stopPropagation();
  title.click();
}, true);

// The cell that made a figure may be folded: it unfolds when it is asked for.
function unfold() {
  var cell = /^#cell-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
  if (!cell) return;
  cell.querySelectorAll('details').forEach(function (details) { details.open = true; });
  cell.scrollIntoView();
}
window.addEventListener('hashchange', unfold);

// What is wider than its box scrolls inside it, and can then be reached by keyboard.
function fit() {
  document.querySelectorAll('.bd-content span.math mjx-container').forEach(function (formula) {
    formula.classList.remove('wide');
    var room = formula.closest('p, li, td, th, dd, figcaption, h1, h2, h3, h4, div');
    if (room && formula.getBoundingClientRect().width > room.clientWidth) formula.classList.add('wide');
  });
  var boxes = '.bd-content :is(pre, mjx-container, .results, .text_html, .pst-scrollable-table-container)';
  document.querySelectorAll(boxes).forEach(function (box) {
    if (getComputedStyle(box).overflowX !== 'auto') return;
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    more(box);
    if (!box.dataset.fits) box.addEventListener('scroll', function () { more(box); }, { passive: true });
    box.dataset.fits = 'yes';
  });
}
// The right edge fades while there is more.
function more(box) {
  box.classList.toggle('more', box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
}
window.addEventListener('load', function () {
  unfold();
  var ready = window.MathJax && MathJax.startup && MathJax.startup.promise;
  Promise.resolve(ready).then(fit);
  window.addEventListener('resize', fit);
});
