"""What a settings dataclass says of its own values besides their types."""

from typing import Any

# field, its value, whether it is fine, what it must be in words: "corpus.<Class>.<field> = <value>: it must be <words>"
Check = tuple[str, Any, bool, str]
