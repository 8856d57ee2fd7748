"""The table of values in the chart's README, from the comments of values.yaml. As a program it prints it."""

import json
import re

import yaml

from helm import CHART


def table():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    rows, path = ["| Value | Default | Meaning |", "| --- | --- | --- |"], []
    described = None
    for line in text.splitlines():
        comment = re.match(r" *# -- (.*)", line)
        key = re.match(r"( *)([A-Za-z]\w*):", line)
        if comment:
            described = comment[1]
        elif key:
            depth = len(key[1]) // 2
            path[depth:] = [key[2]]
            if described:
                value = values
                for part in path:
                    value = value[part]
                rows.append(f"| `{'.'.join(path)}` | `{json.dumps(value)}` | {described} |")
                described = None
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
