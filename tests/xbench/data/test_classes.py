import pytest

from xbench.data.classes import ClassList, imagenet_1k


def test_a_class_by_index_name_or_synset():
    classes = imagenet_1k()
    assert len(classes) == 1000
    assert classes.index("tench") == classes.index("TENCH") == classes.index("0") == classes.index("n01440764") == 0
    for unknown in ("1000", "no such class"):
        with pytest.raises(KeyError):
            classes.index(unknown)


def test_lists_are_the_same_by_synsets_or_else_by_names():
    a, b = ClassList(("x", "y"), ("n1", "n2")), ClassList(("other", "names"), ("n1", "n2"))
    assert a.same_as(b)
    assert not a.same_as(ClassList(("x", "y"), ("n1", "n3")))
    assert a.same_as(ClassList(("x", "y")))
    assert not a.same_as(ClassList(("x", "z")))


def test_matches_are_the_classes_that_both_have_once():
    mine, theirs = ClassList(("cat", "cow", "crane", "dog")), ClassList(("dog", "crane", "cat", "crane"))
    assert mine.matches(theirs) == (2, None, None, 0)
    assert mine.translation(theirs) is None
    assert ClassList(("cat", "dog")).translation(theirs) == (2, 0)
    assert ClassList(("cat", "cat", "dog")).matches(theirs) == (None, None, 0)
    assert ClassList(()).matches(theirs) == ClassList(()).translation(theirs) == ()
