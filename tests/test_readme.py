"""The README's Python runs as it stands, with smaller budgets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS[:3]:
        code = block.replace("budget=60", "budget=12").replace('("n_eval", 60)', '("n_eval", 20)')
        exec(compile(code, str(README), "exec"), names)  # noqa: S102
    assert (tmp_path / "runs/digits/front.csv").exists()
    outcome = names["outcome"]
    assert all("bit_operations_bit" in point.objectives for point in outcome.points)  # type: ignore[attr-defined]
    assert names["result"].F.shape[1] == 3  # type: ignore[attr-defined]
