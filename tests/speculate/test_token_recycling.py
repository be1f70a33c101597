import itertools

import pytest
import torch
from torch import nn

from minitok.nn import Shape, Transformer
from minitok.speculate import _tree
from minitok.speculate._tree import Tree, TreeCached, ancestors, decode_tree, walk
from minitok.speculate.token_recycling import CHILDREN, TokenRecycling, fill, recycle, template


class Model(nn.Module):
    """A small causal model that takes masks, positions and a cache."""

    def __init__(self, v=13, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.code, self.body = nn.Embedding(v, 16), Transformer(Shape(width=16, layers=2, heads=2, kv_heads=1))
        for weight in self.body.parameters():
            nn.init.normal_(weight, std=0.4)

    def forward(self, tokens, mask="causal", *, positions=None, cache=None):
        return self.body(self.code(tokens), mask, positions=positions, cache=cache) @ self.code.weight.T


def chain(following):
    """A target that wants after each token the one that `following` names, then the next ones in turn."""

    def target(context, tree):
        row = [int(context[-1]), *tree.tokens.tolist()]
        v = len(following)
        return torch.stack([-torch.arange(v).roll(following[token]).float() for token in row])

    return target


def paths(tree):
    """The tokens from below the root to each node, the root's own path being empty."""
    found = [()]
    for token, parent in zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True):
        found.append((*found[parent], token))
    return found


def plain_greedy(model, context, n):
    tokens = context.tolist()
    for _ in range(n):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(context) :]


class Anything:
    """A drafter of random trees, which learns nothing."""

    def __init__(self, v, nodes, seed=0):
        self.v, self.nodes, self.draw = v, nodes, torch.Generator().manual_seed(seed)

    def draft(self, context, depth):
        tokens, parents, depths = [], [], [0]
        for node in range(self.nodes):
            parent = int(torch.randint(node + 1, (), generator=self.draw))
            depths.append(depths[parent] + 1)
            parents.append(parent)
            tokens.append(int(torch.randint(self.v, (), generator=self.draw)))
        # Nodes too deep hang below the root instead: parents still come first.
        parents = [0 if depths[i + 1] > depth else parent for i, parent in enumerate(parents)]
        return Tree(torch.tensor(tokens).long(), torch.tensor(parents).long()) if depth else NOTHING

    def learn(self, row, logits, path):
        assert len(row) == len(logits)


