"""A command whose words a shell, YAML or systemd would read as theirs."""

HOSTILE = [
    "ja-llm",
    "train",
    "--gin.A='it''s'",
    "--gin.B=$(touch hacked) `touch hacked`",
    '--gin.C="x"; touch hacked',
    "--gin.D=a b\\ é #{}%",
]
