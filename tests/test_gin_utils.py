"""Names that gin finds twice or not at all, and the folders in which files are looked for."""

import gin
import pytest

from ja_llm import gin_utils
from ja_llm.errors import UsageError


@pytest.fixture(scope="module")
def twins():
    """Two configurables of one short name, and one that takes either."""

    def twin(x=1):
        return x

    def holder(twin=None):
        return twin

    for module in ("near_one", "near_two"):
        gin.external_configurable(twin, "SomeTwin", module=module)
    return gin.external_configurable(holder, "twin_holder")


@pytest.mark.parametrize("binding", ["SomeTwin.x = 2", "twin_holder.twin = @SomeTwin()"])
def test_an_ambiguous_name_is_answered_with_those_that_it_may_be(twins, binding):
    with pytest.raises(UsageError) as caught, gin_utils.parsed([], [binding]):
        pass
    assert "SomeTwin is ambiguous, for there are near_one.SomeTwin and near_two.SomeTwin; write one of these" in str(caught.value)


def test_a_name_of_the_wrong_module_is_answered_with_whole_names(twins):
    near = r"\(near names: near_(one|two)\.SomeTwin, near_(one|two)\.SomeTwin\)"
    with pytest.raises(UsageError, match=near), gin_utils.parsed([], ["near_three.SomeTwin.x = 2"]):
        pass
    with gin_utils.parsed([], ["near_one.SomeTwin.x = 2", "twin_holder.twin = @near_one.SomeTwin()"]):
        assert twins() == 2


def test_search_paths_come_in_their_order_before_the_package_and_for_includes_too(twins, tmp_path):
    for folder, text in (("first", "A = 1\n"), ("second", "A = 2\nB = 2\n")):
        (tmp_path / folder / "runs").mkdir(parents=True)
        (tmp_path / folder / "runs/pretrain.gin").write_text(text)  # a name that the package has, too
    (tmp_path / "second/whole.gin").write_text("include 'runs/pretrain.gin'\ntwin_holder.twin = %A\n")
    paths = f"{tmp_path}/first,{tmp_path}/second"
    with gin_utils.parsed(["whole.gin"], [], paths) as text:
        assert "A = 1" in text and "B = " not in text and twins() == 1
    with gin_utils.parsed(["whole.gin"], [], f"{tmp_path}/second"):  # an earlier call's folders are no longer looked through
        assert twins() == 2
    gone = pytest.raises(UsageError, match="whole.gin: this gin file is neither here nor in the package")
    with gone, gin_utils.parsed(["whole.gin"], [], f"{tmp_path}/first"):
        pass


class TestWhatARunReads:
    """Macros that are given are read by what the run uses, or refused."""

    @pytest.fixture(scope="class")
    def program(self):
        """(entry, part): entry is called with a part, or with none."""

        def part(size=1):
            return size

        def entry(part=None, name=None):
            return part, name

        made = []
        for function in (entry, part):
            function.__module__ = "ja_llm.planted"
            made.append(gin.external_configurable(function, function.__name__, module="ja_llm.planted"))
        return made

    FILE = "SIZE = 1\nPART = None\nentry.part = %PART\na/part.size = %SIZE\nb/part.size = %OTHER\nOTHER = 2\n"

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "run.gin"
        path.write_text(self.FILE)
        return [str(path)]

    def test_what_nothing_in_use_refers_to_is_refused(self, program, file):
        entry, _ = program
        refused = pytest.raises(UsageError, match="SIZE is given, but this run does not read it: only a/planted.part would")
        with refused, gin_utils.parsed(file, ["SIZE = 3"], entries=[entry]):
            pass
        # Two parts of one kind: each is read by its scope.
        refused, given = pytest.raises(UsageError, match="OTHER is given"), ["PART = @a/part()", "OTHER = 3"]
        with refused, gin_utils.parsed(file, given, entries=[entry]):
            pass

    def test_what_is_read_is_taken_at_any_depth(self, program, file):
        entry, _ = program
        for given in (
            ["PART = @a/part()", "SIZE = 3"],
            ["PART = {'x': (@a/part,)}", "SIZE = 3"],
            ["PART = @b/part()", "OTHER = %SIZE", "SIZE = 4"],
        ):
            with gin_utils.parsed(file, given, entries=[entry]):
                pass
        with gin_utils.parsed(file, ["PART = @a/part()", "SIZE = 3"], entries=[entry]):
            assert entry() == (3, None)

    def test_what_a_file_defines_for_optional_use_may_lie_idle(self, program, file):
        with gin_utils.parsed(file, ["PART = 5"], entries=[program[0]]):
            pass

    def test_another_programs_configurables_may_read(self, program, file, twins):
        with gin_utils.parsed(file, ["near_one.SomeTwin.x = %SIZE", "SIZE = 3"], entries=[program[0]]):
            pass

    def test_without_an_entry_a_use_is_enough(self, program, file):
        with gin_utils.parsed(file, ["SIZE = 3"]):
            pass
