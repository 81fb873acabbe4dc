import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbench.errors import XbenchError
from xbench.plugins.specs import Spec, parse, split

names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}(/[A-Z][a-z]{0,4})?", fullmatch=True).filter(lambda n: n not in ("true", "false"))
plain = st.one_of(
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.builds(Spec, names),
)
specs = st.recursive(
    st.builds(Spec, names),
    lambda inner: st.builds(
        lambda name, args, kwargs: Spec(name, tuple(args), tuple(kwargs.items())),
        names,
        st.lists(st.one_of(plain, inner), max_size=3),
        st.dictionaries(names.filter(lambda n: "/" not in n), st.one_of(plain, inner), max_size=3),
    ),
    max_leaves=6,
)


@given(specs)
def test_text_and_back(spec):
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("grad_cam", "grad_cam"),
        (" rise( n = 2000 )", "rise(n=2000)"),
        ("smooth(grad_cam,n=25)", "smooth(grad_cam, n=25)"),
        ("insertion(steps=exact(10))", "insertion(steps=exact(10))"),
        ("timm/resnet50@weights.safetensors", "timm/resnet50@weights.safetensors"),
        ("a(true, x=false)", "a(true, x=false)"),
        ("a(-1.5e3, .5, +2)", "a(-1500.0, 0.5, 2)"),
        ("a()", "a"),
    ],
)
def test_canonical_form(text, canonical):
    assert str(parse(text)) == canonical


def test_quoted_text_is_text():
    assert parse('a("b c, d(")').args == ("b c, d(",)


@pytest.mark.parametrize("text", ["", "(", "a(", "a(b", "a(b))", "a(x=1, 2)", "a(1=2)", "a b", "a(x=1, x=2)", "a(,)", "3"])
def test_wrong_text_is_named(text):
    with pytest.raises(XbenchError, match="spec"):
        parse(text)


def test_split_at_outer_commas():
    assert split("a, b(x, y=c(1, 2)),d") == ["a", "b(x, y=c(1, 2))", "d"]
    assert split(" , ") == []
    assert split(r'a("x) , y"), b("(\",")') == ['a("x) , y")', r'b("(\",")']  # a quoted text holds what it likes