NOTHING = Tree(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def test_two_calls_by_hand():
    # After 0 the target wants 1, after 1: 2, after 2: 3, after 3: 0, and then the next numbers.
    target, drafter = chain([1, 2, 3, 0]), TokenRecycling(4, k=2, children=(2, 1, 1, 1))
    seen = []
    decoded = decode_tree(
        target, drafter, torch.tensor([0]), 6, watch=lambda c, tree, path: seen.append((paths(tree), path.tolist()))
    )
    assert decoded.tokens.tolist() == [1, 2, 3, 0, 1, 2]
    # Nothing is known of 0, then of 1 and of 2, so the first four calls draft nothing. At the second 0 the matrix
    # gives 1 and 2 below it, below these 2 and 3, and 3 below the first; one token is left, so the tree is cut.
    assert seen[:4] == [([()], [0])] * 4
    assert seen[4] == ([(), (1,), (2,)], [0, 1])
    assert (decoded.kept, decoded.drafted) == ((0, 0, 0, 0, 1), (0, 0, 0, 0, 2))
    assert drafter.matrix.tolist() == [[1, 2], [2, 3], [3, 0], [0, 1]]
    again = decode_tree(target, drafter, torch.tensor([0]), 6, watch=lambda c, tree, path: seen.append(paths(tree)))
    assert seen[5] == [(), (1,), (2,), (1, 2), (2, 3), (1, 2, 3)]
    assert again.tokens.tolist() == decoded.tokens.tolist()
    assert again.kept == (3, 1)


def test_the_template_is_the_papers():
    shape = template()
    assert shape.depths.bincount().tolist() == [0, 8, 21, 25, 15, 8, 3]
    ranks = set(paths(Tree(shape.ranks, shape.parents)))
    assert len(ranks) == 81
    for path in ((7, 0), (1, 3), (0, 7, 0), (0, 2, 1), (5, 0, 0), (0, 0, 4, 0), (1, 0, 0, 0, 0), (0, 0, 0, 1, 0, 0)):
        assert path in ranks
    for path in ((8,), (1, 4), (6, 0, 0), (4, 0, 0, 0), (0, 2, 0, 0, 0), (0,) * 7):
        assert path not in ranks
    # A node is there only if its parent and its sisters of lower rank are.
    assert all(path[:-1] in ranks and (path[-1] == 0 or (*path[:-1], path[-1] - 1) in ranks) for path in ranks if path)


# How many nodes hang below which node of the paper's tree, a node being written as the ranks on the way to it.
WIDTHS = {"": 8, "0": 8, "1": 4, "2": 3, "3": 2, "4": 1, "5": 1, "6": 1, "7": 1}
WIDTHS |= {"00": 8, "01": 3, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1, "07": 1}
WIDTHS |= {"10": 2, "11": 1, "20": 1, "30": 1, "40": 1, "50": 1}
WIDTHS |= {"000": 5, "001": 2, "002": 1, "003": 1, "004": 1, "010": 1, "020": 1, "100": 1, "200": 1, "300": 1}
WIDTHS |= {"0000": 3, "0001": 1, "0002": 1, "0010": 1, "0100": 1, "1000": 1, "00000": 2, "00010": 1}


def test_every_node_of_the_papers_tree_is_in_its_place():
    expected = sorted((f"{above}{rank}" for above, count in WIDTHS.items() for rank in range(count)), key=len)
    found = ["".join(map(str, path)) for path in paths(Tree(template().ranks, template().parents))[1:]]
    assert len(found) == 80
    assert set(found) == set(expected)
    assert found == sorted(found, key=lambda path: (len(path), path))


@pytest.mark.parametrize("children", [(), (0,), (1,), (3,), (2, 0, 4), (1, 1, 1, 1, 1), CHILDREN])
@pytest.mark.parametrize("depth", [0, 1, 3, None])
def test_a_tree_is_filled_as_by_recursion(children, depth):
    v, k = 30, 8
    matrix = torch.stack([torch.randperm(v)[:k] for _ in range(v)])
    matrix[torch.randperm(v)[:12]] = -1
    shape = template(children)
    expected, by_rank = [], {(): (5,)}
    for ranks in paths(Tree(shape.ranks, shape.parents))[1:]:
        above = by_rank.get(ranks[:-1])
        if above is not None and (depth is None or len(ranks) <= depth) and matrix[above[-1], ranks[-1]] >= 0:
            by_rank[ranks] = (*above, int(matrix[above[-1], ranks[-1]]))
            expected.append(by_rank[ranks][1:])
    assert paths(fill(matrix, 5, shape, depth))[1:] == expected


@pytest.mark.parametrize("nodes", [0, 1, 2, 40])
def test_ancestors_are_those_of_a_plain_loop(nodes):
    parents = torch.tensor([int(torch.randint(i + 1, ())) for i in range(nodes)]).long()
    seen = ancestors(parents)
    for place in range(nodes + 1):
        above, at = {place}, place
        while at:
            at = int(parents[at - 1])
            above.add(at)
        assert set(seen[place].nonzero().flatten().tolist()) == above


@pytest.mark.parametrize("nodes", [0, 1, 7, 40])
@torch.no_grad()
@pytest.mark.usefixtures("unchecked")
def test_a_branch_gives_the_logits_of_every_path_alone(nodes):
    model, context, drafter = Model(), torch.tensor([3, 1, 4, 1, 5]), Anything(13, nodes)
    target = TreeCached(model)
    for step in range(4):
        tree = drafter.draft(context, 9)
        logits = target.branch(context, tree)
        for path, row in zip(paths(tree), logits, strict=True):
            whole = torch.cat([context, torch.tensor(path).long()])
            torch.testing.assert_close(row, model(whole[None])[0, -1], atol=1e-4, rtol=1e-4)
        # The next context goes down the tree, then off it.
        longest = max(paths(tree), key=len)
        context = torch.cat([context, torch.tensor([*longest, step]).long()])
    assert target.calls == 4
    assert len(target.cache) == len(target.held) + len(tree.tokens)


@torch.no_grad()
def test_only_what_is_new_is_computed():
    model, sizes = Model(), []

    def counting(new, mask="causal", **how):
        sizes.append(new.shape[1])
        return model(new, mask, **how)

    target, tree = TreeCached(counting), Tree(torch.tensor([7, 8, 9]), torch.tensor([0, 0, 2]))
    target.branch(torch.tensor([1, 2, 3]), tree)
    target.branch(torch.tensor([1, 2, 3, 8, 9, 5]), tree)  # 8 and 9 came true and are in the cache
    target.branch(torch.tensor([1, 2, 3, 8, 9, 5, 9]), NOTHING)  # 9 is no child of the root
    target.branch(torch.tensor([1, 2, 6]), NOTHING)  # another text
    target.branch(torch.tensor([1, 2, 6]), NOTHING)  # the last token is asked again
    assert sizes == [6, 4, 1, 1, 1]


@torch.no_grad()
def test_an_interrupted_call_does_no_harm():
    model, context, stop = Model(), torch.tensor([1, 2, 3]), [False]

    def forward(new, mask="causal", **how):
        logits = model(new, mask, **how)
        if stop[0]:
            raise KeyboardInterrupt
        return logits

    target = TreeCached(forward)
    target.branch(context, NOTHING)
    stop[0] = True
    with pytest.raises(KeyboardInterrupt):
        target.branch(torch.tensor([1, 2, 3, 4, 5]), NOTHING)
    stop[0] = False
    logits = target.branch(torch.tensor([1, 2, 3, 4]), NOTHING)
    torch.testing.assert_close(logits[0], model(torch.tensor([[1, 2, 3, 4]]))[0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (1, 1), (2, 0), (3, 1), (40, 0), (15, 1)])
@torch.no_grad()
@pytest.mark.usefixtures("unchecked")
def test_greedy_text_is_that_of_a_plain_loop_whatever_is_drafted(n, seed):
    model, context = Model(seed=seed), torch.tensor([3, 1, 4])
    expected = plain_greedy(model, context, n)
    drafters = {
        "paper": TokenRecycling(13),
        "narrow": TokenRecycling(13, k=1, children=(1, 1)),
        "none": TokenRecycling(13, children=()),
        "random": Anything(13, 12, seed),
        "again": (again := TokenRecycling(13)),
    }
    decode_tree(TreeCached(model).branch, again, torch.tensor([5]), 30)
    for name, drafter in drafters.items():
        decoded = decode_tree(TreeCached(model).branch, drafter, context, n)
        assert decoded.tokens.tolist() == expected, name
        assert decoded.calls + sum(decoded.kept) == n
        assert all(kept <= drafted for kept, drafted in zip(decoded.kept, decoded.drafted, strict=True))
        assert name != "none" or decoded.calls == n


def law(tokens, logits_of):
    """The probability of a text, token by token."""
    total = 1.0
    for i, token in enumerate(tokens):
        total *= float(logits_of((0, *tokens[:i])).double().softmax(-1)[token])
    return total


@pytest.mark.parametrize(("v", "n", "children"), [(2, 4, (2, 1, 1)), (3, 3, (2, 2, 1)), (3, 3, (1, 1)), (2, 3, ())])
def test_sampled_texts_have_the_law_of_the_target(v, n, children, monkeypatch):
    """Every outcome of every draw is gone through, and its weight is added up."""
    numbers = torch.randn((v + 1) ** 2, v)

    def logits_of(text):
        seen = [v, v, *text]
        return numbers[seen[-2] * (v + 1) + seen[-1]]

    def target(context, tree):
        return torch.stack([logits_of((*context.tolist(), *path)) for path in paths(tree)])

    found = dict.fromkeys(itertools.product(range(v), repeat=n), 0.0)
    for draws in itertools.product(range(v), repeat=n):
        rest, weight = iter(draws), [1.0]

        def pick(p, generator=None, rest=rest, weight=weight):
            token = next(rest)
            weight[0] *= float(p[token])
            return token

        monkeypatch.setattr(_tree, "pick", pick)
        drafter = TokenRecycling(v, k=2, children=children)
        recycle(drafter.matrix, torch.arange(v), torch.randn(v, v))
        decoded = decode_tree(target, drafter, torch.tensor([0]), n, temperature=1.0)
        found[tuple(decoded.tokens.tolist())] += weight[0]
    for tokens, weight in found.items():
        assert weight == pytest.approx(law(tokens, logits_of), abs=1e-12)


def test_the_seed_decides_a_sampled_text_and_the_temperature_its_spread():
    model, context = Model(), torch.tensor([3, 1, 4])

    def text(temperature, seed):
        generator = torch.Generator().manual_seed(seed)
        drafter = TokenRecycling(13)
        how = {"temperature": temperature, "generator": generator}
        return decode_tree(TreeCached(model).branch, drafter, context, 30, **how).tokens.tolist()

    assert text(1, 0) == text(1, 0) != text(1, 1)
    assert text(1e-4, 0) == text(0, 1) == text(0, 2)


def test_the_k_likeliest_are_kept_and_of_equal_tokens_the_last():
    matrix = torch.full((5, 2), -1)
    logits = torch.tensor([[0, 1, 2, 3, 4], [9, 0, 0, 8, 0], [0, 0, 7, 0, 6], [5, 6, 0, 0, 0]]).float()
    recycle(matrix, torch.tensor([4, 2, 4, 0]), logits)
    assert matrix.tolist() == [[1, 0], [-1, -1], [0, 3], [-1, -1], [2, 4]]
    recycle(matrix, torch.tensor([], dtype=torch.long), torch.zeros(0, 5))
    assert matrix.tolist() == [[1, 0], [-1, -1], [0, 3], [-1, -1], [2, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("v", "k"), [(1, 1), (9, 1), (9, 4), (9, 9)])
def test_rows_are_those_of_a_sorted_list(v, k, dtype):
    matrix, tokens = torch.full((v, k), -1), torch.randint(v, (20,))
    # Whole numbers without ties, exact in both types.
    logits = torch.stack([torch.randperm(v) for _ in tokens]).to(dtype)
    expected = matrix.tolist()
    for token, row in zip(tokens.tolist(), logits.tolist(), strict=True):
        expected[token] = sorted(range(v), key=lambda i: -row[i])[:k]
    recycle(matrix, tokens, logits)
    assert matrix.tolist() == expected


def test_nodes_that_were_not_kept_are_recycled_too():
    target, drafter = chain([1, 2, 0, 0]), TokenRecycling(4, k=2, children=(2,))
    recycle(drafter.matrix, torch.tensor([0]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
    decode_tree(target, drafter, torch.tensor([0]), 2)
    # 0 drafted 3 and 2, neither came true; both were read by the target, and so their rows are known now.
    assert drafter.matrix[2].tolist() == [0, 1]
    assert drafter.matrix[3].tolist() == [0, 1]


def test_the_matrix_holds_v_times_k_numbers_and_lasts():
    drafter, model, context = TokenRecycling(13, k=5, children=(5, 3, 1)), Model(), torch.tensor([3, 1, 4])
    assert drafter.matrix.shape == (13, 5)
    assert (drafter.matrix == -1).all()
    first = decode_tree(TreeCached(model).branch, drafter, context, 40)
    again = decode_tree(TreeCached(model).branch, drafter, context, 40)
    assert torch.equal(first.tokens, again.tokens)
    assert again.calls < first.calls < 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenRecycling(5, k=6, children=()), "k=6 came, expected 1 to the v=5 tokens"),
        (lambda: TokenRecycling(5, k=0, children=()), "k=0 came"),
        (lambda: TokenRecycling(9, k=2, children=(3,)), "children has a node of 3 children, but the matrix keeps k=2"),
        (lambda: template((2, -1)), r"children\[1\]=-1 came"),
        (lambda: template((1, 0, 1)), r"children\[2\]=1 came, for a tree of 1 nodes so far"),
        (lambda: TokenRecycling(9).draft(torch.tensor([[1]]), 3), r"context of shape \(1, 1\) came, expected \(n,\)"),
        (lambda: TokenRecycling(9).draft(torch.tensor([1.0]), 3), "context of type torch.float32 came"),
        (lambda: TokenRecycling(9).draft(torch.tensor([2, 9]), 3), "context ends with token 9, expected 0 to 8"),
        (lambda: TokenRecycling(9).draft(torch.tensor([1]).long()[:0], 3), "context is empty"),
        (lambda: recycle(torch.zeros(4, 2).long(), torch.tensor([1]), torch.zeros(2, 4)), r"logits of shape \(2, 4\)"),
        (lambda: recycle(torch.zeros(4, 2).long(), torch.tensor([1]), torch.zeros(1, 5)), r"expected \(1, 4\)"),
        (lambda: recycle(torch.zeros(4, 2).long(), torch.tensor([4]), torch.zeros(1, 4)), "tokens from 4 to 4 came"),
        (lambda: ancestors(torch.tensor([0, 2])), r"parents\[1\]=2 came, expected 0 to 1"),
        (lambda: decode_tree(chain([0]), Anything(1, 1), torch.tensor([0]), -1), "n=-1 and a context of 1 tokens"),
        (lambda: decode_tree(chain([0]), Anything(1, 1), torch.zeros(0).long(), 3), "a context of 0 tokens"),
        (lambda: decode_tree(chain([0]), Anything(1, 1), torch.tensor([0]), 3, temperature=-1), "temperature=-1 came"),
        (
            lambda: decode_tree(chain([0]), Deep(), torch.tensor([0]), 2),
            "deeper than 1 levels, and only 2 tokens are left",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Deep(Anything):
    """Drafts two levels, whatever is asked for."""

    def __init__(self):
        super().__init__(1, 2)

    def draft(self, context, depth):
        return Tree(torch.zeros(2).long(), torch.tensor([0, 1]))


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(temperature, bad):
    def target(context, tree):
        logits = torch.zeros(1 + len(tree.tokens), 4)
        logits[-1, 2] = bad
        return logits

    with pytest.raises(ValueError, match=f"the highest of row 1 is {bad}"):
        decode_tree(target, Anything(4, 1), torch.tensor([0]), 5, temperature=temperature)
    memory = TokenRecycling(4, k=2, children=(2,))
    with pytest.raises(ValueError, match=f"the highest of row 0 is {bad}"):
        memory.learn(torch.tensor([0]), torch.full((1, 4), bad))
    assert (memory.matrix == -1).all()


def test_trees_are_made_where_the_tokens_are():
    # A device on which nothing can be computed stands in for the processor.
    model, memory, context = Model(), TokenRecycling(13, k=3, children=(3, 2, 1)), torch.tensor([3, 1, 4])
    target = TreeCached(model)
    with torch.device("meta"):
        decoded = decode_tree(target.branch, memory, context, 20)
    assert decoded.tokens.device == decoded.of_draft.device == memory.matrix.device == context.device
    assert decoded.tokens.tolist() == plain_greedy(model, context, 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_serve_as_well(dtype):
    target, memory = chain([1, 2, 3, 0]), TokenRecycling(4, k=2, children=(2, 1, 1, 1))
    narrow = decode_tree(lambda c, tree: target(c, tree).to(dtype), memory, torch.tensor([0]), 12)
    assert narrow.tokens.tolist() == [1, 2, 3, 0] * 3
    assert narrow.calls < 12


def test_walking_stops_where_no_child_has_the_token():
    tree = Tree(torch.tensor([7, 8, 7, 9]), torch.tensor([0, 0, 1, 3]))
    assert walk(tree, lambda place: [7, 7, 0, 3, 1][place])[0].tolist() == [0, 1, 3]
    assert walk(tree, lambda place: 5) == (torch.tensor([0]), 5)
    assert walk(NOTHING, lambda place: 5)[0].tolist() == [0]
