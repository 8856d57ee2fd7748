"""Messages to a prompt, with the model's own template or a plain one."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Dict, List, NoReturn, Optional

import jinja2
import jinja2.sandbox
from reprise_gateway.errors import BadField

# For models that were not trained for chat: a play with one line per speech.
PLAIN = """\
{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
PLAIN_STOPS = ["\n"]

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 4096


@dataclasses.dataclass
class ChatTemplate:
    """Renders with jinja2 in its sandbox. `special`: the text of control tokens in the prompt is
    meant as control tokens."""
    source: str
    bos_token: str = ""
    eos_token: str = ""
    special: bool = True
    stops: List[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=self.special,
                                                                   lstrip_blocks=self.special,
                                                                   keep_trailing_newline=True)
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(self.source)

    def render(self, messages: List[Dict[str, str]]) -> str:
        """BadField if the template does not like the messages."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True,
                                         bos_token=self.bos_token, eos_token=self.eos_token)
        except (jinja2.TemplateError, TypeError) as error:
            raise BadField("messages", f"the chat template refuses them: {error}") from None

    def begins_with_bos(self, prompt: str) -> bool:
        return bool(self.bos_token) and prompt.startswith(self.bos_token)


def plain() -> ChatTemplate:
    return ChatTemplate(PLAIN, special=False, stops=PLAIN_STOPS)


@dataclasses.dataclass
class TokenizerConfig:
    """What a tokenizer_config.json says."""
    bos_token: Optional[str]
    eos_token: Optional[str]
    pad_token: Optional[str]
    chat_template: Optional[str]


def load(path: pathlib.Path) -> TokenizerConfig:
    """Reads a tokenizer_config.json, with the chat_template.jinja beside it if there is one, or a
    template alone. Raises OSError, or ValueError for a file that is neither."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return TokenizerConfig(None, None, None, text)
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a tokenizer_config.json")
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    beside = path.with_name("chat_template.jinja")
    if template is None and beside.exists():
        template = beside.read_text(encoding="utf-8")
    return TokenizerConfig(_token(config, "bos_token"), _token(config, "eos_token"),
                           _token(config, "pad_token"), template)


def template_of(config: Optional[TokenizerConfig]) -> ChatTemplate:
    """ValueError for a template that jinja2 does not read."""
    if config is None or not config.chat_template:
        return plain()
    try:
        return ChatTemplate(config.chat_template, config.bos_token or "", config.eos_token or "")
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template: line {error.lineno}: {error.message}") from None


def read_messages(value: Any) -> List[Dict[str, str]]:
    """Messages of roles and text. Raises BadField."""
    if not isinstance(value, list) or not value:
        raise BadField("messages", "must be a list with at least one message")
    if len(value) > MAX_MESSAGES:
        raise BadField("messages", f"must be at most {MAX_MESSAGES}")
    messages = []
    for i, message in enumerate(value):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise BadField(where, "must be an object")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise BadField(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        messages.append({"role": ROLES[role], "content": _content(message.get("content"), where)})
    return messages


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = []
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(
                    part.get("text"), str):
                raise BadField(f"{where}.content", "only parts of type text are supported")
            parts.append(part["text"])
        return "".join(parts)
    raise BadField(f"{where}.content", "must be a string or a list of parts")


def _token(config: Dict[str, Any], name: str) -> Optional[str]:
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
