"""``thetabox tasks``."""

from __future__ import annotations

from typing import Any

import click

from thetabox.cli import options
from thetabox.cli.console import print_json, show
from thetabox.data import TASKS, Task
from thetabox.errors import InputError
from thetabox.report import plain_table


@click.command("tasks", cls=options.Command)
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """With NAME: all about that one."""
    if name is not None:
        if name not in TASKS:
            raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
        task = TASKS[name]
        print_json(_facts(task))
        show(f"{task.name}: {task.title}", "", task.description, "")
        show(f"input     {list(task.shape)}", f"classes   {', '.join(task.classes)}", f"licence   {task.licence}")
        show(f"source    {task.source}", f"citation  {task.citation}", f"embedded  {'yes' if task.embedded else 'no'}")
        return
    print_json({"tasks": [_facts(task) for task in TASKS.values()]})
    table = plain_table("task", "input", "classes", "embedded", "what", text=5)
    for task in TASKS.values():
        embedded = "yes" if task.embedded else "no"
        table.add_row(task.name, str(list(task.shape)), str(len(task.classes)), embedded, task.title)
    show(table)


def _facts(task: Task) -> dict[str, Any]:
    names = ("name", "title", "description", "licence", "source", "citation", "embedded")
    return {**{name: getattr(task, name) for name in names}, "shape": list(task.shape), "classes": list(task.classes)}
