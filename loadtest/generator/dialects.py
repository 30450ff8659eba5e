"""The APIs that requests may speak."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.generator.anthropic_messages import MESSAGES
from loadtest.generator.openai_chat import CHAT, COMPLETIONS
from loadtest.generator.openai_responses import RESPONSES
from loadtest.generator.wire import Wire
from loadtest.workload.request import Dialect

WIRES: Mapping[Dialect, Wire] = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}
