"""What of the book holds on other data is counted cell by cell, past errors."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import replicate

TEXT = """---
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

# A chapter

```{code-cell} ipython3
:tags: [parameters]

FOLD = 0
```

## First claim

```{code-cell} ipython3
value = 10 + FOLD
print(value)
assert value > 9
```

## Second claim

```{code-cell} ipython3
assert value == 10, f"got {value}"
```

```{code-cell} ipython3
:tags: [exercise]

raise RuntimeError("answers are left out")
```
"""


@pytest.mark.parametrize(("fold", "held"), [(0, 2), (3, 1)])
def test_a_fold(tmp_path, fold, held):
    text = tmp_path / "chapter.md"
    text.write_text(TEXT)
    found = replicate.on_fold(text, fold)
    assert (found["guarded"], found["held"]) == (2, held)
    for failed in found["failed"]:
        assert failed["heading"] == "Second claim"
        assert failed["error"] == "AssertionError: got 13"
        assert failed["asserts"] == "assert value == 10, f'got {value}'"


@pytest.mark.parametrize(
    "spoilt", [(":tags: [parameters]\n\n", ""), ("FOLD = 0", "FOLDS = 0"), ("FOLD = 0", "FOLD = 1")]
)
def test_a_chapter_whose_fold_cannot_be_set_is_refused(tmp_path, spoilt):
    """It would run on fold 0 once more, and count as replicated."""
    text = tmp_path / "chapter.md"
    text.write_text(TEXT.replace(*spoilt))
    with pytest.raises(ValueError, match="wanted a first code cell with the tag parameters and one line FOLD = 0"):
        replicate.on_fold(text, 1)


def test_what_was_demanded_is_the_assertion_that_failed(tmp_path):
    text = tmp_path / "chapter.md"
    text.write_text(
        TEXT.replace(
            "assert value == 10,",
            "assert value > 1\nfor limit in (9, 10):\n    assert (\n        value <= limit + 1\n    ),",
        )
    )
    (failed,) = replicate.on_fold(text, 3)["failed"]
    assert failed["asserts"] == "assert value <= limit + 1, f'got {value}'"


def test_what_guards():
    assert replicate.asserts("x = 1\nprint(x)") == []
    assert replicate.asserts("for k in y:\n    assert k > 1") == ["assert k > 1"]
    assert replicate.asserts("%matplotlib inline\ntorch.testing.assert_close(a, b)") == [
        "torch.testing.assert_close(a, b)"
    ]


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    text, runs = tmp_path / "chapter.md", []
    text.write_text(TEXT)
    monkeypatch.setattr(replicate, "KEPT", tmp_path / "kept")
    outcome = {"guarded": 1, "held": 1, "failed": []}
    monkeypatch.setattr(replicate, "on_fold", lambda path, fold: runs.append(fold) or dict(outcome))
    for _ in range(2):
        assert replicate.kept("fold 1", text, b"")["held"] == 1
    text.write_text(TEXT + "More words.\n")
    replicate.kept("fold 1", text, b"")
    assert runs == [1]
    text.write_text(TEXT.replace("value > 9", "value > 8"))
    replicate.kept("fold 1", text, b"")
    assert runs == [1, 1]
    assert json.loads((tmp_path / "kept" / "fold-1-chapter.json").read_text())["outcome"]["guarded"] == 1


def test_other_arithmetic_runs_every_cell_of_the_stored_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(replicate, "KEPT", tmp_path / "kept")
    cells = ["import os", "assert os.environ['ATEN_CPU_CAPABILITY'] == 'avx2'", "raise ValueError('rounded otherwise')"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    found = replicate.in_arithmetic(tmp_path / "chapter.md", "one thread, AVX2")
    assert (found["guarded"], found["held"]) == (3, 2)
    assert [failed["cell"] for failed in found["failed"]] == [2]
    assert found["failed"][0]["error"] == "ValueError: rounded otherwise"
    assert (tmp_path / "kept" / "one-thread-AVX2-chapter.xml").exists()
