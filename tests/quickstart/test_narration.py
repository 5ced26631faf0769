"""What a walk says can be copied into a shell, and fits a terminal of 80 columns."""

import io
import shlex

from hypothesis import given
from hypothesis import strategies as st

from ja_llm.quickstart.narration import WIDTH, Narrator, command_lines, quote

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=30)
WORDS = st.one_of(
    st.sampled_from(["corpus", "build", "--input", "--limit", "20", "runs/ja"]),
    VALUES.map("--gin.NAME={}".format),
    VALUES,
    st.just("--gin.TASK_FEATURE_LENGTHS={'targets': 128}"),
)


@given(st.lists(WORDS, max_size=12))
def test_a_command_copied_into_a_shell_has_the_same_arguments(arguments):
    printed = command_lines(arguments).strip().removeprefix("$ ")
    assert shlex.split(printed.replace("\\\n", " ")) == ["ja-llm", *arguments]


@given(st.lists(st.text("abc/", min_size=1, max_size=30), max_size=12))
def test_a_command_keeps_to_the_width_of_a_terminal(words):
    assert all(len(line) <= WIDTH for line in command_lines(words).splitlines())


def test_gin_dictionaries_are_quoted_as_a_person_would():
    assert quote("--gin.TASK_FEATURE_LENGTHS={'targets': 128}") == "--gin.TASK_FEATURE_LENGTHS=\"{'targets': 128}\""
    assert quote("--gin.X='$HOME'") == shlex.quote("--gin.X='$HOME'"), "nothing in double quotes that a shell expands"


def test_a_stage_is_told_with_its_number_its_commands_and_what_came_out():
    stream = io.StringIO()
    narrator = Narrator(10, stream)
    with narrator.stage("export", "to other formats, " * 8, ["export", "runs/ja"], ["export", "runs/en"]) as outcome:
        outcome.say("5 MB, " * 20)
    told = stream.getvalue()
    assert told.startswith("\n[ 1/10] export: to other formats,")
    assert "$ ja-llm export runs/ja\n" in told and "$ ja-llm export runs/en\n" in told
    assert "-> 5 MB," in told and told.rstrip().endswith("0 s")
    assert all(len(line) <= WIDTH for line in told.splitlines())
    assert list(narrator.seconds) == ["01 export: " + "to other formats, " * 8]
