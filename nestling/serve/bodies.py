"""Request bodies. Fields of the OpenAI API that this server does not support are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Text = Annotated[str, Field(max_length=1_000_000)]
Stop = str | list[str] | None


class Part(BaseModel):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: str | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class Asked(BaseModel):
    """The common fields of both kinds of requests."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    memory: str | None = None  # id of a memory to answer with; or the header X-Memory
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def _few(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 8 or any(not 0 < len(one) <= 100 for one in stops):
            raise ValueError("give at most 8 strings of 1 to 100 characters")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer; they are not part of it."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def unknown(self) -> list[str]:
        """Fields that ask for something unsupported."""
        ignored = {"metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"}
        plain = ({"type": "text"}, "auto", "none")
        extra = self.model_extra or {}
        return [
            name
            for name, value in extra.items()
            if value and value not in plain and name not in ignored
        ]


class ChatBody(Asked):
    """A request of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1)
    check: bool | None = (
        None  # recall from what the memory has studied, and check; None: if possible
    )

    @property
    def question(self) -> str | None:
        """The last message, if its most likely answer is requested; None: no check is possible."""
        last = self.messages[-1]
        greedy = self.n == 1 and not self.temperature
        return last.text if greedy and last.role == "user" and last.text.strip() else None


class CompletionBody(Asked):
    """A request of /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    echo: bool = False
