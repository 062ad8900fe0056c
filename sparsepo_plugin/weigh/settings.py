"""What the command line says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sparsepo_plugin.errors import UserError

Kind = Literal["log-ratio", "entropy", "reward", "words"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Settings:
    """A run of ``sparsepo weigh``.

    Attributes:
      data: JSON lines with preference pairs.
      out: JSON lines to write.
      score: kind of number.
      models: one that gives the numbers; or two, trained on the first and the second half of the data.
      against: for log-ratio, the model in the denominator.
      words: for words, the list.
      absolute: write the size of a number without its sign.
      prompt_key: column of the prompt, None where chosen and rejected hold all.
      chosen_key: column of the preferred response.
      rejected_key: column of the other one.
      chat_template: render conversations with the tokenizer's template.
      max_len: most tokens of a row.
      batch_size: pairs per forward pass.
      device: of the models.
      dtype: of the models' weights.
      overwrite: replace an earlier output.
      page: HTML file that shows the numbers, or None.
      show: pairs on the page.
    """

    data: Path
    out: Path
    score: Kind
    models: tuple[str, ...] = ()
    against: str | None = None
    words: Path | None = None
    absolute: bool = False
    prompt_key: str | None = "prompt"
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"
    chat_template: bool = False
    max_len: int = 2048
    batch_size: int = 8
    device: str = "cpu"
    dtype: str = "float32"
    overwrite: bool = False
    page: Path | None = None
    show: int = 50

    def check(self) -> None:
        """Check what can be known before anything is read.

        Raises:
          UserError: a flag is missing, contradicts another, or is out of range.
        """
        needs = {"log-ratio": ("--model", "--against"), "words": ("--words",)}.get(self.score, ("--model",))
        given = {"--model": self.models, "--against": self.against, "--words": self.words}
        for flag, value in given.items():
            if flag in needs and not value:
                raise UserError(f"--score {self.score}: got no {flag}, expected one")
            if flag not in needs and value and not (flag == "--model" and self.page):
                raise UserError(
                    f"{flag}: --score {self.score} does not read it; drop it, or choose another score"
                )
        if self.page and not self.models:
            raise UserError("--page: got no --model, expected one, whose tokens the page shows")
        if len(self.models) > 2:
            raise UserError(
                f"--model: got {len(self.models)}, expected one, or two of the halves of the data"
            )
        for flag, number, least in (
            ("--max_len", self.max_len, 4), ("--batch_size", self.batch_size, 1), ("--show", self.show, 1),
        ):  # fmt: skip
            if number < least:
                raise UserError(f"{flag}: got {number}, expected a number >= {least}")
        if self.out.resolve() == self.data.resolve():
            raise UserError(f"--out {self.out}: got the file of --data, expected another")
        if self.out.is_dir():
            raise UserError(f"--out {self.out}: got a folder, expected a file")
        if self.out.exists() and not self.overwrite:
            raise UserError(f"--out {self.out}: it is there already; choose another, or give --overwrite")
