"""The contract of chapter 6, held by every method of it that the registry knows and the tree has; and its seam.

A method is the function of its module that is named like it. It is called with those of the `SIGNALS` that it has
parameters for; what else it takes must have a default.
"""

import importlib
import inspect
import itertools

import numpy as np
import pytest
import torch

from minitok import papers
from minitok.attention import Attention
from minitok.metrics import flops
from minitok.nn import Shape, Transformer
from minitok.reduce import _common
from minitok.reduce._common import Kept, Reduction, ascending, check_signal, cost, even, highest, once, resume, spread
from minitok.reduce.covipal import PruningModule
from minitok.reduce.explain_compress import Compressor
from minitok.vit import ViT

B, N, C = 3, 16, 8
# Exceptions, each with its reason.
BY_PLACE = {
    "centerclip": "of two tokens alone in a cluster the lower index is the medoid",
    "corematching": "numbers of neurons are often equal, and of equals the lower index counts",
    "random_drop": "a draw belongs to a place",
    "token_correlation": "a draw belongs to a place, and a place to a picture",
    "explain_compress": "a convolution runs along the tokens in their order",
    "hired": "the place of a token says which picture it is of",
    "globalcom2": "the place of a token says which picture it is of, and where in it",
    "vflowopt": "tokens share a cell by their places",
    "tome": "the place of a token, even or odd, says on which side of the matching it is",
    "expedit": "a token may only go to centres that are near on the grid",
    "hot": "of two frames that are nearest to one another, so equally dense, the earlier one is the centre",
}
NOT_LOWEST = {
    "random_drop": "equal tokens are drawn at random too",
    "token_correlation": "equal tokens are drawn at random too",
    "hired": "each picture has a budget of its own, within which the lowest count",
    "globalcom2": "each picture has a budget of its own, within which the lowest count",
}
UNORDERED: dict[str, str] = {
    "token_correlation": "outputs stand in the order of the kept tokens, before which others may have been merged",
    "token_transforming": "outputs stand in the order of their anchors, beside which a large token may weigh more",
    "expedit": "centres stand in the order of their cells, whatever went to them",
    "recoverable": "the mean of all the rest stands last",
}
NOT_IDENTITY: dict[str, str] = {"expedit": "tokens go to centres softly, even to as many as there are"}
NOT_COMPILED = dict.fromkeys(
    ("random_drop", "token_correlation"), "a generator cannot be made inside of what is compiled"
)
# Which dimensions of a signal count tokens; the text has tokens of its own.
TOKENS = {
    "x": (1,), "keys": (2,), "attention": (2, 3), "cls_attention": (2,), "cls_first": (2,), "paid": (3,),
    "payments": (2, 3), "middle": (3,), "deep": (3,), "scores": (1,), "size": (1,), "text": (),
    "asked": (), "first_attention": (3,), "neurons": (1,), "word_neurons": (), "outputs": (1,),
}  # fmt: skip
# Papers whose tokens are made by trained layers: their modules hold an `nn.Module`, not a function of signals.
LEARNED = {"stvit": "STViT"}
MODULES = [row.slug for row in papers.rows("reduce") if papers.places(row.slug)["module"].exists()]
METHODS = [slug for slug in MODULES if slug not in LEARNED]
# What a method trains, with random weights.
TRAINED = {"compressor": Compressor((1, 8, 8), 3).eval(), "module": PruningModule(C).eval()}


