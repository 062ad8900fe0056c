"""What a server's reply is worth: an answer, none, or a refusal."""

from typing import Any

from eval_harness.errors import UserError


class RemoteError(Exception):
    """One question got no answer; the text is one line without secrets.

    `refused`: the server is there and refuses this question; `empty`: it answers with nothing. Asking again
    would change neither. Else nobody answered in all tries.
    """

    def __init__(self, text: str, *, refused: bool = False, empty: bool = False) -> None:
        super().__init__(text)
        self.refused, self.empty, self.final = refused, empty, refused or empty


class Refusals:
    """Tells a server that refuses a question from one that refuses all: by the first few."""

    def __init__(self, most: int = 3) -> None:
        """`most` refusals without an answer among them are enough."""
        self._most, self._refused, self._answered = most, 0, False

    def note(self, error: RemoteError | None) -> None:
        """Count an answer (None, or an empty one) or a refusal.

        Raises:
          UserError: the first questions were all refused.
        """
        refused = error is not None and error.refused
        self._answered, self._refused = self._answered or not refused, self._refused + refused
        if not self._answered and self._refused >= self._most:
            raise UserError(
                "the endpoint refuses the questions",
                got=error,
                expected="answers",
                remedy="check the model's name, the template and the options that are sent",
            )


def chat_text(choice: dict[str, Any]) -> str:
    """The text of a chat completion's choice.

    Raises:
      RemoteError: there is none (thinking used the budget, a filter cut in, a tool was called). Null is no
        text, and an empty one is an answer only where the model itself ended it.
      KeyError, TypeError: not such a choice.
    """
    message, finish = choice["message"], choice.get("finish_reason")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    cut_off = finish in ("length", "tool_calls") or bool(message.get("tool_calls"))
    if text is None or finish == "content_filter" or (not text and cut_off):
        raise RemoteError(_why_empty(message, finish), empty=True)
    return text


def completion_text(choice: dict[str, Any]) -> str:
    """The text of a completion's choice. Raises as `chat_text`."""
    return chat_text({**choice, "message": {"content": choice["text"]}})


def _why_empty(message: dict[str, Any], finish: object) -> str:
    if finish == "content_filter":
        return "a content filter stopped the answer"
    if message.get("tool_calls"):
        return "a tool call instead of an answer"
    thought = message.get("reasoning_content") or message.get("reasoning")
    return f"no content (finish_reason {finish}{', all of it was reasoning' if thought else ''})"
