/* JupyterLab as this book's reader: written by hand, in the form in which JupyterLab loads extensions.
 *
 * jupyterlab-myst renders a chapter's text. It reads no bibliography and no other chapter, so that citations and
 * references are keys; it shows no captions, and leaves solutions open. This puts what is missing into the tree that it
 * renders (never into the notebook, which stays as it is). book.json, which tools/lab.py writes, knows the labels.
 */
(function () {
  'use strict';
  const here = document.currentScript.src.replace(/remoteEntry.*$/, '');
  const style = `
    .gilearn-caption { margin: 0 0 1em 70px; color: var(--jp-content-font-color1); max-width: 46em; }
    .gilearn-caption b { margin-right: .4em; }
    .gilearn-stop { display: inline-block !important; }
    .gilearn-solution.gilearn-folded > .jp-Cell-outputWrapper { display: none; }
    .jp-MarkdownCell .math-display, .jp-MarkdownCell .katex-display { overflow-x: auto; overflow-y: hidden; }`;
  let shared, book, patched = false;

  async function use(name) {
    const versions = Object.values(shared[name]);
    return (await versions[0].get())();
  }

  // The tree of one cell.

  function rewrite(node, references) {
    if (node.type === 'cite' && book.citations[node.label]) {
      const source = book.citations[node.label];
      node.error = false;
      node.children = [{ type: 'text', value: source[node.kind] || source.narrative }];
      references.cite.data[node.label] = { html: source.html, url: source.url || undefined };
    } else if (node.type === 'crossReference' && book.references[node.label]) {
      const target = book.references[node.label];
      const given = node.kind !== 'numref' && node.kind !== 'eq' && node.title !== true && node.children
        && !node.html_id && node.children.length ? node.children : null;
      node.type = 'link';
      node.internal = true;
      node.class = 'gilearn-go';
      node.url = `#${target.file}@${node.label}`;
      node.children = given || [{ type: 'text', value: target.text }];
    } else if (node.type === 'math' && book.references[node.label]) {
      node.enumerator = book.references[node.label].text.slice(1, -1);
    } else if (node.children) {
      if (node.children.some((child) => child.gate)) node.children = gathered(node.children);
      node.children.forEach((child) => rewrite(child, references));
    }
  }

  // Between {exercise-start} and {exercise-end}: a box; between {solution-start} and {solution-end}: one that unfolds.
  function gathered(nodes) {
    let made = [], open = null;
    for (const node of nodes) {
      if (node.gate === 'start') {
        open = { ...node, children: [...(node.children || [])] };
        delete open.gate;
        if (open.type === 'solution') open.children = [{ type: 'admonitionTitle', children: [{ type: 'text', value: 'Solution' }] }];
        made.push(open);
      } else if (node.gate === 'end') {
        if (!open && node.type === 'solution' && made.length)  // it began in a cell above
          made = [{ type: 'solution', class: 'dropdown', children: [
            { type: 'admonitionTitle', children: [{ type: 'text', value: 'Solution, continued' }] }, ...made] }];
        open = null;
      } else (open ? open.children : made).push(node);
    }
    return made;
  }

  function patch(model) {
    const prototype = Object.getPrototypeOf(model);
    const { get, set } = Object.getOwnPropertyDescriptor(prototype, 'mdast');
    Object.defineProperty(prototype, 'mdast', {
      configurable: true,
      get,
      set(tree) {
        try {
          if (tree) rewrite(tree, this.references || { cite: { data: {} } });
        } catch (error) { console.warn('gilearn-book', error); }
        set.call(this, tree);
      },
    });
    patched = true;
  }

  // The cells of one notebook.

  function caption(cell) {
    const figure = (cell.model.getMetadata('mystnb') || {}).figure;
    if (!figure || !figure.caption) return;
    let shown = cell.node.querySelector(':scope > .gilearn-caption');
    if (!shown) {
      shown = document.createElement('p');
      shown.className = 'gilearn-caption';
      cell.node.append(shown);
    }
    const words = figure.caption.replace(/\s+/g, ' ')
      .replace(/\{\w+\}`(?:([^`<]*)<)?([^`>]+)>?`/g, (all, text, label) => (text || '').trim() || (book.references[label] || { text: label }).text)
      .replace(/\{cite:(\w)\}`([^`]+)`/g, (all, kind, key) => (book.citations[key] || { narrative: key }).narrative)
      .replace(/\$([^$]+)\$/g, (all, tex) => tex.replace(/\\(\w+)/g, (name, word) => ({ delta: 'δ', times: '×', sigma: 'σ' })[word] || word));
    const number = document.createElement('b');
    number.textContent = (book.references[figure.name] || { text: '' }).text;
    shown.replaceChildren(number, words);
  }

  function fold(cell) {
    if (!(cell.model.getMetadata('tags') || []).includes('solution')) return;
    cell.node.classList.add('gilearn-solution');
    const follow = () => cell.node.classList.toggle('gilearn-folded', cell.inputHidden);
    follow();
    if (cell.gilearn) return;
    cell.gilearn = true;
    cell.model.metadataChanged.connect(follow);
    new MutationObserver(follow).observe(cell.node, { childList: true, subtree: true });
  }

  function dress(panel) {
    for (const cell of panel.content.widgets) {
      if (cell.model.type === 'code') { caption(cell); fold(cell); }
      else if (cell.mystModel && !patched) {
        patch(cell.mystModel);
        for (const other of panel.content.widgets)
          if (other.mystModel && other.mystModel.mdast) other.mystModel.mdast = other.mystModel.mdast;
      }
    }
  }

  async function follow(panel) {
    await panel.context.ready;
    dress(panel);
    let waiting = null;
    panel.content.model.cells.changed.connect(() => {
      clearTimeout(waiting);
      waiting = setTimeout(() => dress(panel), 200);
    });
  }

  // Where a label stands: at a figure's cell, or in the text.
  function place(panel, label) {
    const stands = [`(${label})=`, `$$ (${label})`, `:label: ${label}\n`];
    return panel.content.widgets.findIndex((cell) => cell.model.type === 'code'
      ? ((cell.model.getMetadata('mystnb') || {}).figure || {}).name === label
      : stands.some((mark) => cell.model.sharedModel.getSource().includes(mark)));
  }

  async function go(app, tracker, hash) {
    const [path, label] = decodeURIComponent(hash).slice(2).split('@');
    const stem = (name) => name.replace(/\.\w+$/, '');
    let panel = tracker.currentWidget;
    if (!panel || stem(panel.context.path) !== stem(path)) panel = await app.commands.execute('docmanager:open', { path });
    if (!panel || !panel.content.widgets) return;
    await panel.context.ready;
    const index = place(panel, label);
    if (index < 0) return;
    panel.content.activeCellIndex = index;
    await panel.content.scrollToItem(index, 'start');
  }

  async function activate(app, tracker) {
    book = await (await fetch(here + 'book.json')).json();
    document.head.append(Object.assign(document.createElement('style'), { textContent: style }));
    document.addEventListener('click', (event) => {
      const link = event.target.closest('a.gilearn-go');
      if (link) {
        event.preventDefault();
        event.stopPropagation();
        go(app, tracker, link.hash);
        return;
      }
      const session = event.target.closest('.gilearn-stop') && tracker.currentWidget && tracker.currentWidget.sessionContext.session;
      if (session && session.kernel) session.kernel.interrupt();
    }, true);
    tracker.forEach(follow);
    tracker.widgetAdded.connect((_, panel) => { follow(panel); });
  }

  (window._JUPYTERLAB = window._JUPYTERLAB || {})['gilearn-book'] = {
    init(scope) { shared = scope; },
    async get() {
      const { INotebookTracker } = await use('@jupyterlab/notebook');
      const plugin = { id: 'gilearn-book:reader', autoStart: true, requires: [INotebookTracker], activate };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
