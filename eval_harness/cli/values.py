"""Values of command-line flags."""

from typing import Any

from eval_harness.errors import UserError


def pairs(items: list[str], flag: str) -> dict[str, Any]:
    """KEY=VALUE strings to a dict, values read as YAML. Raises UserError naming the flag."""
    import yaml

    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(flag, got=item, expected="KEY=VALUE")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(flag, got=item, expected="KEY=VALUE, the value in YAML") from error
    return found