def given(seed: int = 0) -> dict:
    """What any method may ask for, of 16 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": random(B, N, C),
        "keys": random(B, 2, N, 4),
        "attention": random(B, 2, N, N).softmax(-1),
        "cls_attention": random(B, 2, N).softmax(-1),
        "cls_first": random(B, 2, N).softmax(-1),
        "paid": random(B, 2, N + 5, N).softmax(-1),
        "payments": random(B, 2, N + 5, N + 5).softmax(-1),
        "middle": random(B, 2, N + 1, N).softmax(-1),
        "deep": random(B, 2, N + 1, N).softmax(-1),
        "size": torch.randint(1, 4, (B, N), generator=generator).float(),
        "scores": random(B, N),
        "outputs": random(B, N, 6),
        "text": random(B, 5, C),
        "asked": torch.rand(B, 5, generator=generator) < 0.6,
        "first_attention": random(B, 2, 5, N).softmax(-1),
        "neurons": random(B, N, 12),
        "word_neurons": random(B, 5, 12),
        **TRAINED,
        "grid": (4, 4),
        "frames": 4,
        "pictures": 4,
        "crops": (1, 3),
    }


class Method:
    """One method, and a way to call it with changed signals."""

    def __init__(self, slug: str) -> None:
        self.slug, self.function = slug, getattr(importlib.import_module(f"minitok.reduce.{slug}"), slug)
        self.names = [name for name in inspect.signature(self.function).parameters if name in given()]

    def __call__(self, k: int, signals: dict | None = None, **changed) -> Reduction:
        signals = (signals or given()) | changed
        arguments = {name: value for name, value in signals.items() if name in self.names and name != "x"}
        return self.function(signals["x"], k, **arguments)


def mapped(change, signals: dict) -> dict:
    """All tensors of the signals changed by `change(name, tensor)`."""
    return {name: change(name, s) if isinstance(s, torch.Tensor) else s for name, s in signals.items()}


@pytest.fixture(params=METHODS)
def method(request) -> Method:
    return Method(request.param)


def skip(exceptions: dict[str, str], method: Method) -> None:
    if reason := exceptions.get(method.slug):
        pytest.skip(reason)


def test_the_registry_finds_methods():
    assert {"random_drop", "tome"} <= set(METHODS)


@pytest.mark.parametrize("slug", LEARNED)
def test_what_is_learned_is_a_module(slug):
    module = importlib.import_module(f"minitok.reduce.{slug}")
    assert issubclass(getattr(module, LEARNED[slug]), torch.nn.Module)
    assert not hasattr(module, slug)


@pytest.mark.parametrize("k", [1, 2, 5, 8, 11, 15, 16])
def test_it_leaves_as_many_tokens_as_promised(method, k):
    reduction, x = method(k), given()["x"]
    assert reduction.shape == (B, k, N)
    assert reduction.apply(x).shape == (B, k, C)
    assert reduction.restore(reduction.apply(x)).shape == (B, N, C)
    assert reduction.order.shape == (B, k)


@pytest.mark.parametrize("k", [1, 5, 11, 16])
def test_it_is_a_matrix_whose_rows_are_means(method, k):
    reduction, x = method(k), given()["x"]
    matrix = reduction.matrix()
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(-1), torch.ones(B, k), atol=1e-5, rtol=0)
    torch.testing.assert_close(reduction.apply(x), matrix @ x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 5, 11, 16])
def test_sizes_and_restored_tokens_follow_the_shares(method, k):
    reduction, size, y = method(k), given()["size"], torch.randn(B, k, C)
    matrix = reduction.matrix()
    used = matrix.sum(1) > 0
    shares = torch.where(used[:, None], matrix / matrix.sum(1, keepdim=True), 0)
    torch.testing.assert_close(reduction.restore(y), shares.mT @ y, atol=1e-5, rtol=0)
    torch.testing.assert_close(reduction.sizes(size), (shares @ size[..., None])[..., 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(reduction.sizes(size).sum(-1), (size * used).sum(-1), atol=1e-4, rtol=0)
    if isinstance(reduction, Kept):
        assert torch.equal(reduction.sizes(size), size.gather(1, reduction.order))


def test_keeping_all_is_the_identity(method):
    skip(NOT_IDENTITY, method)
    torch.testing.assert_close(method(N).matrix(), torch.eye(N).expand(B, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [2, 5, 11])
def test_the_result_stands_in_the_order_of_the_input(method, k):
    skip(UNORDERED, method)
    assert (method(k).order.diff() > 0).all()


@pytest.mark.parametrize("k", [2, 5, 11])
def test_permuting_the_tokens_permutes_the_result(method, k):
    skip(BY_PLACE, method)
    permutation, signals = torch.randperm(N), given()

    def permute(name, signal):
        for dimension in TOKENS[name]:
            words = torch.arange(N, signal.shape[dimension])
            signal = signal.index_select(dimension, torch.cat([permutation, words]))
        return signal

    before, after = method(k).matrix()[:, :, permutation], method(k, mapped(permute, signals)).matrix()
    for first, second in zip(before, after, strict=True):
        # Outputs stand in another order now: each row of one is a row of the other.
        nearest = torch.cdist(first, second)
        assert nearest.amin(0).max() < 1e-4
        assert nearest.amin(1).max() < 1e-4


@pytest.mark.parametrize("k", [3, 11])
def test_rows_of_a_batch_do_not_see_each_other(method, k):
    other = given(seed=1)
    mixed = mapped(lambda name, signal: torch.cat([other[name][:1], signal[1:]]), given())
    assert torch.equal(method(k, mixed).matrix()[1:], method(k).matrix()[1:])


@pytest.mark.parametrize("k", [1, 5, 8, 15])
def test_of_equal_tokens_the_lower_index_counts(method, k):
    equal = mapped(lambda name, signal: torch.full_like(signal, 1 / N), given()) | {"size": torch.ones(B, N)}
    reduction = method(k, equal)
    assert torch.equal(reduction.matrix(), method(k, equal).matrix())
    skip(NOT_LOWEST, method)
    if isinstance(reduction, Kept):
        assert reduction.order.tolist() == B * [list(range(k))]


@pytest.mark.parametrize("k", [3, 11])
def test_a_row_alone_is_as_in_its_batch(method, k):
    first = mapped(lambda name, signal: signal[:1], given())
    assert torch.equal(method(k, first).matrix(), method(k).matrix()[:1])


def compiled_in_one_piece(slug: str) -> float:
    """How far what a method returns, compiled, is from what it returns otherwise."""
    method, signals = Method(slug), given()
    compiled = torch.compile(lambda: method(11, signals).apply(signals["x"]), fullgraph=True, backend="eager")
    return float((compiled() - method(11).apply(signals["x"])).abs().max())


def test_what_it_makes_lies_where_the_tokens_lie(method):
    # Whatever is made without a device would now be made elsewhere, and could not meet the tokens.
    signals, y = given(), torch.randn(B, 5, C)
    with torch.device("meta"):
        reduction = method(5, signals)
        for made in (reduction.matrix(), reduction.order, reduction.apply(signals["x"]), reduction.restore(y)):
            assert made.device.type == "cpu"
        assert reduction.sizes(signals["size"]).device.type == "cpu"
        assert reduction.beside(1, 2).matrix().device.type == "cpu"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [3, 11])
def test_half_precision_decides_as_float32_does(method, k, kind):
    half = mapped(lambda name, signal: signal.to(kind) if signal.is_floating_point() else signal, given())
    full = mapped(lambda name, signal: signal.float() if signal.is_floating_point() else signal, half)
    reduction = method(k, half)
    torch.testing.assert_close(reduction.matrix().float(), method(k, full).matrix(), atol=1e-2, rtol=0)
    y = reduction.apply(half["x"])
    assert y.dtype == kind
    torch.testing.assert_close(y.float(), reduction.matrix().float() @ full["x"], atol=0.05, rtol=0.01)


def test_gradients_pass_to_the_tokens_that_were_used(method):
    reduction, x = method(5), given()["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(reduction.apply(x).sum(), x)
    torch.testing.assert_close(gradient, reduction.matrix().sum(1)[..., None].expand_as(x), atol=1e-5, rtol=0)


def test_the_batch_may_be_empty_and_the_token_alone(method):
    empty = mapped(lambda name, signal: signal[:0], given())
    assert method(5, empty).apply(empty["x"]).shape == (0, 5, C)

    def alone(name, signal):
        for dimension in TOKENS[name]:
            signal = signal.narrow(dimension, 0, 1)
        return signal[:, :, N - 1 :] if name == "paid" else signal  # the token and five words pay

    one = mapped(alone, given()) | {"grid": (1, 1), "frames": 1, "pictures": 1, "crops": (0, 0)}
    assert torch.equal(method(1, one).matrix(), torch.ones(B, 1, 1))


@pytest.mark.parametrize(
    ("k", "bad", "message"),
    [
        (0, lambda x: x, "k=0 came, expected a whole number from 1 to"),
        (N + 1, lambda x: x, "k=17 came, expected a whole number from 1 to"),
        (2.5, lambda x: x, "k=2.5 came"),
        (5, lambda x: x[0], "x of shape"),
        (5, lambda x: x.long(), "x of type torch.int64 came, expected floating point"),
        (5, lambda x: x.masked_fill(torch.arange(N)[:, None] == 7, torch.nan), "x holds NaN or infinity"),
        (5, lambda x: x / 0, "x holds NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_tokens_are_refused(method, k, bad, message):
    with pytest.raises(ValueError, match=message):
        method(k, x=bad(given()["x"]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_the_budget_may_be_a_number_of_numpy_or_of_a_tensor(method, number):
    assert torch.equal(method(number(5)).matrix(), method(5).matrix())
    with pytest.raises(ValueError, match="k=True came, expected a whole number from 1 to the 16 tokens of x"):
        method(np.bool_(True))


@pytest.mark.usefixtures("unchecked")
def test_bad_signals_are_refused(method):
    for name in method.names:
        if name in TOKENS and name != "x":
            signal = given()[name]
            for bad in (
                signal[..., :-1, :] if name in ("keys", "neurons", "outputs") else signal[..., :-1],
                signal[:-1],
                signal / 0,
            ):
                with pytest.raises(ValueError, match=f"^{name} "):
                    method(5, **{name: bad})


X = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, 4.0], [8.0, 8.0]]])
FORMS = {
    "keep": lambda: Reduction.keep(torch.tensor([[0, 2], [3, 1]]), 4),
    "merge": lambda: Reduction.merge(torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0]]), 2),
    "weighed merge": lambda: Reduction.merge(torch.tensor([[0, 1, 0, -1], [1, 1, -1, 0]]), 2, torch.rand(2, 4) + 0.1),
    "blend": lambda: Reduction.blend(torch.rand(2, 2, 4)),
}


def test_pruning_by_hand():
    reduction = Reduction.keep(torch.tensor([[1, 3]]), n=4)
    assert reduction.apply(X).tolist() == [[[3.0, 2.0], [8.0, 8.0]]]
    assert reduction.matrix().tolist() == [[[0, 1, 0, 0], [0, 0, 0, 1]]]
    assert reduction.restore(reduction.apply(X)).tolist() == [[[0, 0], [3, 2], [0, 0], [8, 8]]]
    assert reduction.sizes(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[2, 4]]
    assert reduction.order.tolist() == [[1, 3]]


def test_merging_by_hand():
    assignment, weights = torch.tensor([[1, 0, 1, -1]]), torch.tensor([[3.0, 2.0, 1.0, 5.0]])
    reduction = Reduction.merge(assignment, 2, weights)
    assert reduction.apply(X).tolist() == [[[3.0, 2.0], [2.0, 1.0]]]
    assert reduction.matrix().tolist() == [[[0, 1, 0, 0], [0.75, 0, 0.25, 0]]]
    assert reduction.restore(reduction.apply(X)).tolist() == [[[2, 1], [3, 2], [2, 1], [0, 0]]]
    assert reduction.sizes(weights).tolist() == [[2, 4]]
    assert reduction.order.tolist() == [[1, 0]]
    alike = Reduction.merge(assignment, 2)
    assert alike.apply(X).tolist() == [[[3.0, 2.0], [3.0, 2.0]]]
    # A token without weight gives nothing, but is stood for.
    silent = Reduction.merge(torch.tensor([[0, 0, 1, 1]]), 2, torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
    assert silent.apply(X)[0, 0].tolist() == [3.0, 2.0]
    assert silent.sizes(torch.ones(1, 4)).tolist() == [[2, 2]]
    assert silent.restore(silent.apply(X))[0, 0].tolist() == [3.0, 2.0]


def test_blending_by_hand():
    reduction = Reduction.blend(torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0]]]))
    assert reduction.matrix().tolist() == [[[0.5, 0.5, 0, 0], [0, 0.75, 0.25, 0]]]
    assert reduction.apply(X).tolist() == [[[2.0, 1.0], [3.5, 2.5]]]
    # Of token 1 there is 0.5 in the first output and 0.75 in the second: shares 0.4 and 0.6.
    expected = torch.tensor([[[2.0, 1.0], [0.4 * 2 + 0.6 * 3.5, 0.4 + 0.6 * 2.5], [3.5, 2.5], [0.0, 0.0]]])
    torch.testing.assert_close(reduction.restore(reduction.apply(X)), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(reduction.sizes(torch.ones(1, 4)), torch.tensor([[1.4, 1.6]]), atol=1e-6, rtol=0)
    assert reduction.order.tolist() == [[0, 1]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 2), (2, 3), (0, 0)])
def test_tokens_beside_a_reduction_stay_as_they_are(form, before, after):
    inner, x = FORMS[form](), torch.randn(2, before + 4 + after, 3)
    outer, middle = inner.beside(before, after), slice(before, before + 4)
    assert outer.shape == (2, before + 2 + after, before + 4 + after)
    expected = torch.cat([x[:, :before], inner.apply(x[:, middle]), x[:, before + 4 :]], dim=1)
    torch.testing.assert_close(outer.apply(x), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(outer.matrix() @ x, expected, atol=1e-6, rtol=0)
    size = torch.rand(2, before + 4 + after)
    parts = [size[:, :before], inner.sizes(size[:, middle]), size[:, before + 4 :]]
    torch.testing.assert_close(outer.sizes(size), torch.cat(parts, dim=1), atol=1e-6, rtol=0)
    back = outer.restore(expected)
    torch.testing.assert_close(back[:, middle], inner.restore(expected[:, before : before + 2]), atol=1e-6, rtol=0)
    torch.testing.assert_close(back[:, :before], x[:, :before], atol=0, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_cheap_forms_are_their_matrices(form):
    reduction = FORMS[form]()
    x, size, dense = torch.randn(2, 4, 3), torch.rand(2, 4), Reduction.blend(reduction.matrix())
    torch.testing.assert_close(reduction.apply(x), dense.apply(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(reduction.sizes(size), dense.sizes(size), atol=1e-6, rtol=0)
    torch.testing.assert_close(reduction.restore(x[:, :2]), dense.restore(x[:, :2]), atol=1e-6, rtol=0)
    assert reduction.apply(x.bfloat16()).dtype == torch.bfloat16
    assert reduction.sizes(size.bfloat16()).dtype == torch.bfloat16
    assert reduction.restore(x[:, :2].double()).dtype == torch.float64


def test_large_clusters_lose_nothing_in_half_precision():
    merged = Reduction.merge(torch.zeros(1, 1000, dtype=torch.long), 1)
    assert merged.apply(torch.ones(1, 1000, 1, dtype=torch.bfloat16)).item() == 1
    assert merged.sizes(torch.ones(1, 1000, dtype=torch.bfloat16)).item() == 1000


def test_the_highest_are_those_of_a_plain_sort():
    scores = torch.randint(0, 5, (4, 30)).float()
    for row, found in zip(scores.tolist(), highest(scores, 7).tolist(), strict=True):
        assert found == sorted(sorted(range(30), key=lambda i: (-row[i], i))[:7])


def test_clusters_are_numbered_by_their_first_tokens():
    labels = torch.tensor([[4, -1, 0, 4, 3, 1, 2, 0], [0, 1, 2, 3, 4, -1, -1, 0]])
    assert ascending(labels, 5).tolist() == [[0, -1, 1, 0, 2, 3, 4, 1], [0, 1, 2, 3, 4, -1, -1, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Reduction.keep(torch.tensor([[0, 0]]), 4), "indices name a token twice"),
        (lambda: Reduction.keep(torch.tensor([[0, 4]]), 4), "indices from 0 to 4 came, expected 0 to 3"),
        (lambda: Reduction.keep(torch.tensor([0, 4]), 4), "indices of shape"),
        (lambda: Reduction.keep(torch.tensor([[0.0]]), 4), "indices of type"),
        (lambda: Reduction.merge(torch.tensor([[0, 2]]), 2), "assignment from 0 to 2 came, expected -1 to 1"),
        (lambda: Reduction.merge(torch.tensor([[0, 0]]), 2), "weights leave an output empty"),
        (lambda: Reduction.merge(torch.tensor([[0, 1]]), 2, torch.tensor([[1.0, 0.0]])), "leave an output empty"),
        (lambda: Reduction.merge(torch.tensor([[0, 0]]), 1, torch.tensor([[2.0, -1.0]])), "weights down to -1 came"),
        (lambda: Reduction.merge(torch.tensor([[0, 1]]), 2, torch.ones(1, 3)), r"shape \(1, 3\) came, expected \(1, 2"),
        (lambda: Reduction.blend(torch.tensor([[[1.0, -0.5]]])), "weights down to -0.5 came"),
        (lambda: Reduction.blend(torch.zeros(1, 1, 2)), "leave an output empty"),
        (lambda: Reduction.blend(torch.full((1, 1, 2), torch.nan)), "weights holds NaN"),
        (lambda: FORMS["keep"]().apply(torch.ones(2, 5, 1)), r"x of shape \(2, 5, 1\) came, expected \(2, 4, c\)"),
        (lambda: FORMS["merge"]().apply(torch.ones(1, 4, 1)), r"x of shape \(1, 4, 1\) came"),
        (lambda: FORMS["blend"]().restore(torch.ones(2, 4, 1)), r"y of shape \(2, 4, 1\) came, expected \(2, 2, c\)"),
        (lambda: FORMS["merge"]().sizes(torch.ones(2, 2)), "size of shape"),
        (lambda: highest(torch.ones(1, 3), 4), "k=4 came, expected a whole number from 1 to the 3 tokens"),
        (lambda: highest(torch.full((1, 3), torch.inf), 1), "scores holds NaN or infinity"),
        (lambda: ascending(torch.tensor([[0, 0]]), 2), "empty"),
        (lambda: even(16, 17, 2), "k=17 came"),
        (lambda: check_signal("grid", torch.ones(2, 3), (2, None, 3)), r"\(2, 3\) came, expected \(2, any, 3\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_reduction_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def network() -> Transformer:
    return Transformer(Shape(width=8, layers=4, heads=2, pairing=None)).eval().requires_grad_(False)


def record(seen, reduction):
    """A method that writes down what it is given."""

    def method(x, k, *, keys, attention, cls_attention, paid, size):
        signals = {"keys": keys, "attention": attention, "cls": cls_attention, "paid": paid, "size": size}
        seen.append({"x": x, "k": k, **signals})
        return reduction(x, k)

    return method


def first_ones(x, k):
    return Reduction.keep(torch.arange(k).expand(len(x), k), x.shape[1])


def into_one(x, k):
    return Reduction.merge(torch.arange(x.shape[1]).clamp(max=k - 1).expand(len(x), -1), k)


def test_a_method_gets_what_it_asks_for_without_the_first_token(network):
    x, seen, layers = torch.randn(2, 10, 8), [], []
    network(x, "full", on_layer=layers.append)
    network(x, "full", on_layer=once(2, 4, record(seen, first_ones)))
    (found,), layer = seen, layers[2]
    assert found["k"] == 4
    torch.testing.assert_close(found["x"], layer.hidden[:, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["keys"], layer.keys[:, :, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["attention"], layer.attention[:, :, 1:, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["cls"], layer.attention[:, :, 0, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["paid"], layer.attention[:, :, 1:, 1:], atol=1e-6, rtol=0)
    assert torch.equal(found["size"], torch.ones(2, 9))


@pytest.mark.parametrize(("first", "after"), [(0, 3), (2, 3), (1, 0)])
def test_words_after_the_tokens_stay_and_their_payments_are_told(network, first, after):
    x, seen, layers = torch.randn(2, first + 6 + after, 8), [], []
    network(x, "causal", on_layer=layers.append)
    y = network(x, "causal", on_layer=once(2, 4, record(seen, first_ones), first, after))
    (found,), layer, end = seen, layers[2], first + 6
    assert y.shape == (2, first + 4 + after, 8)
    torch.testing.assert_close(found["x"], layer.hidden[:, first:end], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["keys"], layer.keys[:, :, first:end], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["attention"], layer.attention[:, :, first:end, first:end], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["paid"], layer.attention[:, :, first:, first:end], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["cls"], layer.attention[:, :, 0, first:end], atol=1e-6, rtol=0)
    assert found["size"].shape == (2, 6)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_tokens_go_away_by_the_schedule_and_the_first_stay(network, first):
    x, seen = torch.randn(2, first + 12, 8), []
    y = network(x, "full", on_layer=spread({0: 9, 2: 3}, record(seen, into_one), first=first))
    assert y.shape == (2, first + 3, 8)
    assert [(found["x"].shape[1], found["k"]) for found in seen] == [(12, 9), (9, 3)]
    assert seen[1]["size"].tolist() == 2 * [8 * [1.0] + [4.0]]
    whole = network(x, "full", on_layer=spread({}, record(seen, into_one), first=first))
    torch.testing.assert_close(whole, network(x, "full"), atol=1e-5, rtol=0)


def test_a_method_without_signals_gets_none(network):
    assert network(torch.randn(2, 10, 8), "full", on_layer=once(3, 4, first_ones)).shape == (2, 5, 8)


def test_more_tokens_than_are_left_are_refused(network):
    on_layer = spread({0: 5, 1: 7}, Method("tome").function)
    with pytest.raises(ValueError, match="k=7 came"):
        network(torch.randn(2, 10, 8), "full", on_layer=on_layer)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_resumed_network_gives_the_logits_of_the_whole_one(layer):
    vit, images = (
        ViT(Shape(width=16, layers=4, heads=2), size=16).eval().requires_grad_(False),
        torch.rand(35, 3, 16, 16),
    )
    logits = resume(vit, images, layer)
    for on_layer in (once(layer, 5, first_ones), spread({3: 9}, Method("tome").function), lambda seen: None):
        torch.testing.assert_close(logits(on_layer), vit(images, on_layer), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="layer=4 came, expected 0 to 3"):
        resume(vit, images, 4)


@pytest.mark.parametrize(("n", "k", "layers"), [(256, 64, 8), (256, 1, 7), (10, 10, 3), (7, 3, 12)])
def test_an_even_schedule_takes_away_the_same_in_each_layer(n, k, layers):
    counts = [n, *even(n, k, layers).values()]
    steps = [before - after for before, after in itertools.pairwise(counts)]
    assert list(even(n, k, layers)) == list(range(layers))
    assert counts[-1] == k
    assert max(steps) - min(steps) <= 1


def test_the_cost_is_that_of_the_tokens_in_each_layer(network):
    def layer(n, k):
        return 2 * n * 8 * 8 * 4 + 2 * 2 * n * n * 8 + 3 * 2 * k * 8 * (8 * 8 // 3)

    assert cost(network, {}, n=12) == 4 * layer(13, 13)
    assert cost(network, {1: 6, 2: 3}, n=12) == layer(13, 13) + layer(13, 7) + layer(7, 4) + layer(4, 4)
    assert cost(network, {0: 6}, n=12, first=2) == layer(14, 8) + 3 * layer(8, 8)


@pytest.mark.parametrize("sizes", [{}, {"kv_heads": 1, "hidden": 40}, {"width": 12, "heads": 3, "pairing": "half"}])
@pytest.mark.parametrize("schedule", [{}, {0: 5, 2: 3}])
def test_the_cost_is_what_is_counted_while_it_runs(sizes, schedule):
    body = Transformer(Shape(**{"width": 8, "layers": 4, "heads": 2} | sizes))
    method = spread(schedule, lambda x, k: Reduction.keep(torch.arange(k)[None], x.shape[1]))
    counted = flops(lambda: body(torch.zeros(1, 13, body.shape.width), "full", on_layer=method))
    turning = counted - flops(lambda: body(torch.zeros(1, 13, body.shape.width), "full")) if not schedule else 0
    assert turning == 0  # looking costs nothing, as nobody writes attention out
    assert cost(body, schedule, n=12) == counted


def test_a_layer_writes_its_attention_out_only_for_methods_that_ask(network, monkeypatch):
    calls, weights = [], Attention.weights
    monkeypatch.setattr(Attention, "weights", lambda *given: calls.append(1) or weights(*given))
    x = torch.randn(1, 13, 8)
    network(x, "full", on_layer=once(1, 5, lambda x, k, *, keys, size: first_ones(x, k)))
    assert calls == []
    network(x, "full", on_layer=once(1, 5, lambda x, k, *, cls_attention: first_ones(x, k)))
    assert calls == [1]


def test_a_value_that_is_no_number_goes_back_to_its_own_place_only():
    kept, y = Reduction.keep(torch.tensor([[2, 0]]), 4), torch.tensor([[[torch.nan], [5.0]]])
    assert kept.restore(y)[0, [0, 1, 3], 0].tolist() == [5.0, 0.0, 0.0]
    assert kept.sizes(torch.tensor([[1.0, torch.inf, 3.0, 4.0]])).tolist() == [[3.0, 1.0]]


def test_the_common_part_offers_what_methods_need():
    assert all(hasattr(_common, name) for name in _common.__all__)


def test_the_tokens_of_a_model_of_hugging_faces_are_merged_between_two_layers():
    transformers = pytest.importorskip("transformers", reason="the extra models is not installed")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    method = importlib.import_module("minitok.reduce.tome").tome
    model.layers[0].register_forward_hook(lambda layer, given, x: method(x[:, 1:], 5).beside(1).apply(x))
    assert model(pixel_values=torch.rand(2, 3, 32, 32)).last_hidden_state.shape == (2, 6, 32)
