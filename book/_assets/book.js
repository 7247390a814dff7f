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
