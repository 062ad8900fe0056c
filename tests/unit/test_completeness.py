"""Every registered loss can be found: in the list, the README, and a configuration that is valid."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml

from sparsepo_plugin import cli, registry
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.cli import losses
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.options import LossOptions, option_rows

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/train/openrlhf"
NAMES = ("dpo.yaml", "sparsepo-common.yaml", "sparsepo-independent.yaml")


@pytest.mark.parametrize("name", registry.names())
def test_every_loss_has_its_row_in_the_readme_and_its_options_in_the_docs(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(line.startswith("|") and f"`{name}`" in line for line in readme.splitlines())
    options = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    for row in option_rows(registry.get(name).options):
        shown = "LOSS" if row in option_rows(LossOptions) else name
        assert f"`--{shown}.{row.name}`" in options, row.name


@pytest.mark.parametrize(("document", "section"), [("README.md", "losses"), ("docs/options.md", "options")])
def test_generated_tables_are_the_registrys_own(document, section):
    text = (ROOT / document).read_text(encoding="utf-8")
    begin, end = losses.markers(section)
    assert f"{begin}\n\n{losses.SECTIONS[section]()}\n\n{end}" in text, "stale: run `make docs`"


def test_a_documents_table_is_rewritten_between_its_markers_only(tmp_path, capsys):
    readme = tmp_path / "README.md"
    begin, end = losses.markers("losses")
    readme.write_text(f"head\n{begin}\nobsolete row\n{end}\ntail\n")
    assert cli.main(["ls", "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"head\n{begin}\n")
    assert text.endswith(f"{end}\ntail\n")
    assert "obsolete row" not in text
    readme.write_text("no markers")
    assert cli.main(["ls", "--readme", str(readme)]) == 2
    assert "got no markers" in capsys.readouterr().err
    assert readme.read_text() == "no markers"


@pytest.mark.parametrize("name", registry.names())
def test_every_loss_has_a_configuration_that_names_it(name):
    found = [path for path in CONFIGS.glob("*.yaml") if path.stem.split("-")[0] == name]
    assert found
    assert all(yaml.safe_load(path.read_text())["loss"] == name for path in found)


def test_the_shipped_configurations_exist():
    assert {path.name for path in CONFIGS.glob("*.yaml")} >= set(NAMES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_parses_and_validates(path, inputs, tmp_path, capsys):
    parsed = flags.parse(["--config", str(path)])
    assert parsed.loss is not None
    assert path.stem.split("-")[0] == parsed.loss.name
    if path.stem == "sparsepo-independent":
        assert parsed.options.masks == "independent"
    weighted = parsed.options.needs().token_weights
    train = inputs.weighted if weighted else inputs.train
    held_out = inputs.held_out_weighted if weighted else inputs.held_out
    overrides = [
        *("--model.model_name_or_path", str(inputs.model()), "--data.dataset", str(train)),
        *("--ref.model_name_or_path", str(inputs.model()), "--eval.dataset", str(held_out)),
        *(
            "--ckpt.output_dir",
            str(tmp_path / "out"),
            "--train.batch_size",
            "8",
            "--train.micro_batch_size",
            "4",
        ),
    ]
    assert cli.main(["validate", "--config", str(path), *overrides]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"valid: loss {parsed.loss.name}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_of_a_shipped_configuration_has_its_words_above_it(path):
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if ":" in line and not line.lstrip().startswith("#"):
            assert number, line
            assert lines[number - 1].lstrip().startswith("#") or ":" in lines[number - 1], line
    assert any(line.lstrip().startswith("#") for line in lines)


def test_the_list_shows_every_loss_with_needs_options_and_defaults(capsys):
    assert cli.main(["ls"]) == 0
    out = capsys.readouterr().out
    for name in registry.names():
        assert f"{name}: {registry.get(name).summary}" in out
        for row in option_rows(registry.get(name).options):
            assert f"--{name}.{row.name} " in out
            assert f"(default {row.default})" in out
    assert "needs: reference, token kl, hidden states" in out


# Without these the option does nothing, which is refused.
CONTEXT = {"density": {"source": "random", "normalise": "mean"}, "anchor_weight": {"anchor": 0.1}}


def other_value(options, row, plain):
    """A value unlike the default that the options accept, or None."""
    numbers = {float: (0.25, 0.5), int: (row.default, 7)}.get(row.kind, ())
    for value in (*row.choices, *numbers):
        with contextlib.suppress(UserError):
            if value != row.default and options.build({**plain, row.name: value}):
                return value
    return None


@pytest.mark.parametrize("name", registry.names())
def test_every_option_is_a_flag_with_its_declared_choices_and_default(name):
    options = registry.get(name).options
    rows = option_rows(options)
    defaults = flags.parse(["--loss", name]).options
    assert [getattr(defaults, row.name) for row in rows] == [row.default for row in rows]
    # The L1 penalties are refused on masks that are normalised, as they are by default.
    plain = {"normalise": "none"} if name == "sparsepo" else {}
    values = {row.name: other_value(options, row, plain) for row in rows if row.name != "preset"}
    assert sum(value is not None for value in values.values()) >= len(rows) - 3
    for key, value in values.items():
        if value is not None:
            given = {**plain, **CONTEXT.get(key, {}), key: value}
            words = [word for pair in given.items() for word in (f"--{name}.{pair[0]}", str(pair[1]))]
            parsed = flags.parse(["--loss", name, *words])
            assert getattr(parsed.options, key) == value
