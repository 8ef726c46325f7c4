"""examples/notebook.ipynb, executed by a real kernel, in which an event loop is running."""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import outlast
from outlast.events import ModelCallStarted

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = Path(outlast.__file__).parents[1]
NOTEBOOK = EXAMPLES / "notebook.ipynb"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the url of a new store, in which kernels record, and keep their files apart."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    url = f"sqlite:///{tmp_path}/notebook.db"
    monkeypatch.setenv("OUTLAST_STORE", url)
    found = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, found)))
    return url


def executed() -> dict[str, str]:
    """Execute the notebook in a kernel of its own, and return what each cell printed."""
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    here = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=here).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    kinds = {(each.output_type, each.get("name")) for cell in outputs.values() for each in cell}
    assert kinds == {("stream", "stdout")}, outputs
    return {name: "".join(each.text for each in cell) for name, cell in outputs.items()}


def test_the_notebook_runs_in_a_real_kernel(url: str) -> None:
    """Every cell works in a kernel; run again in another, it prints the same without a call."""
    printed = executed()
    with outlast.Outlast(url) as app:
        assert {run.id: run.status for run in app.runs()} == dict.fromkeys(
            ("cafes", "carers", "choirs", "gardens"), "completed"
        )
        cafes, carers = app.get("cafes"), app.get("carers")
        before = {run.id: app.log(run.id) for run in app.runs()}
        calls = [record.event for records in before.values() for record in records]
        assert sum(isinstance(event, ModelCallStarted) for event in calls) == 8
        assert printed["run"] == f"completed\n{cafes.answer}\n{cafes.cost_usd}\n"
        assert printed["stream"] == (
            f"I will look for that. [search_grants] {carers.answer}\n"
            f"completed, ${carers.cost_usd}\n"
        )
        assert printed["arun"] == "choirs completed 2\ngardens completed 2\n"
        assert executed() == printed
        assert {run.id: app.log(run.id) for run in app.runs()} == before


def test_the_notebook_shows_what_it_prints() -> None:
    """The notebook is kept with its outputs, in order, and without a trace of who ran it."""
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.metadata == {} for cell in cells)
    assert any("completed" in output.text for cell in cells for output in cell.outputs)
    for name in (sys.prefix, str(Path.home()), str(EXAMPLES)):
        assert name not in NOTEBOOK.read_text()
