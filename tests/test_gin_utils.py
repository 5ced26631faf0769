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
